//! What a scan notes on its way, from all threads.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bellwether_proto::{entry::EntryPath, name::SetName};

use super::{HardLink, Notice, Scan};
use crate::tree::Tree;

/// Notices, young files and counters.
#[derive(Debug, Default)]
pub(super) struct Findings {
    notices: Mutex<Vec<Notice>>,
    links: Mutex<Vec<HardLink>>,
    young: Mutex<Vec<(SetName, EntryPath)>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Findings {
    pub(super) fn notice(&self, set: &SetName, path: &EntryPath, what: String) {
        push(&self.notices, Notice { set: set.clone(), path: path.clone(), what });
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

    /// The scan's answer; each notice once, in order.
    pub(super) fn finish(self, tree: Tree) -> Scan {
        Scan {
            tree,
            notices: sorted(self.notices),
            links: sorted(self.links),
            young: sorted(self.young),
            files_read: self.files.into_inner(),
            bytes_read: self.bytes.into_inner(),
        }
    }
}

fn push<T>(list: &Mutex<Vec<T>>, item: T) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

fn sorted<T: Ord>(list: Mutex<Vec<T>>) -> Vec<T> {
    let mut list = list.into_inner().unwrap_or_else(PoisonError::into_inner);
    list.sort();
    list.dedup();
    list
}
