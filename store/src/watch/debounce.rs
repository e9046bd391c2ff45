//! Decides when a burst of events is over: a pure rule over their times.
//!
//! One save is published 5 ms after it. The debounce interval grows with the burst, up to the group's `quiet_max`: by
//! twice its length so far, by 0.05 ms for every further path, and by 2 ms more for each of the first twenty of them,
//! so that a `git checkout`, which pauses between its files, is one revision. A file that is being written in place is
//! incomplete, and not part of the burst before it is closed. One that was begun less than `quiet_max` ago probably
//! belongs to the burst, which waits for it. A directory that is written without a pause is published every
//! [`LONGEST`].

use std::time::{Duration, Instant};

/// The debounce interval of a single save.
pub const SHORTEST: Duration = Duration::from_millis(5);

/// The time after which a single save is prepared, during the wait for more edits.
const EARLY: Duration = Duration::from_millis(1);

/// The most paths of a burst that is prepared: an editor's save through a file beside it names three.
const EARLY_PATHS: usize = 3;

/// The longest wait for events that never pause.
pub const LONGEST: Duration = Duration::from_secs(10);

/// A burst of events so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// The first event.
    pub first: Instant,
    /// The newest.
    pub last: Instant,
    /// The number of different paths.
    pub paths: usize,
}

impl Burst {
    /// The time to begin work that can be thrown away; none if more is to come. `begun` as in [`Burst::due`].
    pub fn early(&self, begun: Option<Instant>) -> Option<Instant> {
        let of_it = begun.is_some_and(|begun| begun >= self.first);
        (!of_it && self.paths <= EARLY_PATHS && self.last < self.first + SHORTEST).then(|| self.last + EARLY)
    }

    /// The time to scan if no more events come. `begun`: the beginning of the youngest file that is being written.
    pub fn due(&self, quiet_max: Duration, begun: Option<Instant>) -> Instant {
        let length = self.last.saturating_duration_since(self.first);
        let further = u32::try_from(self.paths.saturating_sub(1)).unwrap_or(u32::MAX).min(10_000);
        let quiet =
            SHORTEST + length * 2 + Duration::from_millis(2) * further.min(20) + Duration::from_micros(50) * further;
        let most = quiet_max.max(SHORTEST);
        let held = begun.map(|begun| (begun + most).min(self.last + most));
        held.into_iter().fold(self.last + quiet.min(most), Instant::max).min(self.first + LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: Duration = Duration::from_millis(500);

    /// Plays events at these offsets (ms); returns when each scan would happen, as offsets.
    fn scans(events: &[u64]) -> Vec<u128> {
        let start = Instant::now();
        let mut scans = Vec::new();
        let mut burst: Option<Burst> = None;
        for &at in events {
            let now = start + Duration::from_millis(at);
            if let Some(due) = burst.map(|b| b.due(MAX, None)).filter(|due| *due <= now) {
                scans.push((due - start).as_millis());
                burst = None;
            }
            let b = burst.get_or_insert(Burst { first: now, last: now, paths: 0 });
            *b = Burst { last: now, paths: b.paths + 1, ..*b };
        }
        scans.extend(burst.map(|b| (b.due(MAX, None) - start).as_millis()));
        scans
    }

    #[test]
    fn one_save_is_scanned_after_five_milliseconds() {
        assert_eq!(scans(&[100]), [105]);
    }

    #[test]
    fn a_save_is_prepared_early_a_long_burst_is_not() {
        let first = Instant::now();
        let early = |length, paths| {
            let burst = Burst { first, last: first + Duration::from_millis(length), paths };
            burst.early(None).inspect(|at| assert!(*at < burst.due(MAX, None)))
        };
        assert_eq!(early(0, 1), Some(first + EARLY));
        assert_eq!(early(2, 3), Some(first + Duration::from_millis(2) + EARLY));
        assert_eq!((early(0, 4), early(5, 1)), (None, None));
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let now = Instant::now();
        let burst = Burst { first: now, last: now, paths: 1 };
        assert_eq!((burst.early(Some(now)), burst.due(MAX, Some(now))), (None, now + MAX));
        let later = Burst { first: now + MAX, last: now + MAX, paths: 1 };
        assert_eq!(later.early(Some(now)), later.early(None));
        assert_eq!(later.due(MAX, Some(now)), later.due(MAX, None), "one that is written for long is no part of it");
    }

    #[test]
    fn a_checkout_of_thousands_of_files_is_one_scan() {
        let mut at = 0;
        let events: Vec<u64> = (0..5000u64)
            .map(|n| {
                at += if n % 100 == 99 { 40 } else { n % 2 };
                at
            })
            .collect();
        assert_eq!(scans(&events).len(), 1);
    }

    #[test]
    fn a_stream_without_a_pause_is_scanned_all_the_same() {
        let events: Vec<u64> = (0..30_000).step_by(3).collect();
        let scans = scans(&events);
        assert_eq!(scans[..2], [10_000, 20_002]);
    }

    #[test]
    fn two_saves_apart_are_two_scans() {
        assert_eq!(scans(&[0, 1000]), [5, 1005]);
    }

    proptest! {
        #[test]
        fn never_before_the_last_event_and_never_later_than_the_bounds(
            length in 0u64..20_000, paths in 1usize..100_000, max in 0u64..1000,
            begun in proptest::option::of(0u64..20_000),
        ) {
            let first = Instant::now();
            let last = first + Duration::from_millis(length.min(10_000));
            let begun = begun.map(|begun| first + Duration::from_millis(begun));
            let due = Burst { first, last, paths }.due(Duration::from_millis(max), begun);
            prop_assert!(due >= last);
            prop_assert!(due <= first + LONGEST);
            prop_assert!(due <= last + Duration::from_millis(max.max(5)));
        }
    }
}
