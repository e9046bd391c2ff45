//! Puts owner, attributes, mode and time on staged or live entries.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use bellwether_proto::entry::Meta;
use rustix::{
    fs::{
        AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown,
        fgetxattr, fsetxattr, fstat, futimens, statat, utimensat,
    },
    io::Errno,
};

use super::{
    unheld::{Unheld, owner_called, xattr_called},
    xattrs,
};
use crate::beneath::os;

const LABEL: &[u8] = b"security.selinux";

/// Puts everything of `meta` on an open file (not an `O_PATH` descriptor).
///
/// # Errors
/// The system's: EPERM without root if the file is to have another owner.
pub fn put_on_file(fd: BorrowedFd<'_>, meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    put_but_time(fd, meta, ids)?;
    Ok(futimens(fd, &times(meta.mtime))?)
}

/// Puts mode, owner and attributes on an open directory, but no time.
///
/// # Errors
/// As [`put_on_file`].
pub fn put_on_directory(fd: BorrowedFd<'_>, meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    put_but_time(fd, meta, ids)
}

/// Puts owner and time on the symbolic link `name` of `directory`; never follows it.
///
/// # Errors
/// As [`put_on_file`]; EPERM for attributes, which a link cannot have.
pub fn put_on_link(directory: BorrowedFd<'_>, name: &[u8], meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    if meta.xattrs.is_some() {
        return Err(Errno::PERM.into());
    }
    let now = statat(directory, os(name), AtFlags::SYMLINK_NOFOLLOW)?;
    if let Some((uid, gid)) = differing(&now, ids) {
        let chowned = chownat(directory, os(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        chowned.map_err(|error| Unheld::named(error, || owner_called(meta)))?;
    }
    Ok(utimensat(directory, os(name), &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The owner comes first, since it clears setuid and capabilities; the mode comes last, since an ACL changes it.
fn put_but_time(fd: BorrowedFd<'_>, meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    let now = fstat(fd)?;
    if let Some((uid, gid)) = differing(&now, ids) {
        fchown(fd, uid, gid).map_err(|error| Unheld::named(error, || owner_called(meta)))?;
    }
    put_xattrs(fd, meta, &now)?;
    let mode = fchmod(fd, Mode::from_raw_mode(meta.mode.into()));
    mode.map_err(|error| Unheld::named(error, || format!("the mode {:04o}", meta.mode)))
}

/// Checks that an open file or directory shows everything of `meta` except its time.
///
/// # Errors
/// [`Unheld`], with the attribute; the system's.
pub fn check(fd: BorrowedFd<'_>, meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    let now = fstat(fd)?;
    let mode = now.st_mode & 0o7777;
    if mode != u32::from(meta.mode) {
        return Err(Unheld::shows(format!("the mode {:04o}", meta.mode), &format!("{mode:04o}")));
    }
    if (now.st_uid, now.st_gid) != ids {
        return Err(Unheld::shows(owner_called(meta), &format!("the numbers {}:{}", now.st_uid, now.st_gid)));
    }
    let Some(wanted) = &meta.xattrs else { return Ok(()) };
    let found = xattrs::read(fd, true)?.xattrs;
    let differs = wanted.iter().find(|wanted| !found.as_ref().is_some_and(|found| found.contains(wanted)));
    match differs {
        Some((name, _)) => Err(Unheld::shows(xattr_called(name), "something else")),
        None => Ok(()),
    }
}

/// Puts attributes; a read-only file is made writable meanwhile, since its owner may not change `user.*` otherwise.
fn put_xattrs(fd: BorrowedFd<'_>, meta: &Meta, now: &Stat) -> io::Result<()> {
    match xattrs::put(fd, meta.xattrs.as_deref()) {
        Err(error) if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
            fchmod(fd, Mode::from_raw_mode(now.st_mode & 0o7777 | 0o200))?;
            xattrs::put(fd, meta.xattrs.as_deref())
        }
        other => other,
    }
}

/// The parts of the owner that have to change, for chown; none if nothing has to, so that this needs no privilege.
fn differing(now: &Stat, (uid, gid): (u32, u32)) -> Option<(Option<Uid>, Option<Gid>)> {
    let uid = (now.st_uid != uid).then(|| Uid::from_raw(uid));
    let gid = (now.st_gid != gid).then(|| Gid::from_raw(gid));
    (uid.is_some() || gid.is_some()).then_some((uid, gid))
}

fn times(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime, tv_nsec: 0 },
    }
}

/// Gives `to` the SELinux label of `from`, if there is one.
///
/// # Errors
/// The system's, if the label cannot be set.
pub fn copy_label(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut label = [0; 4096];
    match fgetxattr(from, os(LABEL), &mut label) {
        Ok(length) => Ok(fsetxattr(to, os(LABEL), &label[..length], XattrFlags::empty())?),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
