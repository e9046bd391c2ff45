//! Free space per file system, before anything is staged (W4).

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::fs::{fstat, fstatvfs};

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
}

/// What the apply needs: `staged` bytes for each area, `replaced` bytes that become recovery points, and the history.
pub(super) fn needs(areas: &[Area], state: &Path, staged: &[u64], replaced: &[u64], history: u64) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    let state_device = File::open(state).ok().and_then(|held| Some(fstat(held).ok()?.st_dev)).unwrap_or_default();
    let mut add =
        |device, mount: PathBuf, staged, replaced, history| match needs.iter_mut().find(|n| n.device == device) {
            Some(need) => {
                need.staged += staged;
                need.replaced += replaced;
                need.history += history;
            }
            None => needs.push(Need { device, mount, staged, replaced, history }),
        };
    add(state_device, state.to_owned(), 0, 0, history);
    for ((area, staged), replaced) in areas.iter().zip(staged).zip(replaced) {
        let device = fstat(area.staging.as_fd()).map(|stat| stat.st_dev).unwrap_or_default();
        add(device, area.staging_path(), *staged, 0, 0);
        // On the same file system what is kept is renamed: it needs nothing more.
        if device != state_device {
            add(state_device, state.to_owned(), 0, *replaced, 0);
        }
    }
    needs
}

/// Refuses when a file system has too little.
pub(super) fn check(needs: &[Need]) -> Result<(), Refused> {
    needs.iter().try_for_each(|need| {
        let Ok((free, reserve)) = free(&need.mount) else { return Ok(()) };
        if need.total() + reserve > free { Err(need.refused(free)) } else { Ok(()) }
    })
}

/// The refusal after a file system was found full.
pub(super) fn full(needs: &[Need], area: &Area) -> Option<Refused> {
    let device = fstat(area.staging.as_fd()).ok()?.st_dev;
    let need = needs.iter().find(|need| need.device == device)?;
    Some(need.refused(free(&need.mount).ok()?.0))
}

/// Bytes free to this user, and what of them is to stay free.
fn free(at: &Path) -> std::io::Result<(u64, u64)> {
    let stat = fstatvfs(File::open(at)?)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), RESERVE.min(stat.f_blocks.saturating_mul(stat.f_frsize) / 100)))
}

impl Need {
    fn total(&self) -> u64 {
        self.staged.saturating_add(self.replaced).saturating_add(self.history)
    }

    fn refused(&self, free: u64) -> Refused {
        let Self { mount, staged, replaced, history, .. } = self.clone();
        Refused::Space { mount, free, needed: self.total(), staged, replaced, history }
    }
}
