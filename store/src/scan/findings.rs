//! The notes of a scan, from all threads.

use std::{
    collections::BTreeMap,
    os::fd::BorrowedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bellwether_proto::{entry::EntryPath, name::SetName};

use super::{
    HardLink, Means, Notice, Scan, Unread,
    writers::{Writers, Written},
};
use crate::{mutex::locked, tree::Tree};

/// Notices, young files and counters.
#[derive(Debug, Default)]
pub(super) struct Findings {
    notices: Mutex<Vec<Notice>>,
    unread: Mutex<Vec<Unread>>,
    open: Mutex<Vec<(SetName, EntryPath)>>,
    means: Mutex<BTreeMap<SetName, Means>>,
    links: Mutex<Vec<HardLink>>,
    young: Mutex<Vec<(SetName, EntryPath)>>,
    writers: Writers,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Findings {
    pub(super) fn notice(&self, set: &SetName, path: &EntryPath, what: String) {
        push(&self.notices, Notice { set: set.clone(), path: path.clone(), what });
    }

    pub(super) fn unread(&self, unread: Unread) {
        push(&self.unread, unread);
    }

    pub(super) fn open(&self, set: &SetName, path: &EntryPath) {
        push(&self.open, (set.clone(), path.clone()));
    }

    /// Whether a file of the set is open for writing; notes the means of detection.
    pub(super) fn is_open(&self, set: &SetName, file: BorrowedFd<'_>) -> bool {
        let Written { open, means } = self.writers.look(file);
        let mut all = locked(&self.means);
        match all.get_mut(set) {
            Some(known) => *known = (*known).max(means),
            None => drop(all.insert(set.clone(), means)),
        }
        open
    }

    pub(super) fn link(&self, link: HardLink) {
        push(&self.links, link);
    }

    pub(super) fn young(&self, set: &SetName, path: &EntryPath) {
        push(&self.young, (set.clone(), path.clone()));
    }

    pub(super) fn read(&self, bytes: u64) {
        self.files.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// The scan's result; each notice once, in order.
    pub(super) fn finish(self, tree: Tree) -> Scan {
        let mut unread = self.unread.into_inner().unwrap_or_else(PoisonError::into_inner);
        unread.sort_by(|a, b| (&a.set, &a.path).cmp(&(&b.set, &b.path)));
        unread.dedup_by(|a, b| (&a.set, &a.path) == (&b.set, &b.path));
        Scan {
            tree,
            notices: sorted(self.notices),
            unread,
            open: sorted(self.open),
            means: self.means.into_inner().unwrap_or_else(PoisonError::into_inner),
            links: sorted(self.links),
            young: sorted(self.young),
            files_read: self.files.into_inner(),
            bytes_read: self.bytes.into_inner(),
        }
    }
}

fn push<T>(list: &Mutex<Vec<T>>, item: T) {
    locked(list).push(item);
}

fn sorted<T: Ord>(list: Mutex<Vec<T>>) -> Vec<T> {
    let mut list = list.into_inner().unwrap_or_else(PoisonError::into_inner);
    list.sort();
    list.dedup();
    list
}
