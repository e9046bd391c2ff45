//! The journal of a switch: what is to happen to which entry, and how to know whether it has. A record of the log, durable
//! before the first exchange.

use std::path::{Path, PathBuf};

use bellwether_proto::{
    entry::{Entry, EntryPath, Meta},
    hash::Hash,
    level::State,
    name::SetName,
};
use serde::{Deserialize, Serialize};

use crate::{log::Log, state::file::StateFileError};

mod examine;
pub(super) mod form;

pub use examine::{OnDisk, examine};

/// Which way an interrupted switch goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// To the new revision.
    Forward,
    /// Back to what was there.
    Back,
    /// Committed; what was replaced could not be kept yet.
    Done,
}

/// What happens to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Act {
    /// What is staged takes its place.
    Put,
    /// It goes to staging.
    Remove,
    /// The directory stays; its attributes change.
    Meta {
        #[serde(with = "form::meta")]
        old: Meta,
        #[serde(with = "form::meta")]
        new: Meta,
    },
    /// The directory goes, which the operations before have emptied.
    Unmake {
        #[serde(with = "form::meta")]
        old: Meta,
    },
}

impl Act {
    /// Whether it has a place in staging: of what is put, or of what is removed.
    pub(super) fn moves(&self) -> bool {
        matches!(self, Self::Put | Self::Remove)
    }
}

/// What was there before the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Was {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) directory: bool,
    /// The entry, when it was what the scan had read.
    #[serde(with = "form::entry")]
    pub(super) entry: Option<Entry>,
}

/// One operation of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operation {
    /// Index into [`Journal::sets`].
    pub(super) set: usize,
    #[serde(with = "form::path")]
    pub(super) path: EntryPath,
    pub(super) act: Act,
    /// Its name in staging: of what is put, or of where what is removed goes.
    pub(super) staged: u64,
    /// The inode of what is put.
    pub(super) inode: u64,
    pub(super) was: Option<Was>,
    /// Whether what was there becomes a kept copy.
    pub(super) keep: bool,
}

/// What one path holds afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Index into [`Journal::sets`].
    pub(super) set: usize,
    #[serde(with = "form::path")]
    pub(super) path: EntryPath,
    #[serde(with = "form::entry")]
    pub(super) entry: Option<Entry>,
    /// Not wanted, but it stays: excluded, not carried, or a directory that holds such.
    #[serde(default)]
    pub(super) stays: bool,
}

/// A set of the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalSet {
    pub(super) name: SetName,
    pub(super) path: PathBuf,
    /// Whether staging is inside the set.
    pub(super) inside: bool,
    /// The name of staging beside the set.
    pub(super) beside: String,
}

/// A switch that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) revision: Hash,
    pub(super) label: String,
    /// UTC, as in the names of kept copies.
    pub(super) when: String,
    pub(super) phase: Phase,
    pub(super) sets: Vec<JournalSet>,
    pub(super) operations: Vec<Operation>,
    /// Sorted by set and path.
    pub(super) wanted: Vec<Wanted>,
}

impl State for Journal {}

impl Journal {
    /// The journal in `log`; none when no switch was begun.
    pub(super) fn load(log: &Log) -> Result<Option<Self>, StateFileError> {
        log.journal::<Self>()?.map(|journal| journal.checked(log.path())).transpose()
    }

    /// Itself, where every set that it names is there.
    pub(super) fn checked(self, path: &Path) -> Result<Self, StateFileError> {
        let sets = self.sets.len();
        let mut known = self.operations.iter().map(|o| o.set).chain(self.wanted.iter().map(|w| w.set));
        if known.any(|set| set >= sets) {
            let (path, what) = (path.to_owned(), "it names a set that it does not have".to_owned());
            return Err(StateFileError::Damaged { path, what });
        }
        Ok(self)
    }

    /// What `path` of that set holds afterwards.
    pub(super) fn wanted(&self, set: usize, path: &EntryPath) -> Option<&Entry> {
        let at = self.wanted.binary_search_by(|wanted| (wanted.set, &wanted.path).cmp(&(set, path))).ok()?;
        self.wanted[at].entry.as_ref()
    }

    /// Whether `path` of that set, or a directory above it, is one that the operations empty and remove.
    pub(super) fn unmakes(&self, set: usize, path: &EntryPath) -> bool {
        let unmade = |operation: &Operation| operation.set == set && matches!(operation.act, Act::Unmake { .. });
        self.operations.iter().any(|operation| unmade(operation) && path.is_within(&operation.path))
    }

    /// What is wanted at `path` of that set, and below it.
    pub(super) fn wanted_within(&self, set: usize, path: &EntryPath) -> &[Wanted] {
        let start = self.wanted.partition_point(|wanted| (wanted.set, &wanted.path) < (set, path));
        let rest = &self.wanted[start..];
        &rest[..rest.partition_point(|wanted| wanted.set == set && wanted.path.is_within(path))]
    }
}

#[cfg(test)]
mod tests;
