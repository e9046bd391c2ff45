//! Erases chunks from a history: the segments that hold them are deleted, and nothing is repacked.
//!
//! What stays begins with a base on the line of the head, and nothing from that base on holds the chunks. The segments before
//! go together, those without the chunks included, because the line back from the head would have a gap.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{entry::Kind, hash::Hash};

use super::{History, HistoryError, Stored, index::age, segment};
use crate::tree::Change;

/// The packs of a history that hold some chunks.
#[derive(Debug, Default)]
pub struct Holding {
    /// The newest of them; none: the history does not hold the chunks.
    pub newest: Option<Arc<Stored>>,
    /// The oldest base on the line of the head from which on nothing holds them; none: a base has to be made first.
    pub begins: Option<Arc<Stored>>,
    /// Files that cannot be searched, since they are damaged.
    pub unreadable: Vec<PathBuf>,
}

impl Holding {
    /// Whether the history is known not to hold the chunks.
    pub fn is_clean(&self) -> bool {
        self.newest.is_none() && self.unreadable.is_empty()
    }
}

/// Whether a change of this list names one of the chunks. A pack holds only chunks that its changes name.
fn names(list: &[Change], chunks: &HashSet<Hash>) -> bool {
    let contents = list.iter().filter_map(|change| match change.entry.as_ref().map(|entry| &entry.kind) {
        Some(Kind::File(content)) => Some(content),
        Some(Kind::Directory | Kind::Link(_)) | None => None,
    });
    contents.flat_map(|content| content.chunks()).any(|chunk| chunks.contains(&chunk.hash))
}

/// Whether that pack may hold one of the chunks.
fn holds(stored: &Stored, chunks: &HashSet<Hash>) -> Result<bool, HistoryError> {
    let mut found = false;
    stored.read_changes(&mut |list| found |= names(&list, chunks))?;
    Ok(found)
}

/// Whether a file of packs, wherever it is, may hold one of the chunks.
///
/// # Errors
/// It cannot be read, or not to its end.
pub fn file_holds(path: &Path, chunks: &HashSet<Hash>) -> Result<bool, HistoryError> {
    let read = segment::read(path)?;
    for stored in &read.packs {
        if holds(stored, chunks)? {
            return Ok(true);
        }
    }
    match read.rest {
        segment::Rest::Nothing => Ok(false),
        // The rest of an append may be any part of a pack.
        segment::Rest::Torn => Ok(true),
        segment::Rest::Damaged(source) => Err(HistoryError::Damaged { path: path.to_owned(), source }),
    }
}

impl History {
    /// Searches the history for chunks, up to the revision with the sequence `until`. `clean`: packs (by their identity) that are
    /// known not to hold them; those that are found not to are added.
    ///
    /// # Errors
    /// The system's, or a pack is damaged.
    pub fn holding(
        &self,
        chunks: &HashSet<Hash>,
        until: u64,
        clean: &mut HashSet<Hash>,
    ) -> Result<Holding, HistoryError> {
        let mut holding = Holding::default();
        for stored in self.index.all() {
            if stored.header.number().sequence > until || clean.contains(&stored.pack) {
                continue;
            }
            if holds(stored, chunks)? {
                holding.newest = Some(stored.clone());
            } else {
                clean.insert(stored.pack);
            }
        }
        if let Some(newest) = &holding.newest {
            let bases = self.index.bases().take_while(|base| age(base) > age(newest));
            holding.begins = bases.last().cloned();
        }
        let unreadable = self.left_out.iter().filter(|left| left.sequence <= until);
        holding.unreadable = unreadable.map(|left| left.path.clone()).collect();
        holding.unreadable.dedup();
        Ok(holding)
    }

    /// Moves all packs from the log to files, and makes the log anew, so that its file has no content of files any more.
    ///
    /// # Errors
    /// The system's.
    pub fn empty_log(&mut self) -> Result<(), HistoryError> {
        self.settle(true)?;
        let failed = |source| HistoryError::Io { action: "write", path: self.log.path().to_owned(), source };
        if self.log.has_packs() { self.log.renew().map_err(failed) } else { Ok(()) }
    }

    /// Whether the file of the log has packs, even if these were moved.
    pub fn log_has_packs(&self) -> bool {
        self.log.has_packs()
    }

    /// Deletes all packs before that base, which is on the line of the head, and any interrupted pack.
    ///
    /// # Errors
    /// The system's.
    pub fn drop_before(&mut self, base: &Arc<Stored>) -> Result<(), HistoryError> {
        self.directory.forget_partials(u64::MAX);
        let doomed = self.index.doomed_before(base);
        self.remove(base.header.number().sequence, doomed)
    }

    /// Removes an interrupted pack, if there is one.
    pub fn drop_partial(&mut self) {
        self.directory.forget_partials(u64::MAX);
    }
}
