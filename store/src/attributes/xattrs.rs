//! The travelling extended attributes, read from and put on a descriptor.

use std::{io, os::fd::BorrowedFd};

use bellwether_proto::{
    entry::{Xattrs, xattr_travels},
    limits,
};
use rustix::{
    buffer::spare_capacity,
    fs::{XattrFlags, fgetxattr, fgetxattr_query, flistxattr, flistxattr_query, fremovexattr, fsetxattr},
    io::Errno,
};

use super::unheld::{Unheld, xattr_called};
use crate::beneath::os;

const CAPABILITY: &[u8] = b"security.capability";

/// The travelling attributes of an entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sorted by name; none if there are none.
    pub xattrs: Option<Box<Xattrs>>,
    /// The number left out because of [`limits::XATTRS`].
    pub over: usize,
}

/// Reads the travelling attributes of a file or directory that is open for reading; capabilities only if they are
/// allowed. One system call if there are none. (The kernel refuses all of these on symbolic links.)
///
/// # Errors
/// The system's.
pub fn read(fd: BorrowedFd<'_>, capabilities: bool) -> io::Result<Found> {
    let names = names(fd)?;
    let mut wanted: Vec<&[u8]> = split(&names).filter(|name| carried(name, capabilities)).collect();
    if wanted.is_empty() {
        return Ok(Found::default());
    }
    wanted.sort_unstable();
    let (mut list, mut bytes, mut over) = (Vec::new(), 0, 0);
    for name in wanted {
        let Some(value) = value(fd, name)? else { continue };
        let size = name.len() + value.len();
        if list.len() == limits::XATTRS.0 || bytes + size > limits::XATTRS.1 {
            over += 1;
            continue;
        }
        bytes += size;
        list.push((name.into(), value.into()));
    }
    let xattrs = if list.is_empty() { None } else { Some(Box::new(list.into_boxed_slice())) };
    Ok(Found { xattrs, over })
}

fn carried(name: &[u8], capabilities: bool) -> bool {
    xattr_travels(name) && (capabilities || name != CAPABILITY)
}

fn split(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|&byte| byte == 0).filter(|name| !name.is_empty())
}

/// All names, each followed by NUL; empty if the file system has no attributes.
fn names(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut names = Vec::with_capacity(512);
    loop {
        match flistxattr(fd, spare_capacity(&mut names)) {
            Ok(_) => return Ok(names),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            // One may be added between the two calls, so this repeats until all fit.
            Err(Errno::RANGE) => names.reserve(flistxattr_query(fd)?.max(names.capacity() * 2)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One value; none if it is gone.
fn value(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(256);
    loop {
        match fgetxattr(fd, os(name), spare_capacity(&mut value)) {
            Ok(_) => return Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) => value.reserve(fgetxattr_query(fd, os(name))?.max(value.capacity() * 2)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the attributes of the travelling kinds, including capabilities, exactly `wanted`; others are not touched.
pub(super) fn put(fd: BorrowedFd<'_>, wanted: Option<&Xattrs>) -> io::Result<()> {
    let wanted = wanted.map_or(&[][..], |list| list);
    let names = names(fd)?;
    for name in split(&names).filter(|name| carried(name, true)) {
        if wanted.binary_search_by(|(w, _)| w.as_ref().cmp(name)).is_err() {
            gone(fremovexattr(fd, os(name)))?;
        }
    }
    for (name, wanted) in wanted {
        if value(fd, name)?.as_deref() != Some(wanted) {
            let set = fsetxattr(fd, os(name), wanted, XattrFlags::empty());
            set.map_err(|error| Unheld::named(error, || xattr_called(name)))?;
        }
    }
    Ok(())
}

fn gone(removed: rustix::io::Result<()>) -> io::Result<()> {
    match removed {
        Err(Errno::NODATA) => Ok(()),
        other => Ok(other?),
    }
}
