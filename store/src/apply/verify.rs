//! Comparing what is on the disk with an entry, byte by byte.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use bellwether_proto::{
    entry::{Content, Entry, Kind, Meta},
    record::SetRules,
};
use rustix::fs::{Mode, OFlags, openat, readlinkat};

use super::look::{Seen, Shape, look};
use crate::{
    attributes::{Accounts, Names, read},
    beneath::{open_file, os},
    durable::Name,
    scan::content,
};

/// Whether the entry at `at` is exactly `entry`; of a directory, what it holds is not looked at.
pub(super) fn matches(at: Name<'_>, entry: &Entry, rules: &SetRules, accounts: &Accounts) -> io::Result<bool> {
    let Some(seen) = look(at.directory, at.name)? else { return Ok(false) };
    // An owner that does not exist here cannot be the owner of anything here.
    let Ok(ids) = accounts.ids(&entry.meta.owner) else { return Ok(false) };
    if seen.ids != ids {
        return Ok(false);
    }
    match (&entry.kind, seen.shape) {
        (Kind::Link(target), Shape::Link) => Ok(seen.mtime.0 == entry.meta.mtime
            && readlinkat(at.directory, os(at.name), Vec::new())?.as_bytes() == target.as_ref()),
        (Kind::Directory, Shape::Directory) => {
            let directory = open_directory(at)?;
            Ok(seen.mode == entry.meta.mode && same_xattrs(directory.as_fd(), &entry.meta, rules)?)
        }
        (Kind::File(content), Shape::File) => {
            if seen.mode != entry.meta.mode || seen.mtime.0 != entry.meta.mtime || seen.size != content.size() {
                return Ok(false);
            }
            let file = open_file(at.directory, at.name)?;
            Ok(same_xattrs(file.as_fd(), &entry.meta, rules)? && same_content(&file, content)?)
        }
        (Kind::Link(_) | Kind::Directory | Kind::File(_), _) => Ok(false),
    }
}

/// Whether an entry could be `entry`, as far as its stat says.
pub(super) fn resembles(seen: &Seen, entry: &Entry) -> bool {
    match (&entry.kind, seen.shape) {
        (Kind::Link(target), Shape::Link) => seen.mtime == (entry.meta.mtime, 0) && seen.size == target.len() as u64,
        (Kind::Directory, Shape::Directory) => true,
        (Kind::File(content), Shape::File) => {
            seen.mtime == (entry.meta.mtime, 0) && seen.size == content.size() && seen.mode == entry.meta.mode
        }
        (Kind::Link(_) | Kind::Directory | Kind::File(_), _) => false,
    }
}

/// The attributes of a directory, as a scan reads them.
pub(super) fn directory_meta(at: Name<'_>, rules: &SetRules) -> io::Result<Meta> {
    let directory = open_directory(at)?;
    let stat = rustix::fs::fstat(&directory)?;
    let owner = Names::new().owner(stat.st_uid, stat.st_gid);
    let xattrs = read(directory.as_fd(), rules.allow_capabilities)?.xattrs;
    Ok(Meta { mode: (stat.st_mode & 0o7777) as u16, owner, mtime: 0, xattrs })
}

fn open_directory(at: Name<'_>) -> io::Result<OwnedFd> {
    // A set's root may be a mount point.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at.directory, os(at.name), flags, Mode::empty())?)
}

fn same_xattrs(fd: BorrowedFd<'_>, meta: &Meta, rules: &SetRules) -> io::Result<bool> {
    Ok(read(fd, rules.allow_capabilities)?.xattrs == meta.xattrs)
}

fn same_content(file: &File, content: &Content) -> io::Result<bool> {
    // One byte more would make it another file.
    Ok(content::holds(file, content)? && file.read_at(&mut [0], content.size())? == 0)
}
