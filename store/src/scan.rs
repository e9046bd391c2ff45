//! Scanning: from directories to a tree, reading again only what changed.
//!
//! An unchanged file costs one system call. What a file is, is told by its inode, size and times (a name change of its
//! owner's account is therefore seen by [`Look::Bytes`] only). Every path is resolved beneath the set's held root.

pub mod content;
mod entry;
mod exclude;
mod findings;
mod named;
mod status;
mod walk;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bellwether_proto::{entry::EntryPath, name::SetName, record::SetRules};

use crate::{
    attributes::Names,
    scan::{entry::SetScan, findings::Findings, walk::Top},
    tree::{Dir, SetTree, Tree},
};

pub use exclude::Excludes;

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
    scan_expecting(sources, before, look, before)
}

/// As [`scan`], where large files probably hold what they have in `expected`: hashed as it says, they need not be cut. And
/// what shows another time than there, because the file system cannot hold that one, counts as having it.
///
/// # Errors
/// As [`scan`].
pub fn scan_expecting(sources: &[Source], before: &Tree, look: &Look, expected: &Tree) -> Result<Scan, ScanError> {
    let (names, findings) = (Names::new(), Findings::default());
    let around = Around { expected, names: &names, findings: &findings };
    let scanned = |source: &Source| {
        let root = scan_set(source, before.set(&source.rules.name), look, around)?;
        Ok(SetTree { rules: source.rules.clone(), root })
    };
    let sets = sources.iter().map(scanned).collect::<Result<_, ScanError>>()?;
    Ok(findings.finish(Tree::new(sets)))
}

/// What the sets of one scan share.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// What large files are thought to hold.
    expected: &'a Tree,
    names: &'a Names,
    findings: &'a Findings,
}

/// A set's root as it is now.
fn scan_set(
    source: &Source,
    before: Option<&SetTree>,
    look: &Look,
    around: Around<'_>,
) -> Result<Option<Arc<Dir>>, ScanError> {
    let known = before.and_then(|set| set.root.clone());
    let named = match look {
        Look::At(named) if before.is_some_and(|set| set.rules == source.rules) => Some(below(named, source)),
        Look::At(_) | Look::Stats | Look::Bytes => None,
    };
    if named.as_ref().is_some_and(Vec::is_empty) {
        return Ok(known);
    }
    let bytes = matches!(look, Look::Bytes) || before.is_some_and(|set| other_allowances(&set.rules, &source.rules));
    let Some(set) = SetScan::open(source, bytes, around)? else { return Ok(None) };
    if let Some(named) = named {
        let edits = named::edits(&set, known.as_ref(), named)?;
        let tree = Tree::new(vec![SetTree { rules: source.rules.clone(), root: known.clone() }]);
        let edits = edits.into_iter().map(|(path, edit)| (source.rules.name.clone(), path, edit));
        // Edits that do not fit: what was known is not what it seemed, and everything is looked at.
        if let Ok(tree) = tree.edit(edits) {
            return Ok(tree.sets().first().and_then(|set| set.root.clone()));
        }
    }
    let top = Top { path: EntryPath::root(), known };
    Ok(walk::directories(&set, vec![top])?.pop().flatten())
}

/// The paths of one set.
fn below(named: &BTreeMap<(SetName, EntryPath), Depth>, source: &Source) -> Vec<(EntryPath, Depth)> {
    let name = &source.rules.name;
    let from = named.range((name.clone(), EntryPath::root())..);
    from.take_while(|((set, _), _)| set == name).map(|((_, path), depth)| (path.clone(), *depth)).collect()
}

/// Whether files that did not change may be carried differently: they are read again.
fn other_allowances(a: &SetRules, b: &SetRules) -> bool {
    (a.allow_setuid, a.allow_capabilities) != (b.allow_setuid, b.allow_capabilities)
}
