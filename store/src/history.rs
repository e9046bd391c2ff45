//! History: packs on disk, in segments of a base and its increments, deleted whole by retention.

use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{
    entry::Chunk,
    hash::Hash,
    revision::{RevisionId, SignedHeader},
};

use crate::{pack::PackError, tree::Tree};

/// A pack in the history.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The revision.
    pub header: SignedHeader,
    /// Whether it is a base.
    pub base: bool,
    /// The pack's identity: BLAKE3 of its first frame.
    pub pack: Hash,
    /// Its bytes.
    pub size: u64,
    /// Bytes up to the end of its change frames: what a preview needs.
    pub changes_end: u64,
    /// The file.
    pub path: PathBuf,
}

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The system's error.
    #[error("cannot {action} {path}")]
    Io {
        /// read, write …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A stored pack is damaged.
    #[error("{path} is damaged")]
    Damaged {
        /// The pack.
        path: PathBuf,
        /// How.
        source: PackError,
    },
    /// The revision is not kept here (any more).
    #[error("revision {0} is not in the history")]
    Unknown(RevisionId),
}

/// How a server is brought to the head.
#[derive(Debug, Clone)]
pub enum Route {
    /// It is there.
    Nothing,
    /// These, in order: increments from where it is, or a base and the increments after it.
    Packs(Vec<Arc<Stored>>),
}

/// The history in one directory. One process owns it.
#[derive(Debug)]
pub struct History {}

impl History {
    /// Opens or creates the history in `directory`; removes what was never finished there, but keeps interrupted packs
    /// (see [`History::partial`]). A damaged pack is named and left out, with those that need it.
    ///
    /// # Errors
    /// The system's.
    pub fn open(directory: &Path) -> Result<Self, HistoryError> {
        let _ = directory;
        todo!()
    }

    /// The newest revision.
    pub fn head(&self) -> Option<&Arc<Stored>> {
        todo!()
    }

    /// The stored revision of that identity (its increment, where both are kept).
    pub fn get(&self, id: RevisionId) -> Option<&Arc<Stored>> {
        let _ = id;
        todo!()
    }

    /// All, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        [].iter()
    }

    /// The tree of a revision: the nearest base before it with the increments applied.
    ///
    /// # Errors
    /// Not kept, or damaged.
    pub fn tree(&self, id: RevisionId) -> Result<Tree, HistoryError> {
        let _ = id;
        todo!()
    }

    /// How a server at `from` gets to the head: the chain of increments, or a base (and its increments) when `from` is
    /// none or unknown, or when that is fewer bytes.
    pub fn route(&self, from: Option<RevisionId>) -> Route {
        let _ = from;
        todo!()
    }

    /// A file for a new pack, in the history's directory, not yet part of it. Dropped unfinished, it is removed.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self) -> Result<NewPack, HistoryError> {
        todo!()
    }

    /// Goes on with the pack of that identity that was interrupted: its file, and how many bytes in whole frames are
    /// there. Other interrupted packs are removed.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(&self, pack: Hash) -> Result<(NewPack, u64), HistoryError> {
        let _ = pack;
        todo!()
    }

    /// The interrupted pack that is kept, and its bytes in whole frames.
    pub fn partial(&self) -> Option<(Hash, u64)> {
        todo!()
    }

    /// Makes a complete pack part of the history: fsync, rename, fsync of the directory. When this returns it survives a
    /// power loss.
    ///
    /// # Errors
    /// The system's, or the pack is not complete; the history is as it was.
    pub fn commit(&mut self, pack: NewPack) -> Result<Arc<Stored>, HistoryError> {
        let _ = pack;
        todo!()
    }

    /// Finds chunks by hash; `found` gets each once. Reads the packs, newest first, until all are found.
    ///
    /// # Errors
    /// The system's.
    pub fn chunks(
        &self,
        wanted: &HashSet<Hash>,
        found: &mut dyn FnMut(Chunk, bytes::Bytes),
    ) -> Result<(), HistoryError> {
        let _ = (wanted, found);
        todo!()
    }

    /// Deletes the oldest segments, whole, while at least `revisions` stay and a base for every one of them.
    ///
    /// # Errors
    /// The system's.
    pub fn retain(&mut self, revisions: usize) -> Result<(), HistoryError> {
        let _ = revisions;
        todo!()
    }
}

/// A pack that is being written.
#[derive(Debug)]
pub struct NewPack {}

impl NewPack {
    /// The file, to be written in order.
    pub fn file(&mut self) -> &mut File {
        todo!()
    }

    /// Keeps what has arrived, to go on later with [`History::resume`].
    pub fn keep(self, pack: Hash) {
        let _ = pack;
    }
}
