//! The journal of a switch: what is to happen to which entry, and how to know whether it has. One state file.
//!
//! It is durable before the first exchange, though perhaps under its temporary name only: then the rename is not waited
//! for. So a whole file under that name is a journal, where there is none under the other; one that is not whole was
//! never durable, and nothing was exchanged.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use bellwether_proto::{
    entry::{Entry, EntryPath, Meta},
    hash::Hash,
    level::State,
    name::SetName,
};
use serde::{Deserialize, Serialize};

use crate::{
    durable::{self, Name},
    state::file::{self, StateFileError},
};

mod examine;
mod form;

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
    /// Whether what was there becomes a recovery point.
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
    /// UTC, as in the names of recovery points.
    pub(super) when: String,
    pub(super) phase: Phase,
    pub(super) sets: Vec<JournalSet>,
    pub(super) operations: Vec<Operation>,
    /// Sorted by set and path.
    pub(super) wanted: Vec<Wanted>,
}

impl State for Journal {}

/// The journal's name in the state directory.
const NAME: &[u8] = b"journal";
/// Its name until it is renamed; `file::save` uses the same.
const BEGUN: &[u8] = b".journal.new";

/// Where the journal is.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join(crate::beneath::os(NAME))
}

/// Where it is until it is renamed.
fn first_path(state: &Path) -> PathBuf {
    state.join(crate::beneath::os(BEGUN))
}

impl Journal {
    /// The journal in `state`; none when no switch was begun.
    pub(super) fn load(state: &Path) -> Result<Option<Self>, StateFileError> {
        let path = path(state);
        let found = match file::load::<Self>(&path)? {
            None => Self::begun(state)?,
            found => found,
        };
        found.map(|journal| journal.checked(&path)).transpose()
    }

    /// Itself, where every set that it names is there.
    fn checked(self, path: &Path) -> Result<Self, StateFileError> {
        let sets = self.sets.len();
        let mut known = self.operations.iter().map(|o| o.set).chain(self.wanted.iter().map(|w| w.set));
        if known.any(|set| set >= sets) {
            let (path, what) = (path.to_owned(), "it names a set that it does not have".to_owned());
            return Err(StateFileError::Damaged { path, what });
        }
        Ok(self)
    }

    /// A whole one under its temporary name; one that is not whole was never durable.
    fn unnamed(state: &Path) -> Result<Option<Self>, StateFileError> {
        match file::load::<Self>(&first_path(state)) {
            Err(StateFileError::Damaged { .. }) => Ok(None),
            other => other,
        }
    }

    /// A whole one under its temporary name, which durably gets its own: what is noted next is written under the temporary
    /// one.
    fn begun(state: &Path) -> Result<Option<Self>, StateFileError> {
        let Some(journal) = Self::unnamed(state)? else { return Ok(None) };
        let name = || -> io::Result<()> {
            let held = File::open(state)?;
            let state = held.as_fd();
            durable::rename(Name { directory: state, name: BEGUN }, Name { directory: state, name: NAME })?;
            durable::sync_directory(state)
        };
        name().map_err(|source| StateFileError::Io { action: "rename", path: path(state), source })?;
        Ok(Some(journal))
    }

    /// Makes it survive a power loss.
    pub(super) fn save(&self, state: &Path) -> Result<(), StateFileError> {
        file::save(&path(state), self)
    }

    /// Makes a new one survive a power loss, and puts it under its name; that may not survive one yet.
    pub(super) fn begin(&self, state: &Path) -> io::Result<()> {
        let bytes = file::encode(self)?;
        let held = File::open(state)?;
        let state = held.as_fd();
        let file = durable::write_new(state, BEGUN, &bytes)?;
        durable::sync_file(file.as_fd())?;
        durable::sync_directory(state)?;
        durable::rename(Name { directory: state, name: BEGUN }, Name { directory: state, name: NAME })
    }

    /// Makes its name survive a power loss, too.
    pub(super) fn settle(state: &Path) -> io::Result<()> {
        durable::sync_directory(File::open(state)?.as_fd())
    }

    /// Removes it under both names; not durable before [`Journal::settle`].
    pub(super) fn remove(state: &Path) -> io::Result<()> {
        let held = File::open(state)?;
        for name in [NAME, BEGUN] {
            match durable::remove(held.as_fd(), name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
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
