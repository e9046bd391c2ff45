//! A revision that was refused because of what stands in the way here and may pass (W8): when it is asked for again.
//!
//! At once when what was seen to stand there is gone; otherwise after a wait that grows with each refusal.

use std::time::{Duration, Instant};

use bellwether_proto::{
    revision::{Number, RevisionId, SignedHeader},
    v1::{self, up},
};
use bellwether_store::apply::Obstacle;
use tokio::sync::{mpsc, watch};

use super::{Input, Member, Work};

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// What was refused, and what stands in its way.
#[derive(Debug)]
pub(super) struct Again {
    revision: RevisionId,
    number: Number,
    obstacle: Obstacle,
    /// How often a revision was refused since one was taken.
    refusals: u32,
    since: Instant,
    /// It was seen to stand there after the refusal.
    seen: bool,
    /// It was asked for, and neither offered nor refused yet.
    asked: bool,
}

impl Again {
    fn new((revision, number): (RevisionId, Number), obstacle: Obstacle, before: Option<&Self>, now: Instant) -> Self {
        let refusals = before.map_or(0, |before| before.refusals).saturating_add(1);
        Self { revision, number, obstacle, refusals, since: now, seen: false, asked: false }
    }

    /// Whether to ask for it now. `there`: whether the obstacle was just seen; none: that cannot be told.
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

/// Wakes the member every second while it waits, until `stop`.
pub(super) async fn wake(
    mut waits: watch::Receiver<bool>,
    inputs: mpsc::Sender<Input>,
    mut stop: watch::Receiver<bool>,
) {
    let waking = async {
        while waits.wait_for(|waits| *waits).await.is_ok() {
            tokio::time::sleep(LOOK).await;
            if inputs.send(Input::LookForObstacle).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = waking => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

impl Member {
    /// Notes what stands in the way of that revision; none: nothing that may pass.
    pub(super) fn note_obstacle(&mut self, header: &SignedHeader, obstacle: Option<Obstacle>) {
        let before = self.again.take();
        self.again = obstacle
            .map(|obstacle| Again::new((header.id(), header.number()), obstacle, before.as_ref(), Instant::now()));
        self.waits.send_replace(self.again.is_some());
    }

    /// Looks whether it still stands there, and asks for the revision when that is due. Nothing is asked while anything is
    /// under way, nor of nobody: whoever is reached anew is offered it anyway.
    pub(super) fn look_for_obstacle(&mut self) {
        let idle = matches!(self.work, Work::Idle) && self.session.is_some();
        let Some(again) = self.again.as_mut().filter(|again| idle && !again.asked) else { return };
        if !again.is_due(again.obstacle.is_there(), Instant::now()) {
            return;
        }
        again.asked = true;
        let revision = again.revision.0.into();
        let _span = tracing::error_span!("apply", revision = %again.number).entered();
        tracing::info!(obstacle = ?again.obstacle, "what stood in the way may be gone: asking for the revision again");
        self.send(up::Message::Again(v1::Again { revision }));
    }

    /// Whoever is reached anew offers it anew.
    pub(super) fn ask_anew(&mut self) {
        if let Some(again) = &mut self.again {
            again.asked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{hash::Hash, revision::Epoch};

    use super::*;

    fn refused(times: u32, now: Instant) -> Again {
        let revision = (RevisionId(Hash::of(b"it")), Number { epoch: Epoch(1), sequence: 2 });
        let again = |before: Option<&Again>| Again::new(revision, Obstacle::System, before, now);
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
