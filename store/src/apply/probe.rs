//! Whether a rename leads from a staging place into its set: tried, since nothing else says it for every file system.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{LazyLock, Mutex, PoisonError},
};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};

use super::{look, place::INSIDE};
use crate::{
    beneath::os,
    durable::{self, Name},
};

/// A directory as long as it is mounted: device, mount, inode.
type Identity = ((u32, u32), u64, u64);

/// Places that this process has tried, the directory that holds staging and the set: what changes there later stops a
/// switch, which is taken back.
static PROVED: LazyLock<Mutex<HashSet<[Identity; 2]>>> = LazyLock::new(Mutex::default);
/// Places that are remembered.
const REMEMBERED: usize = 1_000;

/// Renames a file from `staging`, which is in `holder`, into the set and back, unless that was done before.
pub(super) fn prove(holder: BorrowedFd<'_>, staging: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<()> {
    let place = identity(holder)?.zip(identity(root)?).map(|(holder, root)| [holder, root]);
    let proved = || PROVED.lock().unwrap_or_else(PoisonError::into_inner);
    if place.is_some_and(|place| proved().contains(&place)) {
        return Ok(());
    }
    probe(staging, root)?;
    if let Some(place) = place {
        let mut proved = proved();
        if proved.len() >= REMEMBERED {
            proved.clear();
        }
        proved.insert(place);
    }
    Ok(())
}

/// None where the kernel does not say which mount it is.
fn identity(directory: BorrowedFd<'_>) -> io::Result<Option<Identity>> {
    let stat = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let known = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Ok(known.then_some(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_mnt_id, stat.stx_ino)))
}

/// Removes the probe that a crash left in the set.
pub(super) fn remove(root: BorrowedFd<'_>) -> io::Result<()> {
    match look::look(root, INSIDE)? {
        Some(seen) if seen.shape == look::Shape::File && seen.size == 0 => durable::remove(root, INSIDE),
        Some(_) | None => Ok(()),
    }
}

/// Renames a file from staging into the set and back, under the one name there that is never scanned.
fn probe(staging: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<()> {
    const PROBE: &[u8] = b"probe";
    let from = Name { directory: staging, name: PROBE };
    drop(durable::create(staging, PROBE, 0o600)?);
    let moved = match look::look(root, INSIDE)? {
        Some(seen) if seen.shape == look::Shape::Directory => {
            let inside = openat(
                root,
                os(INSIDE),
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            there_and_back(from, Name { directory: inside.as_fd(), name: b"probe.there" })
        }
        _ => there_and_back(from, Name { directory: root, name: INSIDE }),
    };
    moved.and_then(|()| durable::remove(staging, PROBE))
}

fn there_and_back(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    durable::rename(from, to)?;
    durable::rename(to, from)
}
