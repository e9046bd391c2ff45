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
    attributes::{Accounts, Names, is_shown, read, xattr_called},
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
        (Kind::Link(target), Shape::Link) => Ok(is_shown(at.directory, entry.meta.mtime, seen.mtime.0)
            && readlinkat(at.directory, os(at.name), Vec::new())?.as_bytes() == target.as_ref()),
        (Kind::Directory, Shape::Directory) => {
            let directory = open_directory(at)?;
            Ok(seen.mode == entry.meta.mode && same_xattrs(directory.as_fd(), &entry.meta, rules)?)
        }
        (Kind::File(content), Shape::File) => {
            let time = is_shown(at.directory, entry.meta.mtime, seen.mtime.0);
            if seen.mode != entry.meta.mode || !time || seen.size != content.size() {
                return Ok(false);
            }
            let file = open_file(at.directory, at.name)?;
            Ok(same_xattrs(file.as_fd(), &entry.meta, rules)? && same_content(&file, content)?)
        }
        (Kind::Link(_) | Kind::Directory | Kind::File(_), _) => Ok(false),
    }
}

/// Whether an entry of `directory` could be `entry`, as far as its stat says.
pub(super) fn resembles(directory: BorrowedFd<'_>, seen: &Seen, entry: &Entry) -> bool {
    let time = seen.mtime.1 == 0 && is_shown(directory, entry.meta.mtime, seen.mtime.0);
    match (&entry.kind, seen.shape) {
        (Kind::Link(target), Shape::Link) => time && seen.size == target.len() as u64,
        (Kind::Directory, Shape::Directory) => true,
        (Kind::File(content), Shape::File) => time && seen.size == content.size() && seen.mode == entry.meta.mode,
        (Kind::Link(_) | Kind::Directory | Kind::File(_), _) => false,
    }
}

/// What of `now` is not as `wanted`, for people.
pub(super) fn difference(now: Option<&Entry>, wanted: Option<&Entry>) -> String {
    let (now, wanted) = match (now, wanted) {
        (Some(now), Some(wanted)) => (now, wanted),
        (None, _) => return "nothing is there".to_owned(),
        (Some(_), None) => return "something is there".to_owned(),
    };
    if now.kind != wanted.kind {
        return "it has another content".to_owned();
    }
    let (is, due) = (&now.meta, &wanted.meta);
    if is.mode != due.mode {
        return format!("its mode is {:04o}, not {:04o}", is.mode, due.mode);
    }
    if is.owner != due.owner {
        let called = |meta: &Meta| format!("{}:{}", meta.owner.user, meta.owner.group);
        return format!("its owner is {}, not {}", called(is), called(due));
    }
    if is.mtime != due.mtime {
        let utc = bellwether_proto::time::utc;
        return format!("its time is {}, not {}", utc(is.mtime), utc(due.mtime));
    }
    let list = |meta: &Meta| meta.xattrs.iter().flat_map(|list| list.iter()).cloned().collect::<Vec<_>>();
    let (is, due) = (list(is), list(due));
    let other = due.iter().find(|one| !is.contains(one)).or_else(|| is.iter().find(|one| !due.contains(one)));
    let name = other.map(|(name, _)| xattr_called(name)).unwrap_or_default();
    format!("{name} is another")
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
