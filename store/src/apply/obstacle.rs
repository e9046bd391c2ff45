//! What stands in the way of a revision on this server and may pass, and whether it is still there (W8).

use std::{
    error::Error,
    io::{self, ErrorKind},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use bellwether_proto::{
    entry::{EntryPath, Owner},
    status::Cause,
};
use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, statvfs, statx};

use super::{
    look::{FLAGS, Shape, look},
    space,
};
use crate::{
    attributes::Accounts,
    beneath::{open_directory, open_root, os},
};

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Fewer bytes or entries are free there than the revision needs.
    Space {
        /// A place on that file system.
        at: PathBuf,
        /// Bytes needed.
        bytes: u64,
        /// Entries needed.
        entries: u64,
    },
    /// A quota is used up there.
    Quota,
    /// That file system is mounted for reading only.
    ReadOnly {
        /// A place on it.
        at: PathBuf,
    },
    /// A mount point, a link or a special file is where the revision has something else, or on the way there.
    InTheWay {
        /// The set's root.
        root: PathBuf,
        /// The entry.
        path: EntryPath,
    },
    /// An account is missing.
    Account {
        /// The owner that has it.
        owner: Owner,
    },
    /// An entry, or the directory that holds it, is immutable or may only be appended to.
    Flag {
        /// The one that has the flag.
        at: PathBuf,
    },
    /// Somebody uses what is to be replaced, or stages for the same set.
    Busy,
    /// An error of the system.
    System,
}

impl Obstacle {
    /// What the system's `error` at `path` stands for.
    pub fn of_io(path: &Path, error: &io::Error) -> Self {
        let at = path.to_owned();
        match error.kind() {
            ErrorKind::StorageFull => Self::Space { at, bytes: 1, entries: 1 },
            ErrorKind::QuotaExceeded => Self::Quota,
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { at },
            ErrorKind::ResourceBusy | ErrorKind::ExecutableFileBusy | ErrorKind::WouldBlock => Self::Busy,
            _ => Self::System,
        }
    }

    /// What the first error of the system in `error`'s chain stands for, at `path`; none without one.
    pub fn of_chain(path: &Path, error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Some(Self::of_io(path, error));
            }
            next = error.source();
        }
        None
    }

    /// Its kind.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Space { .. } => Cause::Space,
            Self::Quota => Cause::Quota,
            Self::ReadOnly { .. } => Cause::ReadOnly,
            Self::InTheWay { .. } => Cause::InTheWay,
            Self::Account { .. } => Cause::Account,
            Self::Flag { .. } => Cause::Flag,
            Self::Busy => Cause::Busy,
            Self::System => Cause::System,
        }
    }

    /// Whether it is still there, by a look that costs a few system calls; none where only another try can tell.
    pub fn is_there(&self) -> Option<bool> {
        match self {
            Self::Space { at, bytes, entries } => space::lacks(nearest(at), *bytes, *entries),
            Self::ReadOnly { at } => {
                let stat = statvfs(nearest(at)).ok()?;
                Some(stat.f_flag.contains(StatVfsMountFlags::RDONLY))
            }
            Self::InTheWay { root, path } => in_the_way(root, path),
            Self::Account { owner } => Some(Accounts::remembered().ids(owner).is_err()),
            Self::Flag { at } => {
                let stat = statx(CWD, at, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).ok()?;
                Some(stat.stx_attributes.intersects(FLAGS))
            }
            Self::Quota | Self::Busy | Self::System => None,
        }
    }
}

/// The path itself, or the nearest directory above it that exists.
fn nearest(at: &Path) -> &Path {
    at.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"))
}

/// Whether the entry, or one above it in the set, is something that is not followed.
fn in_the_way(root: &Path, path: &EntryPath) -> Option<bool> {
    if path.is_root() {
        return Some(!root.symlink_metadata().ok()?.is_dir());
    }
    let mut directory = open_root(root).ok()?;
    for component in path.components() {
        let Some(seen) = look(directory.as_fd(), component).ok()? else { return Some(false) };
        match seen.shape {
            _ if seen.mount => return Some(true),
            Shape::Link | Shape::Other(_) => return Some(true),
            Shape::File => return Some(false),
            Shape::Directory => {}
        }
        directory = open_directory(directory.as_fd(), &EntryPath::new(component).ok()?).ok()?;
    }
    Some(false)
}

/// The word for a flag, and the letter that chattr(1) has for it.
pub(super) fn flag(attributes: StatxAttributes) -> Option<(&'static str, char)> {
    if attributes.contains(StatxAttributes::IMMUTABLE) {
        return Some(("immutable", 'i'));
    }
    attributes.contains(StatxAttributes::APPEND).then_some(("append-only", 'a'))
}

/// The path of a set's entry on this server.
pub(super) fn full(root: &Path, path: &EntryPath) -> PathBuf {
    if path.is_root() { root.to_owned() } else { root.join(os(path.as_bytes())) }
}
