//! The places and times of recent events, so that a rescan notices a change without one.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bellwether_proto::{entry::EntryPath, name::SetName};

use crate::{mutex::locked, scan::Depth};

/// The time for which an event is remembered: longer than the interval of rescans.
const KEPT: Duration = Duration::from_secs(180);
/// The most events; if one is dropped early, any place may have had one.
const EVENTS: usize = 4_096;

/// The recent events.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: VecDeque<(Instant, SetName, EntryPath, Depth)>,
    /// The last time at which any place may have had an event.
    anything: Option<Instant>,
}

impl Told {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }

    /// Notes an event at a path, or for all below it.
    pub(super) fn note(&self, set: &SetName, path: &EntryPath, depth: Depth, now: Instant) {
        let mut state = self.state();
        if state.events.back().is_some_and(|(_, of, at, as_far)| of == set && at == path && *as_far == depth) {
            // One write makes several events.
            state.events.pop_back();
        }
        if state.events.len() == EVENTS {
            state.anything = state.events.pop_front().map(|(at, ..)| at);
        }
        state.events.push_back((now, set.clone(), path.clone(), depth));
    }

    /// Notes that events were lost.
    pub(super) fn note_everything(&self, now: Instant) {
        self.state().anything = Some(now);
    }

    /// Whether an event may have told of a change at `path`: it named that path, one below, or all below one above.
    pub(super) fn tells(&self, set: &SetName, path: &EntryPath, now: Instant) -> bool {
        let state = self.state();
        let recent = |at: &Instant| now.saturating_duration_since(*at) < KEPT;
        let named = |(at, of, named, depth): &(Instant, SetName, EntryPath, Depth)| {
            let above = *depth == Depth::All && path.is_within(named);
            recent(at) && of == set && (named.is_within(path) || above)
        };
        state.anything.as_ref().is_some_and(recent) || state.events.iter().any(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_change_is_told_by_an_event_there_above_or_below() {
        let (told, set, now) = (Told::default(), "web".parse().unwrap(), Instant::now());
        told.note(&set, &path(""), Depth::Entry, now);
        told.note(&set, &path("conf.d/a"), Depth::All, now);
        for at in ["conf.d", "conf.d/a", "conf.d/a/below"] {
            assert!(told.tells(&set, &path(at), now), "{at}");
        }
        for at in ["conf.d/b", "conf.e"] {
            assert!(!told.tells(&set, &path(at), now), "{at}");
        }
        assert!(!told.tells(&"other".parse().unwrap(), &path("conf.d/a"), now));
        assert!(!told.tells(&set, &path("conf.d/a"), now + KEPT));
        told.note_everything(now);
        assert!(told.tells(&set, &path("conf.e"), now));
    }

    #[test]
    fn what_had_to_be_forgotten_may_have_been_told() {
        let (told, set, now) = (Told::default(), "web".parse().unwrap(), Instant::now());
        (0..EVENTS).for_each(|n| told.note(&set, &path(&n.to_string()), Depth::Entry, now));
        assert!(!told.tells(&set, &path("x"), now));
        told.note(&set, &path("one more"), Depth::Entry, now);
        assert!(told.tells(&set, &path("x"), now));
    }
}
