//! Changes without an event: another directory at a set's path, a mount, and an edit through another of a file's names.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use bellwether_proto::{entry::EntryPath, name::SetName};

use crate::{root, scan::HardLink, tree::Node};

use super::{Files, events::WatchedSet};

/// The most files that are checked: all files of sets with no more entries, otherwise those with several names. (A
/// second name that is made elsewhere makes no event.)
pub(super) const FILES: usize = 1_000;

type Inode = (u64, u64);

/// A file's inode and its change time.
type Moment = (Inode, i64, i64);

#[derive(Debug, PartialEq, Eq)]
struct Mark {
    root: Option<Inode>,
    parent: Option<Inode>,
    /// The mounts on the root and below, and the mount around the root.
    mounts: Vec<(u64, PathBuf)>,
}

/// The roots as they were armed, and the files as they were last checked.
#[derive(Debug)]
pub(super) struct Marks {
    roots: BTreeMap<SetName, Mark>,
    remote: BTreeMap<SetName, String>,
    files: BTreeMap<(SetName, EntryPath), Moment>,
}

/// The result of a check.
pub(super) struct Looked {
    pub(super) marks: Marks,
    /// Sets whose watched directory was replaced, or where something was mounted.
    pub(super) moved: Vec<SetName>,
    /// Files that changed since the last look.
    pub(super) edited: Vec<(SetName, EntryPath)>,
    /// Sets with more such files than are checked.
    pub(super) unseen: BTreeMap<SetName, String>,
}

impl Marks {
    /// The present ones. Blocks.
    pub(super) fn of(watched_sets: &[WatchedSet]) -> Self {
        let remote = |place: &WatchedSet| Some((place.set.clone(), remote(root::shared_kind(&place.root)?)));
        Self {
            roots: roots(watched_sets),
            remote: watched_sets.iter().filter_map(remote).collect(),
            files: BTreeMap::new(),
        }
    }

    /// Sets in which other machines may make changes without an event here.
    pub(super) fn remote(&self) -> BTreeMap<SetName, String> {
        self.remote.clone()
    }
}

fn remote(kind: &str) -> String {
    format!("other machines' changes in a file system of type {kind} make no event here")
}

fn roots(watched_sets: &[WatchedSet]) -> BTreeMap<SetName, Mark> {
    // Without the table of mounts the inodes tell most of it.
    let mounts = root::mounts().unwrap_or_default();
    let mark = |place: &WatchedSet| {
        let root = &place.root;
        let here = mounts.iter().filter(|(_, at)| at.starts_with(root));
        let above = mounts.iter().rfind(|(_, at)| root.starts_with(at));
        Mark { root: inode(root), parent: root.parent().and_then(inode), mounts: here.chain(above).cloned().collect() }
    };
    watched_sets.iter().map(|place| (place.set.clone(), mark(place))).collect()
}

fn inode(path: &Path) -> Option<Inode> {
    std::fs::symlink_metadata(path).ok().map(|seen| (seen.dev(), seen.ino()))
}

/// A scanned file: its place, its inode's number, its change time.
type Scanned = (SetName, EntryPath, u64, (i64, u32));

fn scanned(files: &Files) -> Vec<Scanned> {
    if files.tree.entries() > FILES as u64 {
        let link = |link: &HardLink| (link.set.clone(), link.path.clone(), link.inode, link.changed);
        return files.links.iter().take(FILES).map(link).collect();
    }
    let mut all = Vec::new();
    files.tree.visit(&mut |set, path, node| match node {
        Node::File { stat, .. } if stat.is_known() => {
            all.push((set.clone(), path.clone(), stat.inode, (stat.ctime, stat.ctime_ns)));
        }
        Node::File { .. } | Node::Link { .. } | Node::Directory(_) => {}
    });
    all
}

/// Checks, and compares with `before`. Blocks.
pub(super) fn look(watched_sets: &[WatchedSet], files: &Files, before: Marks) -> Looked {
    let roots = roots(watched_sets);
    let moved = roots.iter().filter(|(set, mark)| before.roots.get(*set) != Some(*mark)).map(|(set, _)| set.clone());
    let moved = moved.collect();
    let mut edited = Vec::new();
    let mut moments = BTreeMap::new();
    for (set, path, inode, changed) in scanned(files) {
        let Some(place) = watched_sets.iter().find(|place| place.set == set) else { continue };
        let Some(moment) = moment(&place.root.join(OsStr::from_bytes(path.as_bytes()))) else { continue };
        let at = (set, path);
        // As it was at the last check, or when it was scanned.
        let known = before.files.get(&at).copied().unwrap_or(((moment.0.0, inode), changed.0, i64::from(changed.1)));
        if known != moment {
            edited.push(at.clone());
        }
        moments.insert(at, moment);
    }
    let unseen = files.links.iter().skip(FILES).map(|link| {
        let why = format!("more than {FILES} files have several names (hard links), of which others may be elsewhere");
        (link.set.clone(), why)
    });
    let unseen = unseen.collect();
    Looked { marks: Marks { roots, remote: before.remote, files: moments }, moved, edited, unseen }
}

fn moment(path: &Path) -> Option<Moment> {
    let seen = std::fs::symlink_metadata(path).ok()?;
    Some(((seen.dev(), seen.ino()), seen.ctime(), seen.ctime_nsec()))
}
