//! The status of an entry, and its consequences.

use std::{os::fd::BorrowedFd, time::SystemTime};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, statx};

use crate::{
    beneath::os,
    tree::{Node, Stat},
};

const MS: i128 = 1_000_000;
/// Twice the coarsest clock with which a kernel stamps files (10 ms at 100 Hz), in nanoseconds.
const SETTLED: i128 = 20 * MS;
/// The same for a file system that keeps whole seconds.
const SETTLED_SECONDS: i128 = 1_020 * MS;
/// Times further ahead than this come from a clock that was set back: waiting does not help.
const AHEAD: i128 = 1_000 * MS;

/// The status of `name` (empty: of `directory` itself); never follows a link, nor mounts anything.
pub(super) fn status(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    statx(directory, os(name), flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

pub(super) fn file_type(status: &Statx) -> FileType {
    FileType::from_raw_mode(status.stx_mode.into())
}

pub(super) fn stat(status: &Statx) -> Stat {
    Stat {
        inode: status.stx_ino,
        ctime: status.stx_ctime.tv_sec,
        ctime_ns: status.stx_ctime.tv_nsec,
        mtime_ns: status.stx_mtime.tv_nsec,
    }
}

/// Whether both show the same file, with no change between them.
pub(super) fn same_moment(a: &Statx, b: &Statx) -> bool {
    stat(a) == stat(b) && a.stx_mtime.tv_sec == b.stx_mtime.tv_sec && a.stx_size == b.stx_size
}

/// Whether `known` was read at exactly this status.
pub(super) fn is_known(known: &Node, status: &Statx) -> bool {
    let same = |known: &Stat, mtime| known.is_known() && *known == stat(status) && mtime == status.stx_mtime.tv_sec;
    match known {
        Node::Directory(_) => false,
        Node::File { meta, content, stat } => {
            file_type(status) == FileType::RegularFile && same(stat, meta.mtime) && content.size() == status.stx_size
        }
        Node::Link { meta, stat, .. } => file_type(status) == FileType::Symlink && same(stat, meta.mtime),
    }
}

/// Whether a later change must show in a file's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It must: the times can be trusted.
    Settled,
    /// It may not, for some milliseconds more.
    Young,
    /// It may not, until a clock that was set back has caught up: every scan reads the file.
    Ahead,
}

/// The age at `now`, taken before the file was read. The status change decides: every write updates it, and no program
/// can set it. (A modification time in the far future is therefore no reason to read again; one of this moment is, for
/// file systems that update the other late.)
pub(super) fn age(status: &Statx, now: SystemTime) -> Age {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
    let (ctime, mtime) = (nanoseconds(status.stx_ctime), nanoseconds(status.stx_mtime));
    let settled = if status.stx_ctime.tv_nsec == 0 { SETTLED_SECONDS } else { SETTLED };
    if ctime > now + AHEAD {
        return Age::Ahead;
    }
    let late = mtime <= now + AHEAD && mtime + SETTLED > now;
    if ctime + settled > now || late { Age::Young } else { Age::Settled }
}

fn nanoseconds(time: StatxTimestamp) -> i128 {
    i128::from(time.tv_sec) * 1_000 * MS + i128::from(time.tv_nsec)
}

/// The file system of a set: entries of another one are behind a mount.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileSystemId {
    device: (u32, u32),
    /// None before Linux 5.8.
    mount: Option<u64>,
}

impl FileSystemId {
    pub(super) fn of(status: &Statx) -> Self {
        let known = status.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        Self { device: (status.stx_dev_major, status.stx_dev_minor), mount: known.then_some(status.stx_mnt_id) }
    }

    /// The obstacle if `status` is not in this file system. One overlay may have files and directories on two devices.
    pub(super) fn left_by(&self, status: &Statx) -> Option<&'static str> {
        let there = Self::of(status);
        let device = self.device != there.device;
        match (self.mount, there.mount) {
            (Some(here), Some(there)) if here != there => Some("a mount point"),
            (Some(_), Some(_)) if file_type(status) != FileType::Directory => None,
            _ => device.then_some("on another device"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, time::Duration};

    use super::*;

    fn at(ctime: (i64, u32), mtime: (i64, u32)) -> Statx {
        let mut status = status(rustix::fs::CWD, b".").unwrap();
        (status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec) = ctime;
        (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec) = mtime;
        status
    }

    #[test]
    fn what_may_still_change_unseen_is_young() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500);
        let old = (900, 1);
        assert_eq!(age(&at(old, old), now), Age::Settled);
        assert_eq!(age(&at((1_000, 480_000_000), old), now), Age::Settled);
        assert_eq!(age(&at((1_000, 480_000_001), old), now), Age::Young);
        assert_eq!(age(&at((1_001, 1), old), now), Age::Young);
        assert_eq!(age(&at((1_002, 1), old), now), Age::Ahead);
        assert_eq!(age(&at(old, (1_000, 490_000_000)), now), Age::Young);
        assert_eq!(age(&at(old, (9_000, 0)), now), Age::Settled);
        assert_eq!(age(&at((1_000, 0), old), now), Age::Young, "whole seconds");
        assert_eq!(age(&at((999, 0), old), now), Age::Settled, "whole seconds");
        assert_eq!(age(&at((i64::MIN, 5), (i64::MAX, 5)), now), Age::Settled);
    }

    #[test]
    fn another_mount_is_elsewhere() {
        let here = FileSystemId::of(&status(rustix::fs::CWD, b".").unwrap());
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(here.left_by(&status(proc.as_fd(), b"").unwrap()).is_some());
        assert_eq!(here.left_by(&status(rustix::fs::CWD, b".").unwrap()), None);
    }
}
