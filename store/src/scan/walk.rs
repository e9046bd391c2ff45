//! Scans whole directories, level by level: the directories of a level in parallel, then its files that have to be
//! read. So few descriptors are open at a time, and the stack does not grow with the depth.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use bellwether_proto::{
    entry::{EntryPath, Meta, check_component},
    limits,
};
use rayon::prelude::*;
use rustix::{
    fs::{FileType, RawDir},
    io::Errno,
};

use super::{
    ScanError,
    entry::{ScannedEntry, SetScan},
};
use crate::tree::{Child, Dir, Node};

/// A directory to scan whole.
pub(super) struct Top {
    pub(super) path: EntryPath,
    /// The known one.
    pub(super) known: Option<Arc<Dir>>,
}

/// A directory whose entries are listed but not yet scanned.
struct Listing {
    path: EntryPath,
    meta: Meta,
    known: Option<Arc<Dir>>,
    entries: Vec<(Box<[u8]>, ScannedEntry)>,
}

enum Listed {
    There(Listing),
    /// It is gone, or cannot be read: the directory as in the last revision, with everything below.
    Kept(Option<Node>),
}

impl Listed {
    fn there(&self) -> Option<&Listing> {
        match self {
            Self::There(listing) => Some(listing),
            Self::Kept(_) => None,
        }
    }
}

/// Scans each of `tops`; none for one that is gone. Unchanged parts are shared with the known tree; a directory that
/// cannot be read is as in the last revision.
pub(super) fn directories(set: &SetScan<'_>, tops: Vec<Top>) -> Result<Vec<Option<Node>>, ScanError> {
    let mut levels: Vec<Vec<Listed>> = Vec::new();
    let mut level = tops;
    while !level.is_empty() {
        let mut listings = level.into_par_iter().map(|top| list(set, top)).collect::<Result<Vec<_>, _>>()?;
        read_files(set, &mut listings)?;
        level = listings.iter().filter_map(Listed::there).flat_map(Listing::below).collect();
        levels.push(listings);
    }
    let mut below = Vec::new();
    for listings in levels.into_iter().rev() {
        let mut deeper = below.into_iter();
        let mut node = |listed| match listed {
            Listed::There(listing) => Some(Node::Directory(listing.finish(&mut deeper))),
            Listed::Kept(node) => node,
        };
        below = listings.into_iter().map(&mut node).collect();
    }
    Ok(below)
}

fn list(set: &SetScan<'_>, top: Top) -> Result<Listed, ScanError> {
    let path = top.path.clone();
    match try_list(set, top) {
        Ok(listing) => Ok(listing.map_or(Listed::Kept(None), Listed::There)),
        Err(why) => set.keep(&path, why).map(Listed::Kept),
    }
}

fn try_list(set: &SetScan<'_>, top: Top) -> Result<Option<Listing>, ScanError> {
    let Top { path, known } = top;
    let directory = match set.root.directory(&path) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            set.unopened(&path, error)?;
            return Err(set.busy(&path, 1));
        }
    };
    let meta = set.directory(directory.as_fd(), &path)?;
    let mut entries = Vec::new();
    let names = names(&directory).map_err(|error| set.failed(&path, error))?;
    if path.depth() >= limits::DEPTH && !names.is_empty() {
        set.notice(&path, format!("its entries are not carried: deeper than {} directories", limits::DEPTH));
        return Ok(Some(Listing { path, meta, known, entries }));
    }
    for (name, hint) in names {
        if check_component(&name).is_err() || path.as_bytes().len() + 1 + name.len() > limits::PATH {
            set.notice(&path, format!("an entry with a name of {} bytes is not carried: too long", name.len()));
            continue;
        }
        let known = known.as_ref().and_then(|dir| dir.child(&name));
        let seen = set.look(directory.as_fd(), &path.join(&name), &name, hint, known)?;
        if !matches!(seen, ScannedEntry::Nothing) {
            entries.push((name, seen));
        }
    }
    Ok(Some(Listing { path, meta, known, entries }))
}

/// The entries of a directory, sorted by name, each once; none if it was removed.
fn names(directory: &OwnedFd) -> io::Result<Vec<(Box<[u8]>, FileType)>> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names: Vec<(Box<[u8]>, FileType)> = Vec::new();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push((name.into(), entry.file_type())),
            },
            Err(Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    names.dedup_by(|(a, _), (b, _)| a == b);
    Ok(names)
}

fn read_files(set: &SetScan<'_>, listings: &mut [Listed]) -> Result<(), ScanError> {
    let mut files: Vec<(EntryPath, &mut ScannedEntry)> = Vec::new();
    for listed in listings {
        let Listed::There(Listing { path, entries, .. }) = listed else { continue };
        let unread = entries.iter_mut().filter(|(_, seen)| matches!(seen, ScannedEntry::File));
        files.extend(unread.map(|(name, seen)| (path.join(name), seen)));
    }
    files.into_par_iter().try_for_each_init(Vec::new, |buffer, (path, seen)| {
        *seen = set.read(&path, buffer)?.map_or(ScannedEntry::Nothing, ScannedEntry::Leaf);
        Ok(())
    })
}

impl Listing {
    fn below(&self) -> impl Iterator<Item = Top> {
        self.entries.iter().filter(|(_, seen)| matches!(seen, ScannedEntry::Directory)).map(|(name, _)| {
            let known = self.known.as_ref().and_then(|dir| dir.child(name)).and_then(Node::directory).cloned();
            Top { path: self.path.join(name), known }
        })
    }

    /// Completes the directory; `deeper` gives its subdirectories in order. Returns the known one if nothing changed.
    fn finish(self, deeper: &mut impl Iterator<Item = Option<Node>>) -> Arc<Dir> {
        let node = |seen| match seen {
            ScannedEntry::Leaf(node) => Some(node),
            ScannedEntry::Directory => deeper.next().flatten(),
            ScannedEntry::Nothing | ScannedEntry::File => None,
        };
        let mut node = node;
        let children: Vec<Child> =
            self.entries.into_iter().filter_map(|(name, seen)| Some(Child { name, node: node(seen)? })).collect();
        match self.known {
            Some(known) if *known.meta() == self.meta && unchanged(known.children(), &children) => known,
            Some(_) | None => Arc::new(Dir::new(self.meta, children.into())),
        }
    }
}

fn unchanged(known: &[Child], now: &[Child]) -> bool {
    known.len() == now.len() && known.iter().zip(now).all(|(a, b)| a.name == b.name && identical(&a.node, &b.node))
}

/// Whether `known` equals `now`, including stats.
pub(super) fn identical(known: &Node, now: &Node) -> bool {
    match (known, now) {
        (Node::Directory(a), Node::Directory(b)) => Arc::ptr_eq(a, b),
        (Node::File { stat: a, .. }, Node::File { stat: b, .. })
        | (Node::Link { stat: a, .. }, Node::Link { stat: b, .. }) => a == b && known.same(now),
        (Node::Directory(_) | Node::File { .. } | Node::Link { .. }, _) => false,
    }
}
