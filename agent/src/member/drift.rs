//! Drift: edits on a member, seen and reported by content, never adopted (W3).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_manager::dirty::Dirty;
use bellwether_proto::{
    status::Observation,
    v1::{self, up},
};
use bellwether_store::scan::Look;

use tokio::sync::{mpsc, watch};

use super::{Input, Member, Work};
use crate::{
    clock::{self, now_ms},
    error::chain,
};

/// How often every entry is looked at: events are hints.
const RESCAN: Duration = Duration::from_secs(60);
/// How long a burst of events is waited for. Nobody waits for a report of drift, and most events are our own switches.
const QUIET: Duration = Duration::from_millis(500);
/// How many paths a report names.
const NAMED: usize = 20;

/// Has looked at what events name, when it has been quiet, and at everything now and then, until `stop`.
pub(super) async fn watch(dirty: Arc<Dirty>, inputs: mpsc::Sender<Input>, mut stop: watch::Receiver<bool>) {
    let mut rescan = Instant::now() + RESCAN;
    loop {
        let quiet = dirty.due(QUIET);
        tokio::select! {
            () = dirty.changed() => continue,
            () = tokio::time::sleep_until(quiet.unwrap_or(rescan).min(rescan).into()) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = Instant::now();
        let look = if rescan <= now {
            rescan = now + RESCAN;
            dirty.take();
            Look::Stats
        } else if let Some(look) = dirty.take() {
            look
        } else {
            continue;
        };
        if inputs.send(Input::Dirty(look)).await.is_err() {
            return;
        }
    }
}

impl Member {
    /// Looks where the watch saw something, and tells when the drift is another one than before.
    pub(super) fn dirty(&mut self, look: &Look) {
        if !matches!(self.work, Work::Idle) {
            // What is staged was compared with the sets as they were; the switch looks again at what it replaces.
            return;
        }
        if let Err(error) = self.sets.look(look) {
            tracing::warn!(error = chain(&error), "the sets cannot be looked at");
            return;
        }
        let before = std::mem::take(&mut self.drift);
        self.observe_drift();
        if (before.entries, &before.paths) != (self.drift.entries, &self.drift.paths) {
            self.tell_drift();
            self.send(up::Message::Drift(self.drift.clone()));
        }
    }

    /// Compares what the sets hold with what they should hold.
    pub(super) fn observe_drift(&mut self) {
        self.drift = v1::Drift { time_ms: now_ms(), ..v1::Drift::default() };
        if self.position.at.is_none() {
            return;
        }
        let changes = self.sets.tree.diff(&self.sets.live);
        self.drift.entries = changes.len() as u64;
        self.drift.paths = changes.iter().take(NAMED).map(|c| format!("{}:{}", c.set, c.path)).collect();
    }

    pub(super) fn tell_drift(&self) {
        self.tell(Observation::Drift { entries: self.drift.entries, paths: self.drift.paths.clone() });
    }

    /// Looks at everything (every byte when `full`) and says what root that gives.
    pub(super) fn verify(&mut self, full: bool) {
        self.interrupt();
        let began = Instant::now();
        let look = if full { Look::Bytes } else { Look::Stats };
        if let Err(error) = self.sets.look(&look) {
            let fault = v1::Fault { reason: chain(&error), since_ms: now_ms() };
            return self.send(up::Message::Fault(fault));
        }
        self.observe_drift();
        self.tell_drift();
        self.send(up::Message::Drift(self.drift.clone()));
        self.send(up::Message::Verified(v1::Verified {
            root: self.sets.live.root().into(),
            full,
            entries: self.sets.live.entries(),
            micros: clock::micros(began),
        }));
    }
}
