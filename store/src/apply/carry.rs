//! Carrying out one operation of a switch, forward or back, from whatever state it is in.
//!
//! An operation has up to three places: the live entry; its name in staging, where the new one is before the switch and
//! the old one after an exchange; and, where exchanges are refused, `NAME.old` in staging for the old one. After a power
//! loss any of the renames may be missing, so each is looked at, and what is there is known by inode or by content.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use bellwether_proto::entry::{Entry, EntryPath, Kind};
use rayon::prelude::*;
use rustix::io::Errno;

use super::{
    journal::{Act, Journal, Operation, Was},
    look::{Seen, Shape, look},
    place::{Area, Held},
    stage, verify,
};
use crate::{
    attributes::Accounts,
    durable::{self, Name},
};

/// What is needed to carry out a journal's operations.
#[derive(Clone, Copy)]
pub(super) struct Carrier<'a> {
    pub(super) areas: &'a [Area],
    pub(super) journal: &'a Journal,
    pub(super) accounts: &'a Accounts,
    /// Whether exchanges are tried; never not, but in tests.
    pub(super) exchange: bool,
}

/// The places of one operation.
struct Places<'a> {
    area: &'a Area,
    held: Held,
    staged: Vec<u8>,
    old: Vec<u8>,
}

impl Places<'_> {
    fn live(&self) -> Name<'_> {
        self.held.at()
    }

    fn staged(&self) -> Name<'_> {
        Name { directory: self.staging(), name: &self.staged }
    }

    fn old(&self) -> Name<'_> {
        Name { directory: self.staging(), name: &self.old }
    }

    fn staging(&self) -> BorrowedFd<'_> {
        self.area.staging.as_fd()
    }
}

/// The second name of an operation in staging.
pub(super) fn old_name(operation: &Operation) -> Vec<u8> {
    [&stage::name(operation)[..], b".old"].concat()
}

fn seen(at: Name<'_>) -> io::Result<Option<Seen>> {
    look(at.directory, at.name)
}

impl<'a> Carrier<'a> {
    fn places(&self, operation: &Operation, held: Held) -> Places<'a> {
        let area = &self.areas[operation.set];
        Places { area, held, staged: stage::name(operation), old: old_name(operation) }
    }

    fn hold(&self, operation: &Operation) -> io::Result<Places<'a>> {
        Ok(self.places(operation, self.areas[operation.set].hold(&operation.path)?))
    }

    /// Carries out an operation of which nothing has happened yet. Says whether that was an exchange.
    pub(super) fn switch(&self, operation: &Operation, held: Held) -> io::Result<bool> {
        let places = self.places(operation, held);
        match &operation.act {
            Act::Put => self.put(&places, operation.was.is_some()),
            Act::Remove => match durable::rename_new(places.live(), places.staged()) {
                // Somebody removed it in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                other => other.map(|()| false),
            },
            Act::Meta { new, .. } => self.meta(operation, new).map(|()| false),
            Act::Unmake { .. } => unmake(&places).map(|()| false),
        }
    }

    /// Puts what is staged in its place; what is there comes to staging. Says whether that was an exchange.
    fn put(&self, places: &Places<'_>, occupied: bool) -> io::Result<bool> {
        let (live, staged) = (places.live(), places.staged());
        if !occupied {
            match durable::rename_new(staged, live) {
                // Something appeared in this moment: exchanged, and kept.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| false),
            }
        }
        let exchanged = if self.exchange { durable::exchange(staged, live) } else { Err(Errno::INVAL.into()) };
        match exchanged {
            Err(error) if error.kind() == io::ErrorKind::NotFound && seen(live)?.is_none() => {
                durable::rename_new(staged, live).map(|()| false)
            }
            Err(error) if refuses_exchange(&error) => replace(places).map(|()| false),
            other => other.map(|()| true),
        }
    }

    /// Whether it was in a directory that goes entry by entry.
    fn is_unmade(&self, operation: &Operation) -> bool {
        !matches!(operation.act, Act::Put) && self.journal.unmakes(operation.set, &operation.path)
    }

    fn meta(&self, operation: &Operation, meta: &bellwether_proto::entry::Meta) -> io::Result<()> {
        let directory = self.areas[operation.set].directory(&operation.path)?;
        let ids = self.accounts.ids(&meta.owner).map_err(io::Error::other)?;
        durable::put_on_directory(directory.as_fd(), meta, ids)
    }

    /// Completes an operation from any state; false when what is to be put is nowhere whole.
    pub(super) fn forward(&self, operation: &Operation) -> io::Result<bool> {
        let places = match self.hold(operation) {
            // The directory that held it was removed, or replaced, after it.
            Err(error) if is_elsewhere(&error) && self.is_unmade(operation) => return Ok(true),
            other => other?,
        };
        match &operation.act {
            Act::Meta { new, .. } => self.meta(operation, new).map(|()| true),
            Act::Unmake { .. } => unmake(&places).map(|()| true),
            Act::Remove => {
                if seen(places.live())?.is_some() {
                    let occupied = seen(places.staged())?.is_some();
                    durable::rename_new(places.live(), if occupied { places.old() } else { places.staged() })?;
                }
                Ok(true)
            }
            Act::Put if self.is_new(operation, places.live())? => Ok(true),
            Act::Put if self.is_new(operation, places.staged())? => {
                self.put(&places, seen(places.live())?.is_some()).map(|_| true)
            }
            Act::Put => Ok(false),
        }
    }

    /// Takes an operation back from any state.
    pub(super) fn back(&self, operation: &Operation) -> io::Result<()> {
        let places = match self.hold(operation) {
            // The directory it was in is gone, and not by this switch.
            Err(error) if error.kind() == io::ErrorKind::NotFound && operation.was.is_none() => return Ok(()),
            other => other?,
        };
        match (&operation.act, &operation.was) {
            (Act::Meta { old, .. }, _) => self.meta(operation, old),
            (Act::Unmake { old }, _) => {
                if seen(places.live())?.is_none() {
                    durable::make_directory(places.live().directory, places.live().name, 0o700)?;
                }
                self.meta(operation, old)
            }
            (Act::Remove, _) => match (seen(places.live())?, seen(places.staged())?) {
                (_, None) => Ok(()),
                (None, Some(_)) => durable::rename_new(places.staged(), places.live()),
                (Some(_), Some(_)) => self.put(&places, true).map(drop),
            },
            (Act::Put, None) => match (seen(places.live())?, seen(places.staged())?) {
                (Some(_), None) => durable::rename_new(places.live(), places.staged()),
                // Never put, or gone by another hand.
                (Some(_) | None, _) => Ok(()),
            },
            (Act::Put, Some(was)) => self.put_back(operation, was, &places),
        }
    }

    fn put_back(&self, operation: &Operation, was: &Was, places: &Places<'_>) -> io::Result<()> {
        let (live, staged) = (seen(places.live())?, seen(places.staged())?);
        match (seen(places.old())?, live) {
            (None, _) => {}
            // A second name of the live one, from a replacement that went no further.
            (Some(old), Some(live)) if live.inode == old.inode => durable::remove(places.staging(), &places.old)?,
            // The new one, from a way back that was interrupted.
            (Some(_), _) if self.is_new(operation, places.old())? => {}
            (Some(_), Some(_)) => return restore(places),
            (Some(_), None) => return durable::rename_new(places.old(), places.live()),
        }
        let new_live = live.is_some() && self.is_new(operation, places.live())?;
        let new_staged = staged.is_some() && self.is_new(operation, places.staged())?;
        match (live, staged) {
            (Some(_), None) if !new_live => Ok(()),
            (None, Some(_)) if new_staged => Ok(()),
            (None, Some(_)) => durable::rename_new(places.staged(), places.live()),
            (Some(live), Some(staged)) => {
                let old_staged = self.is_old(operation, was, &staged, places.staged())?;
                let old_live = self.is_old(operation, was, &live, places.live())?;
                match (new_live && !new_staged, new_staged, old_live, old_staged) {
                    (true, ..) => self.put(places, true).map(drop),
                    (_, true, ..) | (_, _, true, _) => Ok(()),
                    (_, _, _, true) => self.put(places, true).map(drop),
                    _ => Err(io::Error::other("neither the old nor the new one is known any more")),
                }
            }
            (Some(_) | None, None) => Err(io::Error::other("the old one is gone")),
        }
    }

    /// Whether what is at `at` is what the operation puts there, whole.
    fn is_new(&self, operation: &Operation, at: Name<'_>) -> io::Result<bool> {
        let Some(entry) = self.journal.wanted(operation.set, &operation.path) else { return Ok(false) };
        let rules = &self.areas[operation.set].rules;
        match entry.kind {
            // Never exchanged for another directory; what it holds is read back afterwards.
            Kind::Directory => Ok(seen(at)?.is_some_and(|seen| seen.shape == Shape::Directory)),
            Kind::File(_) | Kind::Link(_) => verify::matches(at, entry, rules, self.accounts),
        }
    }

    fn is_old(&self, operation: &Operation, was: &Was, seen: &Seen, at: Name<'_>) -> io::Result<bool> {
        let rules = &self.areas[operation.set].rules;
        match &was.entry {
            _ if was.directory => Ok(seen.shape == Shape::Directory),
            _ if seen.inode == was.inode => Ok(true),
            Some(entry) => verify::matches(at, entry, rules, self.accounts),
            None => Ok(false),
        }
    }

    /// Every path that does not hold what is wanted there, read from the disk.
    pub(super) fn differing(&self) -> Vec<String> {
        let differs = |set: usize, path, entry: Option<&Entry>, stays: bool| -> io::Result<bool> {
            let area = &self.areas[set];
            let held = match area.hold(path) {
                Err(error) if missing(&error) => return Ok(entry.is_some()),
                other => other?,
            };
            match entry {
                Some(entry) => Ok(!verify::matches(held.at(), entry, &area.rules, self.accounts)?),
                None => Ok(!stays && held.look()?.is_some()),
            }
        };
        let wanted = self.journal.wanted.iter();
        wanted
            .filter_map(|w| {
                let named = format!("{}:{}", self.journal.sets[w.set].name, w.path);
                match differs(w.set, &w.path, w.entry.as_ref(), w.stays) {
                    Ok(false) => None,
                    Ok(true) => Some(named),
                    Err(error) => Some(format!("{named} ({error})")),
                }
            })
            .collect()
    }

    /// Makes all operations survive a power loss.
    pub(super) fn sync(&self) -> io::Result<()> {
        let touched = self.touched();
        if touched.len() > stage::SYNC_EACH {
            return self.areas.iter().try_for_each(|area| durable::sync_filesystem(area.staging.as_fd()));
        }
        let staging = |area: &Area| {
            durable::sync_directory(area.staging.as_fd())?;
            area.sync_name()
        };
        let live = |(set, path): (usize, Option<EntryPath>)| self.sync_touched(set, path.as_ref());
        if touched.len() == 1 {
            // One file system: what is synced first brings the others along.
            self.areas.iter().try_for_each(staging)?;
            return touched.into_iter().try_for_each(live);
        }
        // Side by side: a disk flushes once for those that wait for it together.
        let (staging, live) =
            rayon::join(|| self.areas.par_iter().try_for_each(staging), || touched.into_par_iter().try_for_each(live));
        staging.and(live)
    }

    fn sync_touched(&self, set: usize, directory: Option<&EntryPath>) -> io::Result<()> {
        let area = &self.areas[set];
        let Some(path) = directory else { return durable::sync_directory(area.parent()) };
        match area.directory(path) {
            // Gone by another hand: nothing of ours is in it.
            Err(error) if missing(&error) => Ok(()),
            directory => durable::sync_directory(directory?.as_fd()),
        }
    }

    /// The directories whose entries or attributes are changed; none for the one that holds the set.
    fn touched(&self) -> BTreeSet<(usize, Option<EntryPath>)> {
        let operations = self.journal.operations.iter();
        operations
            .flat_map(|operation| {
                let itself = || (operation.set, Some(operation.path.clone()));
                let above = || (operation.set, operation.path.split().map(|(above, _)| above));
                match operation.act {
                    Act::Meta { .. } => [Some(itself()), None],
                    Act::Put | Act::Remove => [Some(above()), None],
                    // Itself on the way back.
                    Act::Unmake { .. } => [Some(itself()), Some(above())],
                }
            })
            .flatten()
            .collect()
    }
}

/// Removes the directory, which is empty by now. It stays where somebody has just put something into it, and another entry
/// in its place stays, too.
fn unmake(places: &Places<'_>) -> io::Result<()> {
    let live = places.live();
    match durable::remove_directory(live.directory, live.name) {
        Err(error) if missing(&error) || error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

/// Whether the error says that a directory above is not there, or not a directory any more.
fn is_elsewhere(error: &io::Error) -> bool {
    missing(error) || Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// Whether the error says that nothing, or no directory, is there.
fn missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR))
}

/// Whether the file system cannot exchange these two (overlayfs, for directories of a lower layer; old ones, at all).
fn refuses_exchange(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INVAL | Errno::NOSYS | Errno::XDEV | Errno::OPNOTSUPP))
}

/// Replaces without an exchange: a file gets a second name first, so that one of the two is there at any moment.
fn replace(places: &Places<'_>) -> io::Result<()> {
    let (live, staged, old) = (places.live(), places.staged(), places.old());
    match seen(old)? {
        // The second name, from before an interruption.
        Some(before) if seen(live)?.is_some_and(|live| live.inode == before.inode) => {}
        _ => {
            let new_is_directory = seen(staged)?.is_some_and(|seen| seen.shape == Shape::Directory);
            if new_is_directory || durable::link(live, old).is_err() {
                durable::rename_new(live, old)?;
            }
        }
    }
    durable::rename(staged, live)
}

/// The way back of [`replace`].
fn restore(places: &Places<'_>) -> io::Result<()> {
    let (live, staged, old) = (places.live(), places.staged(), places.old());
    let old_is_directory = seen(old)?.is_some_and(|seen| seen.shape == Shape::Directory);
    if seen(staged)?.is_none() && (old_is_directory || durable::link(live, staged).is_err()) {
        durable::rename_new(live, staged)?;
    }
    durable::rename(old, live)
}
