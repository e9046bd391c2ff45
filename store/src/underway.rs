//! The work in progress: the peer, pack or file that is the suspect if this program ends meanwhile.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
};

use serde::{Deserialize, Serialize};

use crate::mutex::locked;

/// The most suspects that an end names.
const NAMED: usize = 16;

/// Something that may make this program end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "name")]
pub enum Suspect {
    /// A server of the group, by its name.
    Peer(String),
    /// A revision's pack, by its number.
    Pack(String),
    /// A file of a set (`SET:PATH`), or of the state directory.
    File(String),
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(name) => write!(f, "peer {name}"),
            Self::Pack(name) => write!(f, "pack {name}"),
            Self::File(name) => write!(f, "file {name}"),
        }
    }
}

struct Entry {
    number: u64,
    suspect: Suspect,
    /// The thread that began it.
    thread: ThreadId,
}

static DEALING: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

fn dealing() -> MutexGuard<'static, Vec<Entry>> {
    locked(&DEALING)
}

/// Marks work in progress until this is dropped, on any thread.
#[derive(Debug)]
#[must_use]
pub struct Dealing(u64);

impl Dealing {
    /// Begins work on `suspect`.
    pub fn with(suspect: Suspect) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        dealing().push(Entry { number, suspect, thread: thread::current().id() });
        Self(number)
    }
}

impl Drop for Dealing {
    fn drop(&mut self) {
        dealing().retain(|entry| entry.number != self.0);
    }
}

/// The work in progress, the latest first: that of this thread, or of all if this thread works for another one.
pub fn now() -> Vec<Suspect> {
    let (all, here) = (dealing(), thread::current().id());
    let any_here = all.iter().any(|entry| entry.thread == here);
    let meant = all.iter().rev().filter(|entry| !any_here || entry.thread == here);
    meant.take(NAMED).map(|entry| entry.suspect.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_named_as_long_as_it_is_dealt_with() {
        let suspect = Suspect::Peer("only of this test".into());
        let dealing = Dealing::with(suspect.clone());
        let again = Dealing::with(suspect.clone());
        let count = || now().into_iter().filter(|found| *found == suspect).count();
        assert_eq!(count(), 2);
        drop(dealing);
        assert_eq!(count(), 1);
        drop(again);
        assert_eq!(count(), 0);
    }

    #[test]
    fn what_another_thread_deals_with_is_blamed_only_where_this_one_deals_with_nothing() {
        let (theirs, ours) = (Suspect::Pack("theirs".into()), Suspect::Pack("ours".into()));
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = std::sync::mpsc::channel();
        let suspect = theirs.clone();
        let other = thread::spawn(move || {
            let _dealing = Dealing::with(suspect);
            begun.send(()).unwrap();
            let _ = wait.recv();
        });
        begins.recv().unwrap();
        assert!(now().contains(&theirs));
        let dealing = Dealing::with(ours.clone());
        assert_eq!(now(), [ours]);
        drop(dealing);
        done.send(()).unwrap();
        other.join().unwrap();
    }
}
