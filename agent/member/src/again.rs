//! A revision that was refused because of what stands in the way here and may pass (W8): when it is asked for again.
//!
//! At once when what was seen to stand there is gone; otherwise after a wait that grows with each refusal.

use std::time::{Duration, Instant};

use bellwether_proto::revision::{Number, RevisionId};

/// How often it is looked for.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// What was refused, and how often.
#[derive(Debug)]
pub(super) struct Again {
    revision: RevisionId,
    number: Number,
    /// How often a revision was refused since one was taken.
    refusals: u32,
    since: Instant,
    /// The obstacle was seen after the refusal.
    seen: bool,
    asked: Asked,
}

/// Whether the revision was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    NotYet,
    /// It was neither offered nor refused yet.
    Waits,
}

impl Again {
    /// That revision was refused now; `before`: what was before it.
    pub(super) fn new((revision, number): (RevisionId, Number), before: Option<&Self>, now: Instant) -> Self {
        let refusals = before.map_or(0, |before| before.refusals).saturating_add(1);
        Self { revision, number, refusals, since: now, seen: false, asked: Asked::NotYet }
    }

    /// Whether the obstacle is to be looked for.
    pub(super) fn is_open(&self) -> bool {
        self.asked == Asked::NotYet
    }

    /// A manager that is reached anew offers the revision anew.
    pub(super) fn ask_anew(&mut self) {
        self.asked = Asked::NotYet;
    }

    /// The revision, where it is to be asked for now. `there`: whether the obstacle was just seen; none: that cannot be told.
    pub(super) fn asks(&mut self, there: Option<bool>, now: Instant) -> Option<RevisionId> {
        if !self.is_open() || !self.is_due(there, now) {
            return None;
        }
        self.asked = Asked::Waits;
        let _span = tracing::error_span!("apply", revision = %self.number).entered();
        tracing::info!("what stood in the way may be gone: asking for the revision again");
        Some(self.revision)
    }

    fn is_due(&mut self, there: Option<bool>, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let was_seen = std::mem::replace(&mut self.seen, there == Some(true));
        match there {
            // What looks so may be passable all the same.
            Some(true) => waited >= LONGEST,
            Some(false) if was_seen => true,
            Some(false) | None => waited >= self.wait(),
        }
    }

    fn wait(&self) -> Duration {
        FIRST.saturating_mul(1 << self.refusals.saturating_sub(1).min(16)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{hash::Hash, revision::Epoch};

    use super::*;

    fn refused(times: u32, now: Instant) -> Again {
        let revision = (RevisionId(Hash::of(b"it")), Number { epoch: Epoch(1), sequence: 2 });
        let again = |before: Option<&Again>| Again::new(revision, before, now);
        (1..times).fold(again(None), |before, _| again(Some(&before)))
    }

    #[test]
    fn at_once_when_what_was_seen_is_gone() {
        let now = Instant::now();
        let mut again = refused(9, now);
        assert!(!again.is_due(Some(true), now + LOOK));
        assert!(again.is_due(Some(false), now + 2 * LOOK));
    }

    #[test]
    fn what_cannot_be_seen_is_tried_after_a_wait_that_doubles() {
        let now = Instant::now();
        let waits = |times: u32, there| {
            (0..).find(|&s| refused(times, now).is_due(there, now + Duration::from_secs(s))).expect("some time")
        };
        for there in [None, Some(false)] {
            let all: Vec<u64> = (1..=8).map(|times| waits(times, there)).collect();
            assert_eq!(all, [1, 2, 4, 8, 16, 32, 60, 60], "{there:?}");
        }
        assert_eq!(waits(1, Some(true)), LONGEST.as_secs(), "a look may be wrong");
    }
}
