//! Scanning: makes a tree of directories, and reads again only what changed.
//!
//! An unchanged file costs one system call. A file is identified by its inode, size and times, so only [`Look::Bytes`]
//! notices a new name of its owner's account. Every path is resolved beneath the set's held root.

pub mod content;
mod entry;
mod exclude;
mod findings;
mod named;
mod status;
mod walk;
mod writers;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use bellwether_proto::{
    entry::EntryPath,
    name::SetName,
    record::{Record, SetRules},
};

use crate::{
    attributes::Names,
    beneath,
    root::{Elsewhere, Root, in_words},
    scan::{entry::SetScan, findings::Findings, walk::Top},
    tree::{Dir, Node, SetTree, Tree},
};

pub use exclude::{Excludes, LeftAlone};
pub(crate) use exclude::{compile, is_within};
pub use writers::Means;

/// A set's path on this server, and its rules.
#[derive(Debug, Clone)]
pub struct Source {
    /// The group's rules; they name the set.
    pub rules: Arc<SetRules>,
    /// Its root on this server.
    pub path: PathBuf,
    /// The known root; none: the directory is trusted wherever it is.
    pub root: Option<Arc<Root>>,
}

impl Source {
    /// A source whose root is trusted wherever it is.
    pub fn new(rules: Arc<SetRules>, path: PathBuf) -> Self {
        Self { rules, path, root: None }
    }

    /// Checks that the open directory `fd` is the known one.
    ///
    /// # Errors
    /// It is another place (with [`Elsewhere`] inside), or the system's.
    pub fn check(&self, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        self.root.as_ref().map_or(Ok(()), |root| root.check(fd, &self.path))
    }

    /// Holds the root open if it is the known one.
    ///
    /// # Errors
    /// As [`Source::check`], and as [`beneath::open_root`].
    pub fn open(&self) -> std::io::Result<beneath::Root> {
        let root = beneath::Root::open(&self.path)?;
        self.check(root.as_fd()).map(|()| root)
    }
}

/// The sets of `record` that have a path in `sets`.
pub fn sources(record: &Record, sets: &[(SetName, PathBuf)]) -> Vec<Source> {
    let source = |rules: &SetRules| {
        let (_, path) = sets.iter().find(|(name, _)| *name == rules.name)?;
        Some(Source::new(Arc::new(rules.clone()), path.clone()))
    };
    record.policy.sets.iter().filter_map(source).collect()
}

/// The depth of a scan below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// This entry only: a directory keeps its known entries.
    Entry,
    /// Everything below, too.
    All,
}

/// The scope of a scan.
#[derive(Debug, Clone)]
pub enum Look {
    /// Every entry; a file is read if its stat differs from the known one.
    Stats,
    /// Every entry, and every byte of every file.
    Bytes,
    /// Only these.
    At(BTreeMap<(SetName, EntryPath), Depth>),
}

/// A left-out entry and the reason; reported once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// The set.
    pub set: SetName,
    /// The entry.
    pub path: EntryPath,
    /// For people: "a socket is not carried", …
    pub what: String,
}

/// An entry that cannot be read now. The tree has it as in the last revision; a new one is left out.
#[derive(Debug)]
pub struct Unread {
    /// The set.
    pub set: SetName,
    /// The entry; the root if the whole set cannot be read.
    pub path: EntryPath,
    /// The cause.
    pub why: ScanError,
}

/// The wait for a file that is open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It is not read before it is closed.
    Waits,
    /// The wait is over: it is read once, and named in [`Scan::open`].
    Over,
    /// It changed at each of so many recent reads: it is not read now.
    Rests(u32),
}

/// The wait for each file.
pub type PatienceFn<'a> = dyn Fn(&SetName, &EntryPath) -> Patience + Sync + 'a;

/// The treatment of entries that a scan for a revision cannot take as they are.
#[derive(Clone, Copy)]
pub struct Keeping<'a> {
    /// The last revision: an entry that cannot be read, or is not whole yet, stays as it is there.
    pub last: &'a Tree,
    /// The probable content of the sets; see [`scan_expecting`].
    pub expected: &'a Tree,
    /// The wait for a changed file; none: open files are read.
    pub patience: Option<&'a PatienceFn<'a>>,
}

/// A file with more than one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HardLink {
    /// The set.
    pub set: SetName,
    /// One of its names.
    pub path: EntryPath,
    /// Its inode's number.
    pub inode: u64,
    /// The number of its names, wherever they are.
    pub names: u32,
    /// The time of the last change: seconds and nanoseconds.
    pub changed: (i64, u32),
}

/// The result of a scan.
#[derive(Debug)]
pub struct Scan {
    /// The present sets. Shares every unchanged directory with the tree before.
    pub tree: Tree,
    /// The entries left out below the scanned paths.
    pub notices: Vec<Notice>,
    /// The entries that could not be read, sorted, each once.
    pub unread: Vec<Unread>,
    /// Files that were read although they were open for writing, sorted.
    pub open: Vec<(SetName, EntryPath)>,
    /// The means by which open files were detected, in each set with a check; the worst of all files.
    pub means: BTreeMap<SetName, Means>,
    /// Files with more than one name, sorted, among the scanned ones.
    pub links: Vec<HardLink>,
    /// Files so young that they may change again with the same times: to be scanned again in 20 ms.
    pub young: Vec<(SetName, EntryPath)>,
    /// Files whose bytes were read.
    pub files_read: u64,
    /// The number of bytes read.
    pub bytes_read: u64,
}

/// A scan failed, or an entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The set's directory is another place than before, and not trusted.
    #[error("{elsewhere}; set {set} stays as it was")]
    Elsewhere {
        /// The set.
        set: SetName,
        /// Its root.
        path: EntryPath,
        /// The difference.
        elsewhere: Elsewhere,
    },
    /// The system's error at one entry.
    #[error("cannot read {set}:{path}{}", in_words(source))]
    Io {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// The cause.
        source: std::io::Error,
    },
    /// The file changed at every read.
    #[error("{set}:{path} changed at each of {tries} reads")]
    Busy {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// The number of reads.
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
    /// The file is open for writing.
    #[error("{set}:{path} is open for writing")]
    Open {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
    },
    /// Over [`limits::FILE`](bellwether_proto::limits::FILE) or
    /// [`limits::FILE_CHUNKS`](bellwether_proto::limits::FILE_CHUNKS).
    #[error("{set}:{path} is too large to be carried ({size} bytes)")]
    Large {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// Its bytes.
        size: u64,
    },
    /// A pattern cannot be used.
    #[error("set {set} has a pattern that cannot be used: {what}")]
    Pattern {
        /// The set.
        set: SetName,
        /// The pattern and the reason.
        what: String,
    },
}

impl Unread {
    /// The reason for people, without the entry's name.
    pub fn reason(&self) -> String {
        match &self.why {
            ScanError::Io { source, .. } => format!("cannot be read{}: {source}", in_words(source)),
            ScanError::Busy { tries, .. } => format!("changed at each of {tries} reads"),
            ScanError::Held { what, .. } => format!("{what}, which is not followed"),
            ScanError::Open { .. } => "open for writing".to_owned(),
            ScanError::Large { size, .. } => format!("too large to be carried ({size} bytes)"),
            ScanError::Pattern { what, .. } => what.clone(),
            ScanError::Elsewhere { elsewhere, .. } => elsewhere.to_string(),
        }
    }
}

impl ScanError {
    /// The entry that it is about: others can be read. None if it is about the set's rules.
    fn entry(&self) -> Option<(&SetName, &EntryPath)> {
        match self {
            Self::Elsewhere { set, path, .. }
            | Self::Io { set, path, .. }
            | Self::Busy { set, path, .. }
            | Self::Held { set, path, .. }
            | Self::Open { set, path }
            | Self::Large { set, path, .. } => Some((set, path)),
            Self::Pattern { .. } => None,
        }
    }
}

impl Scan {
    /// This scan if everything could be read.
    ///
    /// # Errors
    /// The error of the first unread entry.
    pub fn whole(mut self) -> Result<Self, ScanError> {
        if self.unread.is_empty() { Ok(self) } else { Err(self.unread.swap_remove(0).why) }
    }
}

/// Scans `sources`, in parallel. `before` is the known tree; its stats tell which files need not be read.
///
/// # Errors
/// An entry cannot be read. A root that does not exist is no error: its set's root is none.
pub fn scan(sources: &[Source], before: &Tree, look: &Look) -> Result<Scan, ScanError> {
    scan_expecting(sources, before, look, before)
}

/// As [`scan`], but an entry that cannot be read stays as in the last revision, and is named in [`Scan::unread`].
///
/// # Errors
/// The rules of a set cannot be used.
pub fn scan_keeping(sources: &[Source], before: &Tree, look: &Look, keeping: Keeping<'_>) -> Result<Scan, ScanError> {
    scan_around(sources, before, look, keeping)
}

/// As [`scan`], but large files probably have their content of `expected`: if its hashes match, they need not be cut.
/// An entry that shows another time because the file system cannot hold the expected one counts as having it.
///
/// # Errors
/// As [`scan`].
pub fn scan_expecting(sources: &[Source], before: &Tree, look: &Look, expected: &Tree) -> Result<Scan, ScanError> {
    scan_around(sources, before, look, Keeping { last: before, expected, patience: None })?.whole()
}

fn scan_around(sources: &[Source], before: &Tree, look: &Look, keeping: Keeping<'_>) -> Result<Scan, ScanError> {
    let (names, findings) = (Names::new(), Findings::default());
    let around = Around { expected: keeping.expected, keeping, names: &names, findings: &findings };
    let scanned = |source: &Source| {
        let root = scan_set(source, before.set(&source.rules.name), look, around)?;
        Ok(SetTree { rules: source.rules.clone(), root })
    };
    let sets = sources.iter().map(scanned).collect::<Result<_, ScanError>>()?;
    Ok(findings.finish(Tree::new(sets)))
}

/// The shared part of a scan's sets.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// The expected content of large files.
    expected: &'a Tree,
    keeping: Keeping<'a>,
    names: &'a Names,
    findings: &'a Findings,
}

impl Around<'_> {
    /// Notes that an entry cannot be read, and returns it as in the last revision, to be read again by the next scan.
    fn keep(&self, set: &SetName, path: &EntryPath, why: ScanError) -> Result<Option<Node>, ScanError> {
        if why.entry().is_none() {
            return Err(why);
        }
        self.findings.unread(Unread { set: set.clone(), path: path.clone(), why });
        Ok(self.keeping.last.get(set, path).map(Node::unbelieved))
    }
}

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
    let set = match SetScan::open(source, bytes, around) {
        Ok(Some(set)) => set,
        Ok(None) => return Ok(None),
        Err(why) => return around.keep(&source.rules.name, &EntryPath::root(), why).map(directory),
    };
    if let Some(named) = named {
        let edits = named::edits(&set, known.as_ref(), named)?;
        let tree = Tree::new(vec![SetTree { rules: source.rules.clone(), root: known.clone() }]);
        let edits = edits.into_iter().map(|(path, edit)| (source.rules.name.clone(), path, edit));
        // If the edits do not fit, the known tree was wrong, and everything is scanned.
        if let Ok(tree) = tree.edit(edits) {
            return Ok(tree.sets().first().and_then(|set| set.root.clone()));
        }
    }
    let top = Top { path: EntryPath::root(), known };
    Ok(directory(walk::directories(&set, vec![top])?.pop().flatten()))
}

fn directory(node: Option<Node>) -> Option<Arc<Dir>> {
    node.as_ref().and_then(Node::directory).cloned()
}

fn below(named: &BTreeMap<(SetName, EntryPath), Depth>, source: &Source) -> Vec<(EntryPath, Depth)> {
    let name = &source.rules.name;
    let from = named.range((name.clone(), EntryPath::root())..);
    from.take_while(|((set, _), _)| set == name).map(|((_, path), depth)| (path.clone(), *depth)).collect()
}

/// Whether unchanged files may travel differently, and are read again.
fn other_allowances(a: &SetRules, b: &SetRules) -> bool {
    (a.allow_setuid, a.allow_capabilities) != (b.allow_setuid, b.allow_capabilities)
}
