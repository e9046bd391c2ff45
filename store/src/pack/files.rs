//! Reads the files of a frame with few system calls: a directory is held open while consecutive files are in it.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use bellwether_proto::{
    entry::{Chunk, EntryPath},
    hash::Hash,
    name::SetName,
};
use rustix::io::Errno;

use super::{
    PackError, malformed,
    outline::{self, Outlines},
};
use crate::{
    beneath::{self, Root},
    history::Packs,
    scan::Source,
    tree::Change,
};

/// A run of a file's bytes that the pack needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) change: &'a Change,
    pub(super) offset: u64,
    pub(super) chunk: Chunk,
}

/// The sets' roots, held open while a pack is written.
#[derive(Debug)]
pub(super) struct Roots<'a>(HashMap<&'a SetName, Root>);

impl<'a> Roots<'a> {
    /// Opens the roots of the sets with `pieces`.
    pub(super) fn open(sources: &'a [Source], pieces: &[Piece<'a>]) -> Result<Self, PackError> {
        let mut roots = HashMap::new();
        for piece in pieces {
            let set = &piece.change.set;
            if roots.contains_key(set) {
                continue;
            }
            let source = sources.iter().find(|source| source.rules.name == *set);
            let source = source.ok_or_else(|| malformed(format!("no directory is known for set {set}")))?;
            let root = source.open().map_err(|e| refused(piece.change, e))?;
            roots.insert(set, root);
        }
        Ok(Self(roots))
    }
}

/// Reads one frame's pieces, in order.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    roots: &'a Roots<'a>,
    outlines: Option<&'a Outlines>,
    directory: Option<(&'a SetName, EntryPath, OwnedFd)>,
    file: Option<(&'a Change, File)>,
}

impl<'a> Reading<'a> {
    /// `outlines`: the cache that remembers the chunks.
    pub(super) fn new(roots: &'a Roots<'a>, outlines: Option<&'a Outlines>) -> Self {
        Self { roots, outlines, directory: None, file: None }
    }

    /// The payload of the chunks frame of these pieces; each chunk has the hash in its entry. `history`: the packs with chunks
    /// that the files no longer hold.
    pub(super) fn payload(mut self, pieces: &[Piece<'a>], history: Option<&Packs>) -> Result<Vec<u8>, PackError> {
        let mut raw = Vec::with_capacity(pieces.iter().map(|p| 4 + p.chunk.length as usize).sum());
        let mut lost: Vec<(usize, &Piece<'a>, PackError)> = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            raw.extend_from_slice(&piece.chunk.length.to_le_bytes());
            let start = raw.len();
            match self.read(piece, pieces.get(at + 1), &mut raw) {
                Err(error @ (PackError::Changed { .. } | PackError::Read { .. })) if history.is_some() => {
                    raw.resize(start + piece.chunk.length as usize, 0);
                    lost.push((start, piece, error));
                }
                other => other?,
            }
        }
        if let Some(history) = history.filter(|_| !lost.is_empty()) {
            from_history(history, lost, &mut raw)?;
        }
        Ok(raw)
    }

    /// Appends the bytes of a piece, which have the hash in its entry. `next`: the piece that will be read next.
    pub(super) fn read(
        &mut self,
        piece: &Piece<'a>,
        next: Option<&Piece<'a>>,
        raw: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        let start = raw.len();
        raw.resize(start + piece.chunk.length as usize, 0);
        let file = self.file(piece.change, next).map_err(|e| refused(piece.change, e))?;
        file.read_exact_at(&mut raw[start..], piece.offset).map_err(|e| refused(piece.change, e))?;
        let bytes = &raw[start..];
        if Hash::of(bytes) != piece.chunk.hash {
            return Err(changed(piece.change));
        }
        if let Some(outlines) = self.outlines.filter(|_| bytes.len() >= outline::LEAST) {
            // The outlines are only a cache: without one, the chunk's successor is sent whole.
            let _ = outlines.put(&piece.chunk.hash, bytes);
        }
        Ok(())
    }

    /// The file of `change`, held open for the next piece of it.
    fn file(&mut self, change: &'a Change, next: Option<&Piece<'a>>) -> io::Result<&File> {
        let held = self.file.take().filter(|(of, _)| std::ptr::eq(*of, change));
        let file = match held {
            Some((_, file)) => file,
            None => self.open(change, next)?,
        };
        Ok(&self.file.insert((change, file)).1)
    }

    fn open(&mut self, change: &'a Change, next: Option<&Piece<'a>>) -> io::Result<File> {
        let root = &self.roots.0[&change.set];
        let Some((parent, name)) = change.path.split() else { return Err(Errno::ISDIR.into()) };
        let held = self.directory.take().filter(|(set, path, _)| *set == &change.set && *path == parent);
        let again = next.is_some_and(|next| {
            next.change.set == change.set && next.change.path.split().is_some_and(|(path, _)| path == parent)
        });
        let directory = match held {
            Some((_, _, directory)) => directory,
            None if again => root.directory(&parent)?,
            None => return root.file(&change.path),
        };
        let file = beneath::open_file(directory.as_fd(), name)?;
        self.directory = Some((&change.set, parent, directory));
        Ok(file)
    }
}

fn changed(change: &Change) -> PackError {
    PackError::Changed { set: change.set.clone(), path: change.path.clone() }
}

/// Puts the chunks that the files no longer hold into their places in `raw`. A chunk that the history does not have either is
/// an error.
fn from_history(history: &Packs, lost: Vec<(usize, &Piece<'_>, PackError)>, raw: &mut [u8]) -> Result<(), PackError> {
    let wanted: HashSet<Hash> = lost.iter().map(|(_, piece, _)| piece.chunk.hash).collect();
    let mut found = HashMap::new();
    if let Err(error) = history.chunks(&wanted, &mut |chunk, bytes| drop(found.insert(chunk.hash, bytes))) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the history cannot be searched for chunks");
    }
    for (start, piece, error) in lost {
        let Some(bytes) = found.get(&piece.chunk.hash) else { return Err(error) };
        raw[start..start + piece.chunk.length as usize].copy_from_slice(bytes);
    }
    Ok(())
}

/// The error of a file: it was removed, shortened or replaced, or it cannot be read.
fn refused(change: &Change, error: io::Error) -> PackError {
    let gone = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::XDEV,
        Errno::NXIO,
        Errno::AGAIN,
        Errno::SPIPE,
        Errno::STALE,
    ];
    if error.kind() == io::ErrorKind::UnexpectedEof
        || gone.iter().any(|e| Some(e.raw_os_error()) == error.raw_os_error())
    {
        return changed(change);
    }
    PackError::Read { set: change.set.clone(), path: change.path.clone(), source: error }
}
