//! Free space per file system, before anything is staged (W4).

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::fs::{fstat, stat, statvfs};

use super::{Refused, place::Area};

/// What stays free on a file system: the smaller of this and a hundredth of it.
const RESERVE: u64 = 64 << 20;

/// What one file system has to hold.
#[derive(Debug, Clone)]
pub(super) struct Need {
    device: u64,
    mount: PathBuf,
    staged: u64,
    replaced: u64,
    history: u64,
    /// Files, links and directories that are made there.
    entries: u64,
}

/// What the apply needs: `staged` (entries and bytes) for each area, `replaced` bytes that become kept copies, and the history.
pub(super) fn needs(areas: &[Area], state: &Path, staged: &[(u64, u64)], replaced: &[u64], history: u64) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    let state_device = stat(state).map(|stat| stat.st_dev).unwrap_or_default();
    let mut add = |device, mount: PathBuf, (entries, staged), replaced, history| match needs
        .iter_mut()
        .find(|n| n.device == device)
    {
        Some(need) => {
            need.entries += entries;
            need.staged += staged;
            need.replaced += replaced;
            need.history += history;
        }
        None => needs.push(Need { device, mount, staged, replaced, history, entries }),
    };
    add(state_device, state.to_owned(), (0, 0), 0, history);
    for ((area, staged), replaced) in areas.iter().zip(staged).zip(replaced) {
        let device = fstat(area.staging.as_fd()).map(|stat| stat.st_dev).unwrap_or_default();
        add(device, area.staging_path(), *staged, 0, 0);
        // On the same file system what is kept is renamed: it needs nothing more.
        if device != state_device {
            add(state_device, state.to_owned(), (0, 0), *replaced, 0);
        }
    }
    needs
}

/// Refuses when a file system has too little.
pub(super) fn check(needs: &[Need]) -> Result<(), Refused> {
    needs.iter().try_for_each(|need| {
        let Ok(free) = free(&need.mount) else { return Ok(()) };
        if free.lacks(need.total(), need.entries) { Err(need.refused(free)) } else { Ok(()) }
    })
}

/// The refusal after a file system was found full.
pub(super) fn full(needs: &[Need], area: &Area) -> Option<Refused> {
    let device = fstat(area.staging.as_fd()).ok()?.st_dev;
    let need = needs.iter().find(|need| need.device == device)?;
    Some(need.refused(free(&need.mount).ok()?))
}

/// Whether the file system of `at` has less than `bytes` and `entries`; none when it does not say.
pub(super) fn lacks(at: &Path, bytes: u64, entries: u64) -> Option<bool> {
    Some(free(at).ok()?.lacks(bytes, entries))
}

/// What is free to this user.
#[derive(Debug, Clone, Copy)]
struct Free {
    bytes: u64,
    /// What of these is to stay free.
    reserve: u64,
    /// None where the file system makes entries as long as it has bytes.
    entries: Option<u64>,
}

impl Free {
    fn lacks(self, bytes: u64, entries: u64) -> bool {
        bytes.saturating_add(self.reserve) > self.bytes || self.entries.is_some_and(|free| entries > free)
    }
}

fn free(at: &Path) -> std::io::Result<Free> {
    let stat = statvfs(at)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Free {
        // A file system without a size (ramfs) says that it has none.
        bytes: if stat.f_blocks == 0 { u64::MAX } else { bytes(stat.f_bavail) },
        reserve: RESERVE.min(bytes(stat.f_blocks) / 100),
        entries: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

impl Need {
    fn total(&self) -> u64 {
        self.staged.saturating_add(self.replaced).saturating_add(self.history)
    }

    fn refused(&self, free: Free) -> Refused {
        let Self { mount, staged, replaced, history, entries, .. } = self.clone();
        match free.entries.filter(|free| entries > *free) {
            Some(free) => Refused::Entries { mount, free, needed: entries },
            None => {
                Refused::Space { mount, free: free.bytes, needed: self.total(), staged, replaced, history, entries }
            }
        }
    }
}
