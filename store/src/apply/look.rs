//! Looking at one entry on the disk, following nothing.

use std::{io, os::fd::BorrowedFd};

use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags, statx};

/// The flags of chattr(1) that keep an entry, or what a directory holds, from being replaced.
pub(super) const FLAGS: StatxAttributes = StatxAttributes::IMMUTABLE.union(StatxAttributes::APPEND);

use crate::{
    beneath::os,
    tree::{Node, Stat},
};

/// What kind of thing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    File,
    Directory,
    Link,
    /// A socket, fifo or device: never carried, never touched.
    Other(&'static str),
}

/// What the file system says of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) shape: Shape,
    pub(super) inode: u64,
    pub(super) mode: u16,
    pub(super) ids: (u32, u32),
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) ctime: (i64, u32),
    /// Whether something is mounted here.
    pub(super) mount: bool,
    /// Those of [`FLAGS`] that it has.
    pub(super) flags: StatxAttributes,
}

/// What is at `name` of `directory`; none when nothing is.
pub(super) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Seen>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = match statx(directory, os(name), flags, StatxFlags::BASIC_STATS) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let shape = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Shape::File,
        FileType::Directory => Shape::Directory,
        FileType::Symlink => Shape::Link,
        FileType::Socket => Shape::Other("a socket"),
        FileType::Fifo => Shape::Other("a fifo"),
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => Shape::Other("a device"),
    };
    Ok(Some(Seen {
        shape,
        inode: stat.stx_ino,
        mode: stat.stx_mode & 0o7777,
        ids: (stat.stx_uid, stat.stx_gid),
        size: stat.stx_size,
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        mount: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        flags: stat.stx_attributes & FLAGS,
    }))
}

/// Those of [`FLAGS`] that an open directory has.
pub(super) fn flags(directory: BorrowedFd<'_>) -> io::Result<StatxAttributes> {
    Ok(statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?.stx_attributes & FLAGS)
}

impl Seen {
    /// Whether this is still what the scan read as `node` (a file or link).
    pub(super) fn is(&self, node: &Node) -> bool {
        let same = |stat: &Stat, mtime: i64| {
            stat.is_known()
                && stat.inode == self.inode
                && (stat.ctime, stat.ctime_ns) == self.ctime
                && (mtime, stat.mtime_ns) == self.mtime
        };
        match (self.shape, node) {
            (Shape::File, Node::File { meta, stat, content }) => same(stat, meta.mtime) && content.size() == self.size,
            (Shape::Link, Node::Link { meta, stat, .. }) => same(stat, meta.mtime),
            (Shape::File | Shape::Link | Shape::Directory | Shape::Other(_), _) => false,
        }
    }
}
