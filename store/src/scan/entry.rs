//! Looks at one entry, decides whether it has to be read, and reads it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, SystemTime},
};

use bellwether_proto::{
    clock,
    entry::{Content, EntryPath, Meta},
    limits,
    record::SetRules,
};
use rustix::{
    buffer::spare_capacity,
    fs::{FileType, Statx, readlinkat},
    io::{Errno, pread},
};

use super::{
    Around, HardLink, Patience, ScanError, Source, content,
    exclude::Excludes,
    status::{Age, FileSystemId, age, file_type, is_known, same_moment, stat, status},
};
use crate::{
    attributes,
    beneath::{Root, open_file, os},
    failpoint, quarantine,
    root::{self, elsewhere},
    tree::{Node, Stat},
    underway::{Dealing, Suspect},
};

/// How often a file is read that changes meanwhile, with twice the pause before each.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(1);
const SETUID: u16 = 0o6000;
const HIDDEN: &str = "content that a mount hid until now (to trust it: bellwether publish --accept)";

/// One set while it is scanned.
pub(super) struct SetScan<'a> {
    pub(super) rules: &'a SetRules,
    pub(super) root: Root,
    pub(super) excludes: Excludes,
    place: FileSystemId,
    /// The known root.
    known: Option<&'a root::Root>,
    /// Whether files are read regardless of their stat.
    bytes: bool,
    around: Around<'a>,
}

/// The result of a look at an entry.
#[derive(Debug)]
pub(super) enum ScannedEntry {
    /// Nothing that travels.
    Nothing,
    /// A link, an unchanged file, or the substitute of an entry that cannot be read.
    Leaf(Node),
    /// A file that has to be read.
    File,
    /// A directory.
    Directory,
}

/// The result for an entry that cannot be read.
pub(super) fn kept(node: Option<Node>) -> ScannedEntry {
    node.map_or(ScannedEntry::Nothing, ScannedEntry::Leaf)
}

/// Whether `error` says that the entry, or a directory above it, is gone or something else now.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

impl<'a> SetScan<'a> {
    /// Holds the set's root open; none if there is no such directory.
    pub(super) fn open(source: &'a Source, bytes: bool, around: Around<'a>) -> Result<Option<Self>, ScanError> {
        let rules: &SetRules = &source.rules;
        let excludes = Excludes::new(rules)?;
        let failed = |error| failed(rules, &EntryPath::root(), error);
        let root = match source.open() {
            Ok(root) => root,
            Err(error) => return no_root(source, error).map(|()| None),
        };
        let place = FileSystemId::of(&status(root.as_fd(), b"").map_err(|error| failed(error.into()))?);
        Ok(Some(Self { rules, root, excludes, place, known: source.root.as_deref(), bytes, around }))
    }

    /// The error of the system at `path`.
    pub(super) fn failed(&self, path: &EntryPath, error: impl Into<io::Error>) -> ScanError {
        failed(self.rules, path, error.into())
    }

    fn held(&self, path: &EntryPath, what: &'static str) -> ScanError {
        ScanError::Held { set: self.rules.name.clone(), path: path.clone(), what }
    }

    pub(super) fn busy(&self, path: &EntryPath, tries: u32) -> ScanError {
        ScanError::Busy { set: self.rules.name.clone(), path: path.clone(), tries }
    }

    /// Replaces an entry that cannot be read by that of the last revision. An error only if it concerns the whole set.
    pub(super) fn keep(&self, path: &EntryPath, why: ScanError) -> Result<Option<Node>, ScanError> {
        self.around.keep(&self.rules.name, path, why)
    }

    pub(super) fn notice(&self, path: &EntryPath, what: impl Into<String>) {
        self.around.findings.notice(&self.rules.name, path, what.into());
    }

    /// Looks at `path`, which is `name` in the open `directory`; one system call if it is as `known`. `hint` is its
    /// kind by the directory. An entry that cannot be looked at is as in the last revision.
    pub(super) fn look(
        &self,
        directory: BorrowedFd<'_>,
        path: &EntryPath,
        name: &[u8],
        hint: FileType,
        known: Option<&Node>,
    ) -> Result<ScannedEntry, ScanError> {
        self.try_look(directory, path, name, hint, known).or_else(|why| Ok(kept(self.keep(path, why)?)))
    }

    fn try_look(
        &self,
        directory: BorrowedFd<'_>,
        path: &EntryPath,
        name: &[u8],
        hint: FileType,
        known: Option<&Node>,
    ) -> Result<ScannedEntry, ScanError> {
        let excluded = |kind| self.excludes.excluded_itself(path, kind == FileType::Directory);
        if hint != FileType::Unknown && excluded(hint) {
            return Ok(ScannedEntry::Nothing);
        }
        if hint == FileType::RegularFile && (known.is_none() || self.bytes) {
            // It is read regardless of its status; reading gets that, and checks for mounts.
            return Ok(ScannedEntry::File);
        }
        let status = match status(directory, name) {
            Ok(status) => status,
            Err(Errno::NOENT) => {
                if let Some(root) = self.known {
                    root.unhide(path);
                }
                return Ok(ScannedEntry::Nothing);
            }
            Err(error) => return Err(self.failed(path, error)),
        };
        let kind = file_type(&status);
        if kind != hint && excluded(kind) {
            return Ok(ScannedEntry::Nothing);
        }
        if let Some(what) = self.place.left_by(&status) {
            if known.is_none()
                && let Some(root) = self.known
            {
                root.hide(path);
            }
            return Err(self.held(path, what));
        }
        if self.known.is_some_and(|root| root.hid(path)) {
            return Err(self.held(path, HIDDEN));
        }
        let unchanged = known.filter(|known| !self.bytes && is_known(known, &status));
        match (kind, unchanged) {
            (FileType::Directory, _) => Ok(ScannedEntry::Directory),
            (FileType::RegularFile | FileType::Symlink, Some(node)) => {
                if kind == FileType::RegularFile {
                    self.mode(path, &status);
                    self.names(path, &status);
                }
                Ok(ScannedEntry::Leaf(node.clone()))
            }
            (FileType::RegularFile, None) => Ok(ScannedEntry::File),
            (FileType::Symlink, None) => self.link(directory, path, name, &status),
            (other, _) => {
                self.notice(path, format!("{} is not carried", described(other)));
                Ok(ScannedEntry::Nothing)
            }
        }
    }

    fn link(
        &self,
        directory: BorrowedFd<'_>,
        path: &EntryPath,
        name: &[u8],
        status: &Statx,
    ) -> Result<ScannedEntry, ScanError> {
        let now = clock::now();
        let target = match readlinkat(directory, os(name), Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(Errno::NOENT) => return Ok(ScannedEntry::Nothing),
            Err(Errno::INVAL) => return Err(self.busy(path, 1)),
            Err(error) => return Err(self.failed(path, error)),
        };
        if target.is_empty() || target.len() > limits::LINK {
            self.notice(path, format!("a link to a name of {} bytes is not carried", target.len()));
            return Ok(ScannedEntry::Nothing);
        }
        let mut meta = Meta { mode: 0o777, ..self.meta(status) };
        let stat = self.with_expected_time(path, &mut meta, self.believed(path, status, now));
        Ok(ScannedEntry::Leaf(Node::Link { meta, target: target.into(), stat }))
    }

    /// The stat to keep: unknown while the entry may change again without a new time.
    fn believed(&self, path: &EntryPath, status: &Statx, read: SystemTime) -> Stat {
        match age(status, read) {
            Age::Settled => return stat(status),
            Age::Young => self.around.findings.young(&self.rules.name, path),
            Age::Ahead => {}
        }
        Stat::UNKNOWN
    }

    /// Gives an entry its expected time if the file system cannot hold that and shows this one instead. Its stat is not
    /// kept then, so every scan looks at it.
    fn with_expected_time(&self, path: &EntryPath, meta: &mut Meta, stat: Stat) -> Stat {
        let expected = self.around.expected.get(&self.rules.name, path);
        match expected.filter(|expected| expected.directory().is_none()).map(|expected| expected.meta().mtime) {
            Some(wanted) if wanted != meta.mtime && attributes::is_shown(self.root.as_fd(), wanted, meta.mtime) => {
                meta.mtime = wanted;
                Stat::UNKNOWN
            }
            Some(_) | None => stat,
        }
    }

    /// Mode, owner and time; no attributes.
    fn meta(&self, status: &Statx) -> Meta {
        let owner = self.around.names.owner(status.stx_uid, status.stx_gid);
        Meta { mode: status.stx_mode & 0o7777, owner, mtime: status.stx_mtime.tv_sec, xattrs: None }
    }

    /// A file's mode: setuid and setgid only if they are allowed.
    fn mode(&self, path: &EntryPath, status: &Statx) -> u16 {
        let mode = status.stx_mode & 0o7777;
        if self.rules.allow_setuid || mode & SETUID == 0 {
            return mode;
        }
        self.notice(path, "setuid and setgid are not carried for files of this set");
        mode & !SETUID
    }

    /// Reads a file's or directory's attributes; returns whether all of them can travel.
    fn attributes(&self, fd: BorrowedFd<'_>, path: &EntryPath, meta: &mut Meta) -> Result<bool, ScanError> {
        let found = attributes::read(fd, self.rules.allow_capabilities).map_err(|error| self.failed(path, error))?;
        meta.xattrs = found.xattrs;
        if found.over > 0 {
            self.notice(path, format!("{} extended attributes are too many or too large to be carried", found.over));
        }
        Ok(found.over == 0)
    }

    /// Mode, owner and attributes of an open directory.
    pub(super) fn directory(&self, fd: BorrowedFd<'_>, path: &EntryPath) -> Result<Meta, ScanError> {
        let status = status(fd, b"").map_err(|error| self.failed(path, error))?;
        if let Some(what) = self.place.left_by(&status) {
            return Err(self.held(path, what));
        }
        let mut meta = Meta { mtime: 0, ..self.meta(&status) };
        self.attributes(fd, path, &mut meta)?;
        Ok(meta)
    }

    /// The reason that an entry that was there cannot be opened: it is [`is_gone`], or else an error.
    pub(super) fn unopened(&self, path: &EntryPath, error: io::Error) -> Result<(), ScanError> {
        match Errno::from_io_error(&error) {
            _ if is_gone(&error) => Ok(()),
            Some(Errno::XDEV) => Err(self.held(path, "a mount point")),
            _ => Err(self.failed(path, error)),
        }
    }

    /// Reads a whole file, again if it changed meanwhile; none if it is gone. One that cannot be read is as in the last
    /// revision. `buffer` is free for reuse between two files.
    pub(super) fn read(&self, path: &EntryPath, buffer: &mut Vec<u8>) -> Result<Option<Node>, ScanError> {
        self.try_read(path, buffer).or_else(|why| self.keep(path, why))
    }

    fn try_read(&self, path: &EntryPath, buffer: &mut Vec<u8>) -> Result<Option<Node>, ScanError> {
        let patience = self.around.keeping.patience.map(|patience| patience(&self.rules.name, path));
        if let Some(Patience::Rests(tries)) = patience {
            return Err(self.busy(path, tries));
        }
        let _dealing = self.dealing(path)?;
        for pause in 0..TRIES {
            if pause > 0 {
                std::thread::sleep(PAUSE * (1 << pause));
            }
            match open_file(self.root.as_fd(), path.as_bytes()) {
                Ok(file) => {
                    if let Some(node) = self.read_settled(path, &file, buffer)? {
                        return self.closed(path, &file, node, patience).map(Some);
                    }
                    // If every byte is read, most files did not change, so it does not matter whether they are open.
                    let open = patience.is_some() && !self.bytes && self.is_open(&file);
                    if open && patience == Some(Patience::Waits) {
                        return Err(self.open_for_writing(path));
                    }
                    match self.read_once(path, &file)? {
                        Reading::Done(None) => return Ok(None),
                        Reading::Done(Some(node)) => return self.closed(path, &file, node, patience).map(Some),
                        // It will change at every further read, too.
                        Reading::Changed if open => return Err(self.busy(path, 1)),
                        Reading::Changed => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // Something else has taken its place, or is about to.
                Err(error) => self.unopened(path, error)?,
            }
        }
        Err(self.busy(path, TRIES))
    }

    fn is_open(&self, file: &File) -> bool {
        self.around.findings.is_open(&self.rules.name, file.as_fd())
    }

    fn open_for_writing(&self, path: &EntryPath) -> ScanError {
        ScanError::Open { set: self.rules.name.clone(), path: path.clone() }
    }

    /// The node of a file, unless it has changed since the last revision and is open for writing.
    fn closed(&self, path: &EntryPath, file: &File, node: Node, patience: Option<Patience>) -> Result<Node, ScanError> {
        let Some(patience) = patience else { return Ok(node) };
        let same = self.around.keeping.last.get(&self.rules.name, path).is_some_and(|last| last.same(&node));
        if same || !self.is_open(file) {
            return Ok(node);
        }
        if patience == Patience::Waits {
            return Err(self.open_for_writing(path));
        }
        self.around.findings.open(&self.rules.name, path);
        Ok(node)
    }

    fn names(&self, path: &EntryPath, status: &Statx) {
        if status.stx_nlink > 1 {
            let (set, path) = (self.rules.name.clone(), path.clone());
            let changed = (status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec);
            self.around.findings.link(HardLink { set, path, inode: status.stx_ino, names: status.stx_nlink, changed });
        }
    }

    /// Makes the file the suspect if the program ends while it is read.
    fn dealing(&self, path: &EntryPath) -> Result<Dealing, ScanError> {
        let file = Suspect::File(format!("{}:{path}", self.rules.name));
        if quarantine::holds(&file) {
            return Err(self.failed(path, io::Error::other(format!("quarantined: {file}"))));
        }
        let dealing = Dealing::with(file);
        failpoint::hit("scan.read");
        Ok(dealing)
    }

    /// Reads a small file that has not changed since it was opened, by one look after the read. None for any other.
    fn read_settled(&self, path: &EntryPath, file: &File, buffer: &mut Vec<u8>) -> Result<Option<Node>, ScanError> {
        let now = clock::now();
        buffer.clear();
        buffer.reserve(content::WHOLE as usize + 1);
        let Ok(length) = pread(file, spare_capacity(buffer), 0) else { return Ok(None) };
        let found = attributes::read(file.as_fd(), self.rules.allow_capabilities);
        let found = found.map_err(|error| self.failed(path, error))?;
        let status = status(file.as_fd(), b"").map_err(|error| self.failed(path, error))?;
        let whole = length as u64 == status.stx_size && status.stx_size <= content::WHOLE && found.over == 0;
        if !whole || file_type(&status) != FileType::RegularFile || age(&status, now) != Age::Settled {
            return Ok(None);
        }
        self.names(path, &status);
        let content = content::whole(buffer);
        self.around.findings.read(content.size());
        let mode = self.mode(path, &status);
        let mut meta = Meta { mode, xattrs: found.xattrs, ..self.meta(&status) };
        let stat = self.with_expected_time(path, &mut meta, stat(&status));
        Ok(Some(Node::File { meta, content, stat }))
    }

    fn read_once(&self, path: &EntryPath, file: &File) -> Result<Reading, ScanError> {
        let failed = |error: io::Error| self.failed(path, error);
        let now = clock::now();
        let before = status(file.as_fd(), b"").map_err(|error| failed(error.into()))?;
        if file_type(&before) != FileType::RegularFile {
            return Ok(Reading::Changed);
        }
        let large = |size| ScanError::Large { set: self.rules.name.clone(), path: path.clone(), size };
        if before.stx_size > limits::FILE || before.stx_size > (limits::FILE_CHUNKS * content::MOST) as u64 {
            return Err(large(before.stx_size));
        }
        let mut meta = self.meta(&before);
        let whole = self.attributes(file.as_fd(), path, &mut meta)?;
        let content = self.content(path, file, &before).map_err(failed)?;
        self.around.findings.read(content.size());
        let after = status(file.as_fd(), b"").map_err(|error| failed(error.into()))?;
        if !same_moment(&before, &after) || content.size() != after.stx_size {
            return Ok(Reading::Changed);
        }
        if content.chunks().len() > limits::FILE_CHUNKS {
            return Err(large(after.stx_size));
        }
        self.names(path, &after);
        meta.mode = self.mode(path, &after);
        let stat = self.believed(path, &after, now);
        // Left-out attributes are reported at every scan, so the file is read at every scan.
        let stat = if whole { stat } else { Stat::UNKNOWN };
        let stat = self.with_expected_time(path, &mut meta, stat);
        Ok(Reading::Done(Some(Node::File { meta, content, stat })))
    }

    /// A file's chunks: the expected ones if all of them match, which saves the cutting.
    fn content(&self, path: &EntryPath, file: &File, status: &Statx) -> io::Result<Content> {
        let size = status.stx_size;
        let expected = if size > content::WHOLE { self.expected(path) } else { None };
        match expected.filter(|expected| expected.size() == size) {
            Some(expected) if content::holds(file, &expected)? => Ok(expected),
            Some(_) | None if size > content::WHOLE && status.stx_blocks < size / 512 => {
                content::cut_sparse(file, size)
            }
            Some(_) | None => content::cut(content::From { file, at: 0 }, size),
        }
    }

    fn expected(&self, path: &EntryPath) -> Option<Content> {
        match self.around.expected.get(&self.rules.name, path)? {
            Node::File { content, .. } => Some(content),
            Node::Directory(_) | Node::Link { .. } => None,
        }
    }
}

enum Reading {
    Done(Option<Node>),
    Changed,
}

/// The reason that the root cannot be opened: a missing one is no error.
fn no_root(source: &Source, error: io::Error) -> Result<(), ScanError> {
    let (rules, path) = (&source.rules, EntryPath::root());
    if let Some(elsewhere) = elsewhere(&error) {
        return Err(ScanError::Elsewhere { set: rules.name.clone(), path, elsewhere: elsewhere.clone() });
    }
    match std::fs::symlink_metadata(&source.path) {
        Err(missing) if is_gone(&missing) => Ok(()),
        Ok(found) if found.is_symlink() => {
            Err(ScanError::Held { set: rules.name.clone(), path, what: "a symbolic link" })
        }
        Ok(_) | Err(_) => Err(failed(rules, &path, error)),
    }
}

fn failed(rules: &SetRules, path: &EntryPath, error: io::Error) -> ScanError {
    ScanError::Io { set: rules.name.clone(), path: path.clone(), source: error }
}

fn described(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "a socket",
        FileType::Fifo => "a fifo",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown => {
            "an unknown kind of file"
        }
    }
}
