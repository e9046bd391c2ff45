//! What may have changed since it was last scanned, gathered until it is quiet. Its size is bounded: past so many paths
//! everything is to be looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bellwether_proto::{entry::EntryPath, name::SetName};
use bellwether_store::scan::{Depth, Look};
use tokio::sync::Notify;

use crate::quiet::Burst;

/// Different paths that are kept apart.
const PATHS: usize = 50_000;

type Paths = BTreeMap<(SetName, EntryPath), Depth>;

/// What an event says of the file at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// Somebody has it open and writes.
    Open,
    /// Whoever wrote has closed it, or it came or went whole.
    Over,
    /// Nothing.
    Unknown,
}

/// Paths that events named, and the burst they came in.
#[derive(Debug, Default)]
pub struct Dirty {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    paths: Paths,
    everything: bool,
    /// Files that are being written in place.
    open: BTreeSet<(SetName, EntryPath)>,
    burst: Option<Burst>,
}

impl Dirty {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened at a path.
    pub(crate) fn note(&self, set: SetName, path: EntryPath, depth: Depth, writing: Writing, now: Instant) {
        self.add(now, |state| {
            let at = (set, path);
            match writing {
                Writing::Open if state.open.len() < PATHS => drop(state.open.insert(at.clone())),
                Writing::Over => drop(state.open.remove(&at)),
                Writing::Open | Writing::Unknown => {}
            }
            if state.everything {
                return;
            }
            let known = state.paths.entry(at).or_insert(depth);
            *known = depth.max(*known);
            if state.paths.len() > PATHS {
                state.paths = Paths::new();
                state.everything = true;
            }
        });
    }

    /// Anything may have happened.
    pub(crate) fn note_everything(&self, now: Instant) {
        self.add(now, |state| {
            state.paths = Paths::new();
            state.everything = true;
        });
    }

    fn add(&self, now: Instant, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let (paths, writing) = (state.paths.len(), !state.open.is_empty());
        let first = state.burst.map_or(now, |burst| burst.first);
        state.burst = Some(Burst { first, last: now, paths, writing });
        drop(state);
        self.changed.notify_one();
    }

    /// When it will have been quiet for long enough; none while nothing happened.
    pub fn due(&self, quiet_max: Duration) -> Option<Instant> {
        self.state().burst.map(|burst| burst.due(quiet_max))
    }

    /// The burst so far and when to begin with it, where that is worth it before it is over.
    pub(crate) fn early(&self) -> Option<(Burst, Instant)> {
        let burst = self.state().burst?;
        burst.early().map(|at| (burst, at))
    }

    /// What was gathered so far, which stays, and the burst that it came in.
    pub(crate) fn peek(&self) -> Option<(Burst, Look)> {
        let state = self.state();
        Some((state.burst.filter(|_| !state.everything)?, Look::At(state.paths.clone())))
    }

    /// As [`Dirty::take`], if nothing has happened since `burst`.
    pub(crate) fn take_if(&self, burst: Burst) -> bool {
        let mut state = self.state();
        let same = state.burst == Some(burst);
        if same {
            *state = State::default();
        }
        same
    }

    /// Forgets what was gathered, if it is no more than `paths`: those will be looked at again. Not while a file is being
    /// written: that look would find it cut short.
    pub(crate) fn forget(&self, paths: &Paths) {
        let mut state = self.state();
        if state.everything || !state.open.is_empty() {
            return;
        }
        if state.paths.iter().all(|(at, depth)| paths.get(at).is_some_and(|again| depth <= again)) {
            *state = State::default();
        }
    }

    /// What to look at; none when nothing happened. From now on a new burst is gathered.
    pub fn take(&self) -> Option<Look> {
        let State { paths, everything, burst, open: _ } = std::mem::take(&mut *self.state());
        burst?;
        Some(if everything { Look::Stats } else { Look::At(paths) })
    }

    /// Returns when something has happened since it returned last.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).unwrap()
    }

    fn set() -> SetName {
        "nginx".parse().unwrap()
    }

    #[test]
    fn paths_are_gathered_with_the_greater_depth() {
        let (dirty, now) = (Dirty::default(), Instant::now());
        assert!(dirty.take().is_none() && dirty.due(Duration::ZERO).is_none());
        dirty.note(set(), path("a"), Depth::All, Writing::Unknown, now);
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now);
        dirty.note(set(), path("b"), Depth::Entry, Writing::Unknown, now);
        let Some(Look::At(paths)) = dirty.take() else { panic!() };
        assert_eq!(paths.into_values().collect::<Vec<_>>(), [Depth::All, Depth::Entry]);
        assert!(dirty.take().is_none());
    }

    #[test]
    fn too_many_paths_are_everything() {
        let (dirty, now) = (Dirty::default(), Instant::now());
        for n in 0..=PATHS {
            dirty.note(set(), path(&n.to_string()), Depth::Entry, Writing::Unknown, now);
        }
        dirty.note(set(), path("one more"), Depth::Entry, Writing::Unknown, now);
        assert!(matches!(dirty.take(), Some(Look::Stats)));
    }

    #[test]
    fn what_was_prepared_holds_for_its_own_burst_only() {
        let (dirty, now) = (Dirty::default(), Instant::now());
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now);
        let (burst, look) = dirty.peek().unwrap();
        assert!(matches!(look, Look::At(paths) if paths.len() == 1));
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now + Duration::from_millis(1));
        assert!(!dirty.take_if(burst), "it happened again");
        let (burst, _) = dirty.peek().unwrap();
        assert!(dirty.take_if(burst) && dirty.take().is_none());
        dirty.note_everything(now);
        assert!(dirty.peek().is_none());
    }

    #[test]
    fn only_what_is_looked_at_again_is_forgotten() {
        let (dirty, now) = (Dirty::default(), Instant::now());
        let again: Paths = [((set(), path("a")), Depth::Entry)].into();
        dirty.note(set(), path("a"), Depth::All, Writing::Unknown, now);
        dirty.forget(&again);
        assert!(dirty.take().is_some(), "all below it, too, was to be looked at");
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now);
        dirty.note(set(), path("b"), Depth::Entry, Writing::Unknown, now);
        dirty.forget(&again);
        assert!(dirty.take().is_some(), "b was not");
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now);
        dirty.forget(&again);
        assert!(dirty.take().is_none());
    }

    #[test]
    fn a_burst_waits_for_the_file_that_is_being_written() {
        let (dirty, now) = (Dirty::default(), Instant::now());
        let most = Duration::from_millis(300);
        let note = |writing| dirty.note(set(), path("a"), Depth::Entry, writing, now);
        note(Writing::Open);
        assert_eq!((dirty.due(most), dirty.early()), (Some(now + most), None));
        note(Writing::Unknown);
        dirty.forget(&Paths::from([((set(), path("a")), Depth::Entry)]));
        assert_eq!(dirty.due(most), Some(now + most));
        note(Writing::Over);
        assert!(dirty.due(most) < Some(now + most));
    }
}
