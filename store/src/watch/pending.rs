//! Paths that may have changed since they were last scanned, gathered until the burst is over. The size is limited:
//! beyond it, everything is to be scanned.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bellwether_proto::{entry::EntryPath, name::SetName};
use tokio::sync::Notify;

use crate::{
    mutex::locked,
    scan::{Depth, Look},
    watch::debounce::Burst,
};

/// The most different paths that are kept.
const PATHS: usize = 50_000;
/// The most files that are kept as being written; more are scanned as if nothing wrote them.
const WRITTEN: usize = 256;

type SetPath = (SetName, EntryPath);
type Paths = BTreeMap<SetPath, Depth>;

/// The write state of the file at an event's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// It is open and being written.
    Open,
    /// The writer has closed it, or it came or went whole.
    Over,
    /// It is unknown.
    Unknown,
}

/// The paths of events, and their burst.
#[derive(Debug, Default)]
pub struct PendingChanges {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    paths: Paths,
    everything: bool,
    burst: Option<Burst>,
    /// Files that are being written in place: not part of the burst before they are closed.
    written: BTreeMap<SetPath, Written>,
}

/// The times at which a file was seen to be written.
#[derive(Debug, Clone, Copy)]
struct Written {
    first: Instant,
    last: Instant,
}

/// The longest waits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest debounce interval of a burst, and of a file that is being written.
    pub quiet: Duration,
    /// The longest wait for a file that is written without a pause.
    pub open: Duration,
}

impl Written {
    /// The time to scan it although it was not closed.
    fn due(&self, limits: Limits) -> Instant {
        (self.last + limits.quiet).min(self.first + limits.open)
    }
}

impl State {
    fn begin_anew(&mut self) {
        (self.paths, self.everything, self.burst) = (Paths::new(), false, None);
    }

    /// The beginning of the youngest file that is being written.
    fn begun(&self) -> Option<Instant> {
        self.written.values().map(|written| written.first).max()
    }

    fn burst_due(&self, limits: Limits) -> Option<Instant> {
        self.burst.map(|burst| burst.due(limits.quiet, self.begun()))
    }
}

impl PendingChanges {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Notes a change at a path.
    pub fn note(&self, set: SetName, path: EntryPath, depth: Depth, writing: Writing, now: Instant) {
        let at = (set, path);
        let mut state = self.state();
        let apart = state.written.contains_key(&at);
        match writing {
            Writing::Open if apart || state.written.len() < WRITTEN => {
                state.written.entry(at).or_insert(Written { first: now, last: now }).last = now;
                drop(state);
                return self.changed.notify_one();
            }
            Writing::Over => drop(state.written.remove(&at)),
            Writing::Unknown if apart => return,
            Writing::Open | Writing::Unknown => {}
        }
        drop(state);
        self.add(now, |state| {
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

    /// Notes that anything may have changed.
    pub fn note_everything(&self, now: Instant) {
        self.add(now, |state| {
            state.paths = Paths::new();
            state.everything = true;
        });
    }

    fn add(&self, now: Instant, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let paths = state.paths.len();
        let first = state.burst.map_or(now, |burst| burst.first);
        state.burst = Some(Burst { first, last: now, paths });
        drop(state);
        self.changed.notify_one();
    }

    /// The time at which the burst is over; none if nothing changed.
    pub fn due(&self, limits: Limits) -> Option<Instant> {
        let state = self.state();
        state.written.values().map(|written| written.due(limits)).chain(state.burst_due(limits)).min()
    }

    /// The time of the burst's first event; none if nothing changed.
    pub fn began(&self) -> Option<Instant> {
        self.state().burst.map(|burst| burst.first)
    }

    /// The files that are being written, and since when.
    pub fn written(&self) -> Vec<(SetPath, Instant)> {
        self.state().written.iter().map(|(at, written)| (at.clone(), written.first)).collect()
    }

    /// The burst so far and the time to prepare it, if that is useful before it is over.
    pub fn early(&self) -> Option<(Burst, Instant)> {
        let state = self.state();
        let burst = state.burst?;
        burst.early(state.begun()).map(|at| (burst, at))
    }

    /// The scope so far, which stays, and its burst.
    pub fn peek(&self) -> Option<(Burst, Look)> {
        let state = self.state();
        Some((state.burst.filter(|_| !state.everything)?, Look::At(state.paths.clone())))
    }

    /// Takes the burst, if it is due at `now` and nothing has changed since it was `burst`.
    pub fn take_if(&self, burst: Burst, limits: Limits, now: Instant) -> bool {
        let mut state = self.state();
        let same = state.burst == Some(burst) && state.burst_due(limits).is_some_and(|at| at <= now);
        if same {
            state.begin_anew();
        }
        same
    }

    /// Forgets the gathered paths if all are among `paths`, which will be scanned again. Files that are being written
    /// stay: that scan would find them incomplete.
    pub fn forget(&self, paths: &Paths) {
        let mut state = self.state();
        if state.everything {
            return;
        }
        if state.paths.iter().all(|(at, depth)| paths.get(at).is_some_and(|again| depth <= again)) {
            state.begin_anew();
        }
    }

    /// The scope that is due at `now`. The rest is gathered on.
    pub fn take_due(&self, limits: Limits, now: Instant) -> Option<Look> {
        let mut state = self.state();
        let mut paths = Paths::new();
        if state.burst_due(limits).is_some_and(|at| at <= now) {
            paths = std::mem::take(&mut state.paths);
            let everything = state.everything;
            state.begin_anew();
            if everything {
                return Some(Look::Stats);
            }
        }
        state.written.retain(|at, written| {
            let due = written.due(limits) <= now;
            if due {
                paths.entry(at.clone()).or_insert(Depth::Entry);
            }
            !due
        });
        (!paths.is_empty()).then_some(Look::At(paths))
    }

    /// The whole scope, due or not; none if nothing changed. A new burst begins.
    pub fn take(&self) -> Option<Look> {
        let State { mut paths, everything, burst, written } = std::mem::take(&mut *self.state());
        if burst.is_none() && written.is_empty() {
            return None;
        }
        paths.extend(written.into_keys().map(|at| (at, Depth::Entry)));
        Some(if everything { Look::Stats } else { Look::At(paths) })
    }

    /// Returns when something has changed since it returned last.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { quiet: Duration::from_millis(500), open: Duration::from_secs(10) };

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).unwrap()
    }

    fn set() -> SetName {
        "nginx".parse().unwrap()
    }

    #[test]
    fn paths_are_gathered_with_the_greater_depth() {
        let (dirty, now) = (PendingChanges::default(), Instant::now());
        assert!(dirty.take().is_none() && dirty.due(LIMITS).is_none());
        dirty.note(set(), path("a"), Depth::All, Writing::Unknown, now);
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now);
        dirty.note(set(), path("b"), Depth::Entry, Writing::Unknown, now);
        let Some(Look::At(paths)) = dirty.take() else { panic!() };
        assert_eq!(paths.into_values().collect::<Vec<_>>(), [Depth::All, Depth::Entry]);
        assert!(dirty.take().is_none());
    }

    #[test]
    fn too_many_paths_are_everything() {
        let (dirty, now) = (PendingChanges::default(), Instant::now());
        for n in 0..=PATHS {
            dirty.note(set(), path(&n.to_string()), Depth::Entry, Writing::Unknown, now);
        }
        dirty.note(set(), path("one more"), Depth::Entry, Writing::Unknown, now);
        assert!(matches!(dirty.take(), Some(Look::Stats)));
    }

    #[test]
    fn what_was_prepared_holds_for_its_own_burst_only() {
        let (dirty, now) = (PendingChanges::default(), Instant::now());
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now);
        let (burst, look) = dirty.peek().unwrap();
        assert!(matches!(look, Look::At(paths) if paths.len() == 1));
        dirty.note(set(), path("a"), Depth::Entry, Writing::Unknown, now + Duration::from_millis(1));
        let later = now + LIMITS.quiet;
        assert!(!dirty.take_if(burst, LIMITS, later), "it happened again");
        let (burst, _) = dirty.peek().unwrap();
        assert!(!dirty.take_if(burst, LIMITS, now), "it is not due yet");
        assert!(dirty.take_if(burst, LIMITS, later) && dirty.take().is_none());
        dirty.note_everything(now);
        assert!(dirty.peek().is_none());
    }

    #[test]
    fn only_what_is_looked_at_again_is_forgotten() {
        let (dirty, now) = (PendingChanges::default(), Instant::now());
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
        let (dirty, now) = (PendingChanges::default(), Instant::now());
        let most = LIMITS.quiet;
        let note = |writing| dirty.note(set(), path("a"), Depth::Entry, writing, now);
        note(Writing::Open);
        assert_eq!((dirty.due(LIMITS), dirty.early()), (Some(now + most), None));
        note(Writing::Unknown);
        dirty.forget(&Paths::from([((set(), path("a")), Depth::Entry)]));
        assert_eq!(dirty.due(LIMITS), Some(now + most));
        note(Writing::Over);
        assert!(dirty.due(LIMITS) < Some(now + most));
        note(Writing::Open);
        dirty.note(set(), path("b"), Depth::Entry, Writing::Over, now);
        assert_eq!(dirty.due(LIMITS), Some(now + most), "both may be of one checkout");
        assert!(dirty.take_due(LIMITS, now + most / 2).is_none());
    }

    /// A log that is written all the time: an edit of another file is published as if nothing wrote it.
    #[test]
    fn a_file_that_is_written_for_long_holds_nothing_else_up() {
        let (dirty, start) = (PendingChanges::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for ms in (0..5_000).step_by(10) {
            dirty.note(set(), path("log"), Depth::Entry, Writing::Open, at(ms));
            assert!(dirty.take_due(LIMITS, at(ms)).is_none(), "not after {ms} ms");
        }
        dirty.note(set(), path("b"), Depth::Entry, Writing::Over, at(5_000));
        assert_eq!(dirty.due(LIMITS), Some(at(5_005)));
        let Some(Look::At(paths)) = dirty.take_due(LIMITS, at(5_005)) else { panic!() };
        assert_eq!(paths.into_keys().collect::<Vec<_>>(), [(set(), path("b"))]);
        assert_eq!(dirty.written(), [((set(), path("log")), start)]);
        assert_eq!(dirty.due(LIMITS), Some(at(4_990 + 500)), "when it pauses");
        for ms in (5_010..10_000).step_by(10) {
            dirty.note(set(), path("log"), Depth::Entry, Writing::Open, at(ms));
        }
        assert_eq!(dirty.due(LIMITS), Some(at(10_000)), "and at the latest");
        assert!(matches!(dirty.take_due(LIMITS, at(10_000)), Some(Look::At(paths)) if paths.len() == 1));
        assert!(dirty.take().is_none());
    }
}
