//! Reads stored packs.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{Malformed, entry::Chunk, entry::Kind, hash::Hash};
use bytes::Bytes;

use super::{HistoryError, Stored, disk::Partial};
use crate::{
    pack::{self, Decoded, Frame, Head, PackError, Patch, Place, Reader, Splitter, Survey},
    tree::{Change, Tree},
};

/// Makes a [`HistoryError`] that names the file: bad content is the file's fault, and a failed read is the system's.
pub(super) fn named(path: &Path) -> impl Fn(PackError) -> HistoryError {
    move |source| match source {
        PackError::Io { action, path, source } => HistoryError::Io { action, path, source },
        PackError::Newer(_) => HistoryError::Newer { path: path.to_owned(), source },
        source @ (PackError::Malformed(_) | PackError::Changed { .. } | PackError::Read { .. }) => {
            HistoryError::Damaged { path: path.to_owned(), source }
        }
    }
}

fn damaged(path: &Path, what: impl Into<String>) -> HistoryError {
    HistoryError::Damaged { path: path.to_owned(), source: Malformed::new(what).into() }
}

pub(super) fn open(path: &Path) -> Result<File, HistoryError> {
    File::open(path).map_err(|source| HistoryError::Io { action: "open", path: path.to_owned(), source })
}

/// The pack that the survey found at `at` of the file.
pub(super) fn from_survey(path: PathBuf, at: u64, Survey { head, size, changes_end }: Survey) -> Stored {
    let Head { pack, header, base, changes, .. } = *head;
    Stored { header, base, pack, size, changes_end, changes, path, at }
}

/// Checks every frame's header of a pack that is to join the history.
pub(super) fn complete(place: &dyn Place, path: &Path) -> Result<Stored, HistoryError> {
    Ok(from_survey(path.to_owned(), 0, pack::survey_alone(place, path).map_err(named(path))?))
}

/// The interrupted pack that begins at `at` of the file.
pub(super) fn partial(path: &Path, at: u64) -> Result<Option<Partial>, HistoryError> {
    let whole = pack::whole_frames(&open(path)?, path, at).map_err(named(path))?;
    Ok(whole.map(|(head, bytes)| Partial {
        pack: head.pack,
        bytes,
        sequence: head.header.number().sequence,
        path: path.to_owned(),
    }))
}

/// Gives `take` a pack's head and its changes, frame by frame; the chunks are not read.
fn changes(stored: &Stored, take: &mut dyn FnMut(Frame)) -> Result<(), PackError> {
    let mut reader = Reader::default();
    let (mut promised, mut got) = (None, 0);
    pack::read_range(&stored.path, (stored.at, stored.at + stored.changes_end), &mut |bytes| {
        for frame in reader.push(bytes)? {
            match &frame {
                Frame::Head(head) if head.pack == stored.pack => promised = Some(head.changes),
                Frame::Changes(list) => got += list.len() as u64,
                Frame::Head(_) | Frame::Chunks(_) | Frame::Patches(_) | Frame::End => {}
            }
            take(frame);
        }
        Ok(true)
    })?;
    if promised == Some(got) {
        return Ok(());
    }
    Err(Malformed::new("it was changed after it was stored").into())
}

/// The tree of a base and the increments after it, checked against the root in each header.
pub(super) fn tree(packs: &[Arc<Stored>]) -> Result<Tree, HistoryError> {
    let mut tree = Tree::default();
    for stored in packs {
        let (mut rules, mut list) = (Vec::new(), Vec::new());
        let mut take = |frame| match frame {
            Frame::Head(head) => rules = head.rules,
            Frame::Changes(mut more) => list.append(&mut more),
            Frame::Chunks(_) | Frame::Patches(_) | Frame::End => {}
        };
        changes(stored, &mut take).map_err(named(&stored.path))?;
        let before = if stored.base { Tree::default() } else { tree };
        tree = before.with_rules(&rules).apply(list).map_err(|e| damaged(&stored.path, e.to_string()))?;
        if tree.root() != stored.header.header().root {
            return Err(damaged(&stored.path, "its changes do not give the root that its header says"));
        }
    }
    Ok(tree)
}

/// Gives the changes of a pack, a frame at a time.
pub(super) fn change_lists(stored: &Stored, take: &mut dyn FnMut(Vec<Change>)) -> Result<(), HistoryError> {
    let mut lists = |frame| {
        if let Frame::Changes(list) = frame {
            take(list);
        }
    };
    changes(stored, &mut lists).map_err(named(&stored.path))
}

/// Finds `wanted` chunks in `packs`, newest first. A damaged pack is passed over: another may have the chunk.
pub(super) fn chunks<'a>(
    packs: impl Iterator<Item = &'a Arc<Stored>>,
    wanted: HashSet<Hash>,
    found: &mut dyn FnMut(Chunk, Bytes),
) -> Result<(), HistoryError> {
    let mut search = Search { asked: wanted.clone(), wanted, ..Search::default() };
    for stored in packs {
        if search.wanted.is_empty() {
            break;
        }
        match search.pack(stored, found).map_err(named(&stored.path)) {
            Err(HistoryError::Damaged { path, source }) => {
                tracing::warn!(path = %path.display(), error = %source, "a pack in the history is damaged");
            }
            other => other?,
        }
    }
    search.patch(found);
    Ok(())
}

/// A search for chunks, from the newest pack to the oldest.
#[derive(Default)]
struct Search {
    /// Chunks that the caller still lacks.
    asked: HashSet<Hash>,
    /// Chunks that the next packs are searched for: for the caller, or for a patch.
    wanted: HashSet<Hash>,
    /// Chunks that were found as patches, the newest first. The old chunk of each is in an older pack.
    patches: Vec<Patch>,
    /// The old chunks of `patches`.
    olds: HashSet<Hash>,
    /// The old chunks that were found.
    bytes: HashMap<Hash, Bytes>,
}

impl Search {
    fn pack(&mut self, stored: &Stored, found: &mut dyn FnMut(Chunk, Bytes)) -> Result<(), PackError> {
        // A pack holds only chunks that its changes name, and the changes are cheap to read.
        let mut here = HashSet::new();
        changes(stored, &mut |frame| {
            let Frame::Changes(list) = frame else { return };
            for change in list {
                let Some(Kind::File(content)) = change.entry.map(|entry| entry.kind) else { continue };
                let wanted = |hash: &Hash| self.wanted.contains(hash);
                here.extend(content.chunks().iter().map(|chunk| chunk.hash).filter(wanted));
            }
        })?;
        if here.is_empty() {
            return Ok(());
        }
        let mut splitter = Splitter::default();
        pack::read_range(&stored.path, (stored.at + stored.changes_end, stored.at + stored.size), &mut |bytes| {
            splitter.push(bytes);
            while let Some(frame) = splitter.take()? {
                match frame.decode()? {
                    Decoded::Chunks(list) => {
                        for (chunk, bytes) in list.into_iter().filter(|(chunk, _)| here.remove(&chunk.hash)) {
                            self.wanted.remove(&chunk.hash);
                            self.take(chunk, bytes, found);
                        }
                    }
                    Decoded::Patches(list) => {
                        for patch in list.into_iter().filter(|patch| here.remove(&patch.chunk.hash)) {
                            self.wanted.remove(&patch.chunk.hash);
                            self.owe(patch);
                        }
                    }
                    Decoded::Head(_) | Decoded::Changes(_) | Decoded::End(_) => {}
                }
            }
            Ok(!here.is_empty())
        })
    }

    fn take(&mut self, chunk: Chunk, bytes: Bytes, found: &mut dyn FnMut(Chunk, Bytes)) {
        if self.olds.contains(&chunk.hash) {
            // This is a copy, since a slice would keep its whole frame in memory.
            self.bytes.insert(chunk.hash, Bytes::copy_from_slice(&bytes));
        }
        if self.asked.remove(&chunk.hash) {
            found(chunk, bytes);
        }
    }

    /// Searches older packs for the patch's old chunk, even if a newer pack has it: the newer one may be made from this patch.
    fn owe(&mut self, patch: Patch) {
        self.olds.insert(patch.old);
        if !self.bytes.contains_key(&patch.old) {
            self.wanted.insert(patch.old);
        }
        self.patches.push(patch);
    }

    /// Applies the patches, oldest first. A chunk whose patch cannot be applied is not found.
    fn patch(&mut self, found: &mut dyn FnMut(Chunk, Bytes)) {
        while let Some(patch) = self.patches.pop() {
            let made = self.bytes.get(&patch.old).and_then(|old| patch.apply(old).ok());
            if !self.patches.iter().any(|later| later.old == patch.old) {
                self.bytes.remove(&patch.old);
            }
            if let Some(bytes) = made {
                self.take(patch.chunk, bytes, found);
            }
        }
    }
}
