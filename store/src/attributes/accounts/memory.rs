//! Recent lookups in the account databases. They are trusted while /etc/passwd and /etc/group are unchanged, and never
//! for long, since accounts may have other sources (nsswitch.conf(5)).

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::fs::stat;

use crate::mutex::locked;

/// The time for which a lookup without a file is trusted.
const BELIEVED: Duration = Duration::from_secs(10);

/// The account files that were read: device, inode, size, change time.
type Files = [Option<(u64, u64, i64, i64, u64)>; 2];

/// Shared by all lookups of this process.
#[derive(Debug)]
pub(super) struct Memory<T>(Mutex<Option<Held<T>>>);

type Held<T> = (Files, Instant, Arc<Mutex<T>>);

impl<T: Default> Memory<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The remembered lookups; none if they may be outdated.
    pub(super) fn recall(&self) -> Arc<Mutex<T>> {
        self.recall_at(files(), Instant::now())
    }

    fn recall_at(&self, files: Files, now: Instant) -> Arc<Mutex<T>> {
        let mut held = locked(&self.0);
        match &*held {
            Some((of, since, known)) if *of == files && now.duration_since(*since) < BELIEVED => known.clone(),
            _ => held.insert((files, now, Arc::default())).2.clone(),
        }
    }
}

fn files() -> Files {
    ["/etc/passwd", "/etc/group"].map(|path| {
        let stat = stat(path).ok()?;
        Some((stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime, stat.st_ctime_nsec))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_forgotten_when_the_files_change_and_after_a_while() {
        let memory = Memory::<u32>::new();
        let (now, changed) = (Instant::now(), [None, Some((1, 2, 3, 4, 5))]);
        let known = memory.recall_at([None; 2], now);
        assert!(Arc::ptr_eq(&known, &memory.recall_at([None; 2], now + BELIEVED / 2)));
        let anew = memory.recall_at(changed, now);
        assert!(!Arc::ptr_eq(&known, &anew));
        assert!(Arc::ptr_eq(&anew, &memory.recall_at(changed, now)));
        assert!(!Arc::ptr_eq(&anew, &memory.recall_at(changed, now + BELIEVED)));
    }
}
