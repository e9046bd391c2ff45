//! The range of times of a file system: XFS without `bigtime` ends in 2038, and FAT has every second second. No system
//! call tells it, so it is probed, once per mount, with a file that has no name.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{LazyLock, Mutex},
};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT, fstat, futimens, openat, statx, unlinkat,
    },
    io::Errno,
};

use crate::mutex::locked;

/// The name for a file system without nameless files; excluded from every set.
const NAME: &str = ".bellwether.times";
/// The most mounts that are remembered.
const REMEMBERED: usize = 1_000;

type Mount = ((u32, u32), u64);

static KNOWN: LazyLock<Mutex<HashMap<Mount, Option<Times>>>> = LazyLock::new(Mutex::default);

/// The times that a file system can hold, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    earliest: i64,
    latest: i64,
    /// Seconds between two of them.
    step: i64,
}

impl Times {
    /// The time that an entry shows after it was set to `wanted`.
    fn shown(self, wanted: i64) -> i64 {
        let within = wanted.clamp(self.earliest, self.latest);
        within - within.rem_euclid(self.step)
    }

    /// Probes it with an open file.
    fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        /// Of 2001, an odd number.
        const ODD: i64 = 1_000_000_001;
        let (earliest, latest) = (given(file, i64::MIN)?, given(file, i64::MAX)?);
        let step = if given(file, ODD)? == ODD { 1 } else { 2 };
        let times = Self { earliest, latest, step };
        // A file system with another behaviour is taken at its word.
        if given(file, ODD)? == times.shown(ODD) { Ok(times) } else { Err(Errno::NOTSUP.into()) }
    }
}

/// The time that `file` shows after it was set to `tv_sec`.
fn given(file: BorrowedFd<'_>, tv_sec: i64) -> io::Result<i64> {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    futimens(file, &Timestamps { last_access, last_modification: Timespec { tv_sec, tv_nsec: 0 } })?;
    Ok(fstat(file)?.st_mtime)
}

/// Whether an entry in the file system of `directory` shows `found` after it was set to `wanted`.
pub fn is_shown(directory: BorrowedFd<'_>, wanted: i64, found: i64) -> bool {
    wanted == found || times(directory).is_some_and(|times| times.shown(wanted) == found)
}

/// None if it cannot be probed (a read-only file system).
fn times(directory: BorrowedFd<'_>) -> Option<Times> {
    let stat = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).ok()?;
    let mount = ((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_mnt_id);
    let mut known = locked(&KNOWN);
    if let Some(times) = known.get(&mount) {
        return *times;
    }
    let times = nameless(directory).and_then(|file| Times::of(file.as_fd())).ok();
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(mount, times);
    times
}

/// A new empty file that disappears when it is closed.
fn nameless(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(directory, ".", flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        other => return Ok(other?),
    }
    let create = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let file = match openat(directory, NAME, create, Mode::RUSR | Mode::WUSR) {
        // A crash left it.
        Err(Errno::EXIST) => {
            unlinkat(directory, NAME, AtFlags::empty())?;
            openat(directory, NAME, create, Mode::RUSR | Mode::WUSR)
        }
        other => other,
    };
    unlinkat(directory, NAME, AtFlags::empty())?;
    Ok(file?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_system_cannot_hold_is_shown_as_the_nearest_that_it_can() {
        let xfs = Times { earliest: -(1 << 31), latest: (1 << 31) - 1, step: 1 };
        assert_eq!(
            [-1 << 40, -7, 1_700_000_001, 1 << 40].map(|t| xfs.shown(t)),
            [-(1 << 31), -7, 1_700_000_001, (1 << 31) - 1]
        );
        let fat = Times { earliest: 315_532_800, latest: 4_354_819_198, step: 2 };
        assert_eq!(
            [0, 1_700_000_001, 1_700_000_000].map(|t| fat.shown(t)),
            [315_532_800, 1_700_000_000, 1_700_000_000]
        );
    }

    #[test]
    fn a_time_that_can_be_held_is_shown_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let held = std::fs::File::open(directory.path()).unwrap();
        assert!(is_shown(held.as_fd(), 1_700_000_001, 1_700_000_001));
        assert!(!is_shown(held.as_fd(), 1_700_000_001, 1_700_000_000));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
