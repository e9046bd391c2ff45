//! Scans named paths only, for a one-line change in a large tree.

use std::{collections::BTreeMap, os::fd::AsFd, sync::Arc};

use bellwether_proto::entry::{EntryPath, Meta};
use rayon::prelude::*;
use rustix::fs::FileType;

use super::{
    Depth, ScanError,
    entry::{ScannedEntry, SetScan},
    walk::{self, Top, identical},
};
use crate::tree::{Dir, Edit, Node};

type Targets = BTreeMap<EntryPath, Depth>;

/// The sorted edits that bring the set's `known` root up to date at the `named` paths.
pub(super) fn edits(
    set: &SetScan<'_>,
    known: Option<&Arc<Dir>>,
    named: impl IntoIterator<Item = (EntryPath, Depth)>,
) -> Result<Vec<(EntryPath, Edit)>, ScanError> {
    let known = Known(known);
    let mut targets = Targets::new();
    for (path, depth) in named {
        let (path, depth) = known.unknown_above(&path).map_or((path, depth), |above| (above, Depth::All));
        // Known directories above are not excluded; a path that is excluded only as a directory has to be looked at.
        let excluded = |is_dir| !path.is_root() && set.excludes.excluded_itself(&path, is_dir);
        if !(excluded(true) && excluded(false)) {
            add(&mut targets, path, depth);
        }
    }
    loop {
        let mut looks = Looks::default();
        look(set, &known, cover(targets.clone()), &mut looks)?;
        if looks.higher.is_empty() {
            return looks.finish(set, &known);
        }
        for path in looks.higher {
            add(&mut targets, path, Depth::All);
        }
    }
}

fn add(targets: &mut Targets, path: EntryPath, depth: Depth) {
    let kept = targets.entry(path).or_insert(depth);
    *kept = depth.max(*kept);
}

/// Leaves out paths below one that is scanned whole.
fn cover(targets: Targets) -> Vec<(EntryPath, Depth)> {
    let mut covering: Option<EntryPath> = None;
    let mut kept = Vec::new();
    for (path, depth) in targets {
        if covering.as_ref().is_some_and(|above| path.is_within(above)) {
            continue;
        }
        if depth == Depth::All {
            covering = Some(path.clone());
        }
        kept.push((path, depth));
    }
    kept
}

/// The set as it was known.
struct Known<'a>(Option<&'a Arc<Dir>>);

impl Known<'_> {
    fn get(&self, path: &EntryPath) -> Option<Node> {
        let mut node = Node::Directory(self.0?.clone());
        for component in path.components() {
            node = node.directory()?.child(component)?.clone();
        }
        Some(node)
    }

    fn directory(&self, path: &EntryPath) -> Option<Arc<Dir>> {
        self.get(path)?.directory().cloned()
    }

    /// The topmost directory above `path` that was not known.
    fn unknown_above(&self, path: &EntryPath) -> Option<EntryPath> {
        let mut unknown = None;
        let mut above = path.split().map(|(directory, _)| directory);
        while let Some(directory) = above {
            if self.directory(&directory).is_some() {
                break;
            }
            above = directory.split().map(|(directory, _)| directory);
            unknown = Some(directory);
        }
        unknown
    }
}

#[derive(Default)]
struct Looks {
    edits: BTreeMap<EntryPath, Edit>,
    files: Vec<EntryPath>,
    whole: Vec<Top>,
    /// Directories that are gone, although something in them was to be scanned.
    higher: Vec<EntryPath>,
}

fn look(
    set: &SetScan<'_>,
    known: &Known<'_>,
    targets: Vec<(EntryPath, Depth)>,
    looks: &mut Looks,
) -> Result<(), ScanError> {
    let mut opened = None;
    for (path, depth) in targets {
        let Some((parent, name)) = path.split() else {
            looks.directory(set, known, path, depth)?;
            continue;
        };
        let directory = match opened.take() {
            Some((open, directory)) if open == parent => directory,
            _ => match set.root.directory(&parent) {
                Ok(directory) => directory,
                Err(error) => {
                    match set.unopened(&parent, error) {
                        Ok(()) => looks.higher.push(parent),
                        Err(why) => looks.put(known, parent.clone(), set.keep(&parent, why)?),
                    }
                    continue;
                }
            },
        };
        let before = known.get(&path);
        match set.look(directory.as_fd(), &path, name, FileType::Unknown, before.as_ref())? {
            ScannedEntry::Nothing => looks.put(known, path.clone(), None),
            ScannedEntry::Leaf(node) => looks.put(known, path.clone(), Some(node)),
            ScannedEntry::File => looks.files.push(path.clone()),
            ScannedEntry::Directory => looks.directory(set, known, path.clone(), depth)?,
        }
        opened = Some((parent, directory));
    }
    Ok(())
}

impl Looks {
    /// Notes the entry at a path if it differs from the known one.
    fn put(&mut self, known: &Known<'_>, path: EntryPath, now: Option<Node>) {
        let edit = match (known.get(&path), now) {
            (None, None) => return,
            (Some(_), None) => Edit::Remove,
            (Some(before), Some(now)) if identical(&before, &now) => return,
            (_, Some(now)) => Edit::Put(now),
        };
        self.edits.insert(path, edit);
    }

    fn directory(
        &mut self,
        set: &SetScan<'_>,
        known: &Known<'_>,
        path: EntryPath,
        depth: Depth,
    ) -> Result<(), ScanError> {
        let before = known.directory(&path);
        let Some(before) = before.as_ref().filter(|_| depth == Depth::Entry) else {
            self.whole.push(Top { path, known: before });
            return Ok(());
        };
        match meta(set, &path) {
            Ok(meta) if meta == *before.meta() => {}
            Ok(meta) => drop(self.edits.insert(path, Edit::Directory(meta))),
            Err(why) => self.put(known, path.clone(), set.keep(&path, why)?),
        }
        Ok(())
    }

    /// Reads the files that have to be read, and returns all edits.
    fn finish(mut self, set: &SetScan<'_>, known: &Known<'_>) -> Result<Vec<(EntryPath, Edit)>, ScanError> {
        let files = std::mem::take(&mut self.files);
        let read = |buffer: &mut Vec<u8>, path: EntryPath| Ok((set.read(&path, buffer)?, path));
        // One file is read here: another thread would have to be woken for it.
        let read: Result<Vec<_>, ScanError> = match files.len() {
            0 | 1 => files.into_iter().map(|path| read(&mut Vec::new(), path)).collect(),
            _ => files.into_par_iter().map_init(Vec::new, read).collect(),
        };
        let read = read?;
        for (now, path) in read {
            self.put(known, path, now);
        }
        let whole = std::mem::take(&mut self.whole);
        let paths: Vec<EntryPath> = whole.iter().map(|top| top.path.clone()).collect();
        for (path, now) in paths.into_iter().zip(walk::directories(set, whole)?) {
            self.put(known, path, now);
        }
        Ok(uncovered(self.edits))
    }
}

/// Mode, owner and attributes of the directory at `path`, which was there a moment ago.
fn meta(set: &SetScan<'_>, path: &EntryPath) -> Result<Meta, ScanError> {
    match set.root.directory(path) {
        Ok(directory) => set.directory(directory.as_fd(), path),
        Err(error) => Err(set.unopened(path, error).err().unwrap_or_else(|| set.busy(path, 1))),
    }
}

/// Leaves out edits below a path that another edit removes or replaces: it vanished between two looks.
fn uncovered(edits: BTreeMap<EntryPath, Edit>) -> Vec<(EntryPath, Edit)> {
    let mut replaced: Option<EntryPath> = None;
    let mut kept = Vec::new();
    for (path, edit) in edits {
        if replaced.as_ref().is_some_and(|above| path.is_within(above)) {
            continue;
        }
        if !matches!(edit, Edit::Directory(_)) {
            replaced = Some(path.clone());
        }
        kept.push((path, edit));
    }
    kept
}
