//! Opens only entries inside a set: the kernel resolves every path beneath a held directory, through no symbolic link and
//! across no mount (`openat2`, invariant 7).

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use bellwether_proto::entry::EntryPath;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// A component or relative path as the system calls take it.
pub fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Opens a set's root, or another directory that an administrator named. Its last component may not be a symbolic link.
///
/// # Errors
/// The system's.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(rustix::fs::CWD, path, flags, Mode::empty())?)
}

/// Opens a directory beneath `root`; `root` itself for the empty path.
///
/// # Errors
/// ELOOP through a symbolic link, EXDEV across a mount or out of `root`, and the system's others.
pub fn open_directory(root: BorrowedFd<'_>, path: &EntryPath) -> io::Result<OwnedFd> {
    let path = if path.is_root() { b"." } else { path.as_bytes() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat2(root, os(path), flags, Mode::empty(), RESOLVE)?)
}

/// Opens a file beneath `directory` for reading. Never blocks on a fifo; the caller checks that it is a regular file.
///
/// # Errors
/// As [`open_directory`].
pub fn open_file(directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(openat2(directory, os(path), flags, Mode::empty(), RESOLVE)?))
}

/// A set's root, held open. Every entry that is opened through it is inside it.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Holds `path` open.
    ///
    /// # Errors
    /// As [`open_root`].
    pub fn open(path: &Path) -> io::Result<Self> {
        open_root(path).map(Self)
    }

    /// A directory inside.
    ///
    /// # Errors
    /// As [`open_directory`].
    pub fn directory(&self, path: &EntryPath) -> io::Result<OwnedFd> {
        open_directory(self.0.as_fd(), path)
    }

    /// A file inside, for reading.
    ///
    /// # Errors
    /// As [`open_file`].
    pub fn file(&self, path: &EntryPath) -> io::Result<File> {
        open_file(self.0.as_fd(), path.as_bytes())
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
