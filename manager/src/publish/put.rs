//! One file put or removed by compare-and-swap (W5), in the set's directory on this server. Nothing outside the set can
//! be named: every path is opened beneath its root, through no link (invariant 7). The publisher calls this and
//! publishes at once.

use std::{
    fs::{File, Metadata},
    io::{self, Seek},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    time::Instant,
};

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    clock::now_ms,
    entry::{EntryPath, Meta, Owners},
    hash::Hash,
    limits,
    name::SetName,
    revision::{SignedHeader, check_message},
    v1,
};
use bellwether_store::{
    attributes,
    beneath::Root,
    durable, root,
    scan::{Depth, Excludes, Look, ScanError, Source},
    state::record::decide,
    tree::{Change, Edit},
};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::io::Errno;

use crate::{
    publish::{
        round::{PublishError, back_or_accept},
        safety::{Fright, Step},
    },
    shared::Shared,
};

/// What is asked, checked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) set: SetName,
    pub(crate) path: EntryPath,
    pub(crate) expected: Expected,
    pub(crate) what: Operation,
    pub(crate) author: String,
    pub(crate) message: String,
    /// A person says that it is meant, although most of the set is gone then.
    pub(crate) accept: bool,
}

/// What the caller believes is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Anything,
    Nothing,
    File(Hash),
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Put { data: bytes::Bytes, mode: Option<u16> },
    Remove,
}

/// What came of a change.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The revision that has it; none: it was so already.
    pub revision: Option<SignedHeader>,
}

/// Why nothing was changed (unless it says otherwise).
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A request that cannot be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(std::sync::Arc<str>),
    /// No such set.
    #[error("there is no set {0} in this group")]
    NoSet(SetName),
    /// Not the group's to change.
    #[error("{set}:{path} is excluded from the group, or each server's own")]
    Excluded {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
    },
    /// Somebody was faster.
    #[error("{set}:{path} is not what was expected ({found})")]
    Conflict {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// What is there.
        found: String,
    },
    /// Something that is not a regular file is in the way.
    #[error("{set}:{path} is {what}")]
    Held {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// a directory, behind a symbolic link …
        what: &'static str,
    },
    /// The set's directory is another place than before.
    #[error(transparent)]
    Elsewhere(root::Elsewhere),
    /// There are edits that are not a revision.
    #[error("there are edits at the manager that are not published ({0})")]
    Unpublished(String),
    /// Most of the set would be gone.
    #[error("with this, {fright}")]
    Frightening {
        /// What would be gone.
        fright: Fright,
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
    },
    /// The set's patterns.
    #[error("the rules of the set cannot be used")]
    Rules(#[from] ScanError),
    /// The system's error.
    #[error("cannot {action} {set}:{path}; nothing was changed")]
    Io {
        /// read, write …
        action: &'static str,
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// Why.
        source: io::Error,
    },
    /// The file was changed at the manager, but there is no revision of it yet.
    #[error("the file was changed at the manager, but is not published yet")]
    Publish(#[from] PublishError),
}

impl Advise for ChangeError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::NoSet(_) => Some(Advice::run("see", "bellwether group show")),
            Self::Conflict { set, path, .. } => {
                Some(Advice::run("read it again and repeat the change", format!("bellwether get {set}:{path}")))
            }
            Self::Unpublished(_) => Some(Advice::run("first, at the manager", "bellwether publish")),
            Self::Publish(publish) => publish.advice(),
            Self::Frightening { set, path, .. } => {
                Some(Advice::run("if that is meant", format!("bellwether rm --accept {set}:{path}")))
            }
            Self::Elsewhere(_) => Some(back_or_accept()),
            Self::Disputed(_) => Some(decide()),
            Self::Malformed(_) | Self::Excluded { .. } | Self::Held { .. } | Self::Rules(_) | Self::Io { .. } => None,
        }
    }
}

impl TryFrom<v1::ChangeRequest> for Asked {
    type Error = Malformed;

    fn try_from(wire: v1::ChangeRequest) -> Result<Self, Malformed> {
        let path = EntryPath::new(&wire.path)?;
        if path.is_root() {
            return Err(Malformed::new("the root of a set is not a file"));
        }
        let expected = match wire.expected {
            None => Expected::Anything,
            Some(empty) if empty.is_empty() => Expected::Nothing,
            Some(hash) => Expected::File(Hash::try_from(hash.as_ref())?),
        };
        let what = match wire.change {
            Some(v1::change_request::Change::Put(v1::FileContent { data, mode })) => {
                Operation::Put { data, mode: mode.map(check_mode).transpose()? }
            }
            Some(v1::change_request::Change::Remove(true)) => Operation::Remove,
            Some(v1::change_request::Change::Remove(false)) | None => {
                return Err(Malformed::new("a change that changes nothing"));
            }
        };
        if let Operation::Put { data, .. } = &what
            && data.len() > limits::PUT
        {
            return Err(Malformed::new(format!(
                "{} bytes; a file put this way has at most {}",
                data.len(),
                limits::PUT
            )));
        }
        check_message(&wire.message)?;
        let (author, message, accept) = (wire.author, wire.message, wire.accept);
        Ok(Self { set: wire.set.parse()?, path, expected, what, author, message, accept })
    }
}

fn check_mode(mode: u32) -> Result<u16, Malformed> {
    u16::try_from(mode)
        .ok()
        .filter(|mode| mode & !0o777 == 0)
        .ok_or_else(|| Malformed::new(format!("mode {mode:o}; a file put this way may have 0 to 777")))
}

/// A change that was made in the set's directory.
#[derive(Debug)]
pub(crate) struct Made {
    /// What to look at now.
    pub(crate) look: Look,
    directory: OwnedFd,
}

impl Made {
    /// Makes the change survive a power loss; before it is announced. Cheap once the pack that has it is on the same disk.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn sync(&self, asked: &Asked) -> Result<(), ChangeError> {
        durable::sync_directory(self.directory.as_fd()).map_err(|e| asked.failed("write", e))
    }
}

/// Whether the change may be made: one after the other must not empty a set. Only a removal takes anything away.
pub(crate) fn judge(shared: &Shared, asked: &Asked) -> Result<(), ChangeError> {
    if asked.accept || !matches!(asked.what, Operation::Remove) {
        return Ok(());
    }
    let (set, path) = (asked.set.clone(), asked.path.clone());
    let head = shared.head.borrow().tree.clone();
    // What is not there takes nothing away.
    let Ok(now) = head.edit([(set.clone(), path.clone(), Edit::Remove)]) else { return Ok(()) };
    let change = Change { set: set.clone(), path: path.clone(), entry: None };
    let mut step = Step::new(&head, &now, &[change]);
    match shared.guard().judge(&mut step, &now, Instant::now()) {
        None => Ok(()),
        Some(fright) => Err(ChangeError::Frightening { fright, set, path }),
    }
}

/// Makes the change in the set's directory: the bytes are on the disk, the name is when [`Made::sync`] has returned.
/// None: it was so already.
pub(crate) fn make(shared: &Shared, asked: &Asked) -> Result<Option<Made>, ChangeError> {
    let source = shared.sources().into_iter().find(|source| source.rules.name == asked.set);
    make_in(&source.ok_or_else(|| ChangeError::NoSet(asked.set.clone()))?, asked)
}

fn make_in(source: &Source, asked: &Asked) -> Result<Option<Made>, ChangeError> {
    if Excludes::new(&source.rules)?.excluded(&asked.path, false) {
        return Err(ChangeError::Excluded { set: asked.set.clone(), path: asked.path.clone() });
    }
    let root = source.open().map_err(|e| asked.failed("open", e))?;
    let before = asked.current(&root)?;
    asked.check(before.as_ref())?;
    let (parent, name) = asked.path.split().ok_or_else(|| Malformed::new("the root of a set is not a file"))?;
    match (&asked.what, before) {
        (Operation::Remove, None) => Ok(None),
        (Operation::Remove, Some(before)) => {
            let directory = root.directory(&parent).map_err(|e| asked.failed("open", e))?;
            asked.unchanged(&root, Some(&before))?;
            durable::remove(directory.as_fd(), name).map_err(|e| asked.failed("remove", e))?;
            Ok(Some(Made { look: asked.look(&asked.path), directory }))
        }
        (Operation::Put { data, mode }, Some(before))
            if before.holds(data, *mode).map_err(|e| asked.failed("read", e))? =>
        {
            Ok(None)
        }
        (Operation::Put { data, mode }, before) => {
            let (directory, made) = asked.open_parent(&root, &parent)?;
            let put = Put { asked, root: &root, directory: directory.as_fd(), name, before: before.as_ref() };
            put.put(data, *mode)?;
            Ok(Some(Made { look: asked.look(made.as_ref().unwrap_or(&asked.path)), directory }))
        }
    }
}

/// A file as it is now, open.
struct Current {
    file: File,
    stat: Metadata,
}

impl Current {
    /// What changes whenever the file does.
    fn mark(&self) -> (u64, i64, i64, u64) {
        (self.stat.ino(), self.stat.ctime(), self.stat.ctime_nsec(), self.stat.size())
    }

    /// Whether it is already what a put would make of it: putting twice is putting once.
    fn holds(&self, data: &[u8], mode: Option<u16>) -> io::Result<bool> {
        let mode_differs = mode.is_some_and(|mode| u32::from(mode) != self.stat.mode() & 0o7777);
        if mode_differs || self.stat.size() != data.len() as u64 {
            return Ok(false);
        }
        Ok(hash(&self.file)? == Hash::of(data))
    }
}

impl Asked {
    fn failed(&self, action: &'static str, source: io::Error) -> ChangeError {
        let (set, path) = (self.set.clone(), self.path.clone());
        if let Some(elsewhere) = root::elsewhere(&source) {
            return ChangeError::Elsewhere(elsewhere.clone());
        }
        let held = |what| ChangeError::Held { set: set.clone(), path: path.clone(), what };
        match Errno::from_io_error(&source) {
            Some(Errno::LOOP) => held("a symbolic link, or behind one, which is not followed"),
            Some(Errno::XDEV) => held("behind a mount point, which is not followed"),
            Some(Errno::NOTDIR) => held("below something that is not a directory"),
            _ => ChangeError::Io { action, set, path, source },
        }
    }

    fn held(&self, what: &'static str) -> ChangeError {
        ChangeError::Held { set: self.set.clone(), path: self.path.clone(), what }
    }

    fn look(&self, path: &EntryPath) -> Look {
        Look::At([((self.set.clone(), path.clone()), Depth::All)].into())
    }

    fn current(&self, root: &Root) -> Result<Option<Current>, ChangeError> {
        let file = match root.file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.failed("read", e))?,
        };
        let stat = file.metadata().map_err(|e| self.failed("read", e))?;
        match stat.file_type() {
            kind if kind.is_file() => Ok(Some(Current { file, stat })),
            kind if kind.is_dir() => Err(self.held("a directory")),
            _ => Err(self.held("not a regular file")),
        }
    }

    fn check(&self, current: Option<&Current>) -> Result<(), ChangeError> {
        let conflict = |found: String| ChangeError::Conflict { set: self.set.clone(), path: self.path.clone(), found };
        match (self.expected, current) {
            (Expected::Anything, _) | (Expected::Nothing, None) => Ok(()),
            (Expected::Nothing, Some(_)) => Err(conflict("there is a file".to_owned())),
            // Removing twice is removing once.
            (Expected::File(_), None) if matches!(self.what, Operation::Remove) => Ok(()),
            (Expected::File(_), None) => Err(conflict("there is none".to_owned())),
            (Expected::File(expected), Some(current)) => {
                let found = hash(&current.file).map_err(|e| self.failed("read", e))?;
                if found == expected { Ok(()) } else { Err(conflict(format!("its BLAKE3 is {found}"))) }
            }
        }
    }

    /// Looks again right before the file is replaced.
    fn unchanged(&self, root: &Root, before: Option<&Current>) -> Result<(), ChangeError> {
        let now = self.current(root)?;
        if now.as_ref().map(Current::mark) == before.map(Current::mark) {
            return Ok(());
        }
        let found = "it changed at this moment".to_owned();
        Err(ChangeError::Conflict { set: self.set.clone(), path: self.path.clone(), found })
    }

    /// The directory that is to hold the file; missing ones are made, 0755. Returns the topmost that was made.
    fn open_parent(&self, root: &Root, parent: &EntryPath) -> Result<(OwnedFd, Option<EntryPath>), ChangeError> {
        let mut made = None;
        let mut at = EntryPath::root();
        let mut directory = root.directory(&at).map_err(|e| self.failed("open", e))?;
        for component in parent.components() {
            at = at.join(component);
            directory = match root.directory(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    durable::make_directory(directory.as_fd(), component, 0o755)
                        .and_then(|()| durable::sync_directory(directory.as_fd()))
                        .map_err(|e| self.failed("make the directory of", e))?;
                    made.get_or_insert(at.clone());
                    root.directory(&at)
                }
                other => other,
            }
            .map_err(|e| self.failed("open the directory of", e))?;
        }
        Ok((directory, made))
    }
}

struct Put<'a> {
    asked: &'a Asked,
    root: &'a Root,
    directory: BorrowedFd<'a>,
    name: &'a [u8],
    before: Option<&'a Current>,
}

impl Put<'_> {
    fn put(&self, data: &[u8], mode: Option<u16>) -> Result<(), ChangeError> {
        let temporary = temporary_name();
        let put = self.write(&temporary, data, mode).and_then(|()| self.swap(&temporary));
        if put.is_err() {
            // Gone already when the swap succeeded; else only our own file.
            let _ = durable::remove(self.directory, &temporary);
        }
        put
    }

    fn write(&self, temporary: &[u8], data: &[u8], mode: Option<u16>) -> Result<(), ChangeError> {
        let write = || {
            let file = durable::create(self.directory, temporary, 0o600)?;
            durable::write_at(&file, data, 0)?;
            let (meta, ids) = self.attributes(&file, mode)?;
            durable::put_on_file(file.as_fd(), &meta, ids)?;
            if let Some(before) = self.before {
                attributes::copy_label(&before.file, &file)?;
            }
            durable::sync_file(file.as_fd())
        };
        write().map_err(|e| self.asked.failed("write", e))
    }

    /// Those of the file that is replaced; its time is now.
    fn attributes(&self, new: &File, mode: Option<u16>) -> io::Result<(Meta, (u32, u32))> {
        let stat = match self.before {
            Some(before) => before.stat.clone(),
            None => new.metadata()?,
        };
        let there = self.before.map(|before| (before.stat.mode() & 0o7777) as u16);
        let xattrs = match self.before {
            Some(before) => attributes::read(before.file.as_fd(), true)?.xattrs,
            None => None,
        };
        let mtime = (now_ms() / 1_000) as i64;
        // Names are for trees; here the numbers count.
        let owner = Owners::default().get("0", "0").map_err(io::Error::other)?;
        let meta = Meta { mode: mode.or(there).unwrap_or(0o644), owner, mtime, xattrs };
        Ok((meta, (stat.uid(), stat.gid())))
    }

    fn swap(&self, temporary: &[u8]) -> Result<(), ChangeError> {
        self.asked.unchanged(self.root, self.before)?;
        let name = |name| durable::Name { directory: self.directory, name };
        let swapped = match self.before {
            Some(_) => durable::rename(name(temporary), name(self.name)),
            None => durable::rename_new(name(temporary), name(self.name)),
        };
        swapped.map_err(|e| self.asked.failed("write", e))
    }
}

fn temporary_name() -> Vec<u8> {
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).expect("the system's random source answers");
    format!(".bellwether.put-{}", data_encoding::HEXLOWER.encode(&random)).into_bytes()
}

/// BLAKE3 of a file of any size, from its beginning.
fn hash(mut file: &File) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    file.rewind()?;
    hasher.update_reader(file)?;
    Ok(Hash::from(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests;
