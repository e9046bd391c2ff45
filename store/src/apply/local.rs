//! Chunks that this server's own files hold already.

use std::{collections::HashMap, fs::File, os::unix::fs::FileExt};

use bellwether_proto::{entry::EntryPath, hash::Hash, name::SetName};

use super::{Refused, Work};
use crate::{
    beneath::Root,
    scan::Source,
    tree::{Node, Tree},
};

/// A chunk in a live file.
struct Found {
    set: SetName,
    path: EntryPath,
    offset: u64,
    length: u32,
    hash: Hash,
}

/// Supplies what the live files at the changed paths hold.
pub(super) fn fill_in_place(work: &mut Work, live: &Tree) -> Result<(), Refused> {
    let mut found = Vec::new();
    for wanted in &work.journal.wanted {
        let set = &work.journal.sets[wanted.set].name;
        if let Some(node) = live.get(set, &wanted.path) {
            collect(work, set, &wanted.path, &node, &mut found);
        }
    }
    supply(work, &found)
}

/// Supplies what any live file holds.
pub(super) fn fill_from_all(work: &mut Work, live: &Tree) -> Result<(), Refused> {
    if work.staging.is_whole() {
        return Ok(());
    }
    let mut found = Vec::new();
    live.visit(&mut |set, path, node| collect(work, set, path, node, &mut found));
    supply(work, &found)
}

fn collect(work: &Work, set: &SetName, path: &EntryPath, node: &Node, found: &mut Vec<Found>) {
    let Node::File { content, .. } = node else { return };
    let mut offset = 0;
    for chunk in content.chunks() {
        if work.staging.wants(&chunk.hash) {
            let (hash, length) = (chunk.hash, chunk.length);
            found.push(Found { set: set.clone(), path: path.clone(), offset, length, hash });
        }
        offset += u64::from(chunk.length);
    }
}

/// Reads each chunk, and supplies it when it is still what it was.
fn supply(work: &mut Work, found: &[Found]) -> Result<(), Refused> {
    let mut roots: HashMap<SetName, Option<Root>> = HashMap::new();
    let mut open: Option<(&SetName, &EntryPath, File)> = None;
    let mut buffer = Vec::new();
    for Found { set, path, offset, length, hash } in found {
        if !work.staging.wants(hash) {
            continue;
        }
        let file = match open.take() {
            Some((open_set, open_path, file)) if (open_set, open_path) == (set, path) => file,
            _ => {
                let root = roots.entry(set.clone()).or_insert_with(|| root(&work.sources, set));
                // What cannot be read here comes over the network instead.
                let Some(file) = root.as_ref().and_then(|root| root.file(path).ok()) else { continue };
                file
            }
        };
        buffer.resize(*length as usize, 0);
        if file.read_exact_at(&mut buffer, *offset).is_ok() && Hash::of(&buffer) == *hash {
            work.supply(hash, &buffer)?;
        }
        open = Some((set, path, file));
    }
    Ok(())
}

fn root(sources: &[Source], set: &SetName) -> Option<Root> {
    let source = sources.iter().find(|source| source.rules.name == *set)?;
    Root::open(&source.path).ok()
}
