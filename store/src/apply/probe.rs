//! Whether a rename leads from a staging place into its set, and whether names there differ by case: tried, since nothing
//! else says it for every file system.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{LazyLock, Mutex},
};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};

use super::{look, place::INSIDE};
use crate::{
    beneath::os,
    durable::{self, Name},
    mutex::locked,
};

/// A directory as long as it is mounted: device, mount, inode.
pub(super) type Identity = ((u32, u32), u64, u64);

/// Places that this process has tried, the directory that holds staging and the set: what changes there later stops a
/// switch, which is taken back.
/// And whether case does not count in the set's root.
static PROVED: LazyLock<Mutex<HashMap<[Identity; 2], bool>>> = LazyLock::new(Mutex::default);
/// Places that are remembered.
const REMEMBERED: usize = 1_000;

/// Renames a file from `staging`, which is in `holder`, into the set and back, unless that was done before. Whether case does
/// not count in the set's root.
pub(super) fn prove(holder: BorrowedFd<'_>, staging: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<bool> {
    let place = identities(holder, root);
    let proved = || locked(&PROVED);
    if let Some(folds) = place.and_then(|place| proved().get(&place).copied()) {
        return Ok(folds);
    }
    let folds = probe(staging, root)?;
    if let Some(place) = place {
        let mut proved = proved();
        if proved.len() >= REMEMBERED {
            proved.clear();
        }
        proved.insert(place, folds);
    }
    Ok(folds)
}

/// What two directories are; none where the kernel does not say it.
pub(super) fn identities(holder: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Option<[Identity; 2]> {
    Some([identity(holder).ok()??, identity(root).ok()??])
}

/// None where the kernel does not say which mount it is.
pub(super) fn identity(directory: BorrowedFd<'_>) -> io::Result<Option<Identity>> {
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
fn probe(staging: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<bool> {
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
    let folds = moved?;
    durable::remove(staging, PROBE)?;
    Ok(folds)
}

/// Whether the name it had there is found in capitals, too.
fn there_and_back(from: Name<'_>, to: Name<'_>) -> io::Result<bool> {
    durable::rename(from, to)?;
    let folds = look::look(to.directory, &to.name.to_ascii_uppercase());
    durable::rename(to, from)?;
    Ok(folds?.is_some())
}
