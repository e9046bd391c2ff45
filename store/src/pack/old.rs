//! The chunks from which an increment's patches are made, in the files that the increment changes on this server.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::FileExt,
};

use bellwether_proto::{
    entry::{EntryPath, Kind},
    hash::Hash,
    name::SetName,
};

use super::Patch;
use crate::{
    beneath::Root,
    scan::Source,
    tree::{Change, Node, Tree},
};

#[derive(Debug, Clone)]
struct Place {
    set: SetName,
    path: EntryPath,
    offset: u64,
    length: u32,
}

/// The places of the chunks of the parent's files at changed paths. A file may have been changed since, so each patched chunk
/// is checked.
#[derive(Debug, Default)]
pub struct OldChunks {
    sources: Vec<Source>,
    places: HashMap<Hash, Place>,
}

impl OldChunks {
    /// The places in the files of `parent` that `changes` replace.
    pub fn new(parent: &Tree, changes: &[Change], sources: &[Source]) -> Self {
        let mut places = HashMap::new();
        for Change { set, path, entry } in changes {
            let Some(Kind::File(new)) = entry.as_ref().map(|entry| &entry.kind) else { continue };
            let Some(Node::File { content, .. }) = parent.get(set, path) else { continue };
            let stay: HashSet<Hash> = new.chunks().iter().map(|chunk| chunk.hash).collect();
            let mut offset = 0;
            for chunk in content.chunks() {
                if !stay.contains(&chunk.hash) {
                    let place = Place { set: set.clone(), path: path.clone(), offset, length: chunk.length };
                    places.insert(chunk.hash, place);
                }
                offset += u64::from(chunk.length);
            }
        }
        Self { sources: sources.to_vec(), places }
    }

    /// The bytes of the chunk that a patch makes from this server's file; none if the file no longer has the old chunk.
    pub fn apply(&self, patch: &Patch) -> Option<bytes::Bytes> {
        let place = self.places.get(&patch.old)?;
        let source = self.sources.iter().find(|source| source.rules.name == place.set)?;
        let file = Root::open(&source.path).ok()?.file(&place.path).ok()?;
        file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let mut old = vec![0; place.length as usize];
        file.read_exact_at(&mut old, place.offset).ok()?;
        patch.apply(&old).ok()
    }
}
