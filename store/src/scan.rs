//! Scanning: from directories to a tree, reading again only what changed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bellwether_proto::{entry::EntryPath, name::SetName, record::SetRules};

use crate::tree::Tree;

/// Where a set is on this server, and its rules.
#[derive(Debug, Clone)]
pub struct Source {
    /// The group's rules; they name the set.
    pub rules: Arc<SetRules>,
    /// Its root on this server.
    pub path: PathBuf,
}

/// How far to look below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// At this entry only: what a directory holds stays as it was known.
    Entry,
    /// At everything below, too.
    All,
}

/// What to look at.
#[derive(Debug, Clone)]
pub enum Look {
    /// Every entry; a file is read when its stat differs from the one known.
    Stats,
    /// Every entry, and every byte of every file.
    Bytes,
    /// These only.
    At(BTreeMap<(SetName, EntryPath), Depth>),
}

/// What was left out, and why; said once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// The set.
    pub set: SetName,
    /// The entry.
    pub path: EntryPath,
    /// For people: "a socket is not carried", …
    pub what: String,
}

/// What a scan found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The sets as they are. Shares every directory that did not change with the tree known before.
    pub tree: Tree,
    /// What was left out below the paths that were looked at.
    pub notices: Vec<Notice>,
    /// Files so young that they may change again with the same times: to be looked at again in 20 ms.
    pub young: Vec<(SetName, EntryPath)>,
    /// Files whose bytes were read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
}

/// Why a scan failed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The system's error at one entry.
    #[error("cannot read {set}:{path}")]
    Io {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// Why.
        source: std::io::Error,
    },
    /// It changed at every try.
    #[error("{set}:{path} changed at each of {tries} reads")]
    Busy {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// How often it was read.
        tries: u32,
    },
    /// A mount, or a symbolic link in place of the root: held, not followed.
    #[error("{set}:{path} is {what}; it is not followed")]
    Held {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// "a mount point", "a symbolic link", …
        what: &'static str,
    },
    /// A pattern that is not one.
    #[error("set {set} has a pattern that cannot be used: {what}")]
    Pattern {
        /// The set.
        set: SetName,
        /// Which, and why.
        what: String,
    },
}

/// Scans `sources`, in parallel. `before` is what was known (its stats say what need not be read again).
///
/// # Errors
/// A set cannot be read; what was known stays as it was. A root that does not exist is no error: its set's root is none.
pub fn scan(sources: &[Source], before: &Tree, look: &Look) -> Result<Scan, ScanError> {
    let _ = (sources, before, look);
    todo!()
}
