//! Drift: edits on a member, seen and reported by content, never adopted (W3). What the group's policy wants done about
//! them is done here.

pub(crate) mod asked;
pub(super) mod pace;
mod put_back;
pub(super) mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    clock::{self, now_ms},
    error::chain,
    record::{OnDrift, SignedRecord},
    revision::SignedHeader,
    status::Observation,
    v1::{self, up},
};
use bellwether_store::{
    scan::Look,
    tree::Change,
    watch::{
        Modes,
        pending::{Limits, PendingChanges},
    },
};

use tokio::sync::{mpsc, watch};

use super::{Input, Member, Work, receive::ReceiveError};

/// How often every entry is looked at: events are hints.
const RESCAN: Duration = Duration::from_secs(60);
/// The same where events do not tell all.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(5);
/// How long a burst of events is waited for, and a file that is written all the time. Nobody waits for a report of drift,
/// and most events are our own switches.
const LIMITS: Limits = Limits { quiet: Duration::from_millis(500), open: Duration::from_secs(10) };
/// How many paths a report names.
const NAMED: usize = 20;

/// Has looked at what events name, when it has been quiet, and at everything now and then, until `stop`. A change of the
/// group's policy is acted on at once.
pub(super) async fn watch(
    (dirty, modes): (Arc<PendingChanges>, watch::Receiver<Modes>),
    mut record: watch::Receiver<Arc<SignedRecord>>,
    inputs: mpsc::Sender<Input>,
    mut stop: watch::Receiver<bool>,
) {
    let mut scanned = Instant::now();
    let mut policy = record.borrow_and_update().record().policy.drift;
    loop {
        let quiet = dirty.due(LIMITS);
        let rescan = scanned + if modes.borrow().need_rescans() { RESCAN_UNWATCHED } else { RESCAN };
        tokio::select! {
            () = dirty.changed() => continue,
            Ok(()) = record.changed() => {}
            () = tokio::time::sleep_until(quiet.unwrap_or(rescan).min(rescan).into()) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = Instant::now();
        let wanted = record.borrow_and_update().record().policy.drift;
        let input = if rescan <= now {
            scanned = now;
            if dirty.take().is_some() { Input::Changed(Look::Stats) } else { Input::Rescan }
        } else if quiet.is_some_and(|at| at <= now)
            && let Some(look) = dirty.take_due(LIMITS, now)
        {
            Input::Changed(look)
        } else if wanted != policy {
            Input::Changed(waiting::nowhere())
        } else {
            continue;
        };
        policy = wanted;
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// The first edit that is not one of those `given`; both sorted.
pub(super) fn first_held<'a>(edits: &'a [Change], given: &[Change]) -> Option<&'a Change> {
    let is_given = |edit: &Change| {
        let at = given.binary_search_by(|known| (&known.set, &known.path).cmp(&(&edit.set, &edit.path)));
        at.is_ok_and(|at| given[at] == *edit)
    };
    edits.iter().find(|edit| !is_given(edit))
}

/// Why a server with so many edits takes no updates, for people.
pub(super) fn held(edits: usize, first: &str) -> String {
    let entries = if edits == 1 { "1 entry was edited".to_owned() } else { format!("{edits} entries were edited") };
    format!(
        "{entries} here, {first} first, and the group's policy for drift is hold; nothing was changed; keep or revert them: \
         bellwether drift show"
    )
}

impl Member {
    /// Whether edits made here hold updates back.
    pub(super) fn holds(&self) -> bool {
        self.position.at.is_some() && self.policy() == OnDrift::Hold
    }

    fn policy(&self) -> OnDrift {
        self.record.current().record().policy.drift
    }

    pub(super) fn held_reason(&self) -> String {
        held(self.drift.entries as usize, self.drift.paths.first().map_or("", String::as_str))
    }

    /// Why a set cannot be compared.
    pub(super) fn away(&self) -> Option<String> {
        let whys: Vec<_> = self.sets.away.values().map(String::as_str).collect();
        (!whys.is_empty()).then(|| whys.join("; "))
    }

    /// A revision that was not taken. What held it and was not known yet is told at once.
    pub(super) fn not_taken(&mut self, header: &SignedHeader, error: &ReceiveError) {
        match error {
            ReceiveError::Held(_) => self.waiting.look(waiting::nowhere()),
            ReceiveError::Scan(_) => self.waiting.look(Look::Stats),
            _ => {}
        }
        self.refused(header, error);
    }

    /// Does what had to wait until nothing was under way, and what the policy wants done about edits.
    pub(super) fn catch_up(&mut self) {
        if !matches!(self.work, Work::Idle) {
            return;
        }
        if let Some(full) = self.waiting.take_verify() {
            self.verify_now(full);
        } else if let Some((look, plain)) = self.waiting.take_look() {
            let before = self.sets.live.clone();
            self.dirty(&look);
            if plain {
                self.rescans.found(&before, &self.sets.live);
            }
        }
        while let Some(asked) = self.waiting.take_asked() {
            self.answer(asked);
        }
        if self.drift.entries > 0 && self.policy() == OnDrift::Revert && self.position.fault.is_none() {
            self.revert_by_policy();
        }
    }

    fn revert_by_policy(&mut self) {
        if !self.pace.may(Instant::now()) {
            return;
        }
        let paths = self.drift.paths.join(", ");
        match self.put_back(&[], false) {
            Ok(done) => tracing::warn!(paths, kept = done.kept.join(", "), "edits were put back, as the policy says"),
            Err(error) => tracing::warn!(paths, error = chain(&error), "edits could not be put back; tried again"),
        }
    }

    /// Looks where the watch saw something, and tells when the drift is another one than before.
    pub(super) fn dirty(&mut self, look: &Look) {
        match self.sets.look_around(look) {
            Err(error) => tracing::warn!(error = chain(&error), "the sets cannot be looked at"),
            // Seldom, and written only where a directory was found elsewhere and accepted, or for the first time.
            Ok(()) if matches!(look, Look::Stats | Look::Bytes) => self.sets.save_roots(),
            Ok(()) => {}
        }
        self.rescans.scanned(&self.sets.live, &mut self.sets.links);
        let before = std::mem::take(&mut self.drift);
        self.observe_drift();
        let now = &self.drift;
        let said = |drift: &v1::Drift| (drift.entries, drift.paths.clone(), drift.held, drift.away.clone());
        if said(&before) != said(now) {
            self.say_drift(Vec::new());
        }
    }

    /// Tells of the drift, and of the recovery points of edits that were put back just now.
    fn say_drift(&mut self, kept: Vec<String>) {
        let v1::Drift { entries, paths, held, .. } = self.drift.clone();
        self.tell(Observation::Drift { entries, paths, held, kept: kept.clone() });
        self.tell(Observation::Away(self.away()));
        if self.session.is_some() {
            self.send(up::Message::Drift(v1::Drift { kept, ..self.drift.clone() }));
        } else {
            // Said with the next hello; drift show names all there are.
            self.unsaid.extend(kept);
            self.unsaid.truncate(NAMED);
        }
    }

    /// Compares what the sets hold with what they should hold.
    pub(super) fn observe_drift(&mut self) {
        self.drift = v1::Drift { time_ms: now_ms(), away: self.away().unwrap_or_default(), ..v1::Drift::default() };
        if self.position.at.is_none() {
            return;
        }
        let edits = self.sets.edits();
        if edits.is_empty() {
            self.given.clear();
        }
        self.drift.entries = edits.len() as u64;
        self.drift.paths = edits.iter().take(NAMED).map(|c| format!("{}:{}", c.set, c.path)).collect();
        self.drift.held = self.holds() && first_held(&edits, &self.given).is_some();
    }

    pub(super) fn tell_drift(&self) {
        let v1::Drift { entries, paths, held, .. } = self.drift.clone();
        self.tell(Observation::Drift { entries, paths, held, kept: Vec::new() });
        self.tell(Observation::Away(self.away()));
    }

    /// Has everything looked at (every byte when `full`), when nothing else is under way.
    pub(super) fn verify(&mut self, full: bool) {
        self.waiting.verify(full);
    }

    /// Looks at everything and says what root that gives.
    fn verify_now(&mut self, full: bool) {
        let began = Instant::now();
        let look = if full { Look::Bytes } else { Look::Stats };
        if let Err(error) = self.sets.look(&look) {
            let fault = v1::Fault { reason: chain(&error), since_ms: now_ms() };
            return self.send(up::Message::Fault(fault));
        }
        self.observe_drift();
        self.say_drift(Vec::new());
        self.send(up::Message::Verified(v1::Verified {
            root: self.sets.live.root().into(),
            full,
            entries: self.sets.live.entries(),
            micros: clock::micros(began),
        }));
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::entry::EntryPath;

    use super::*;

    fn removed(path: &str) -> Change {
        let path = EntryPath::new(path.as_bytes()).expect("a path");
        Change { set: "web".parse().expect("a name"), path, entry: None }
    }

    #[test]
    fn only_edits_that_no_revision_has_hold() {
        let edits = ["a", "b/c", "d"].map(removed);
        assert_eq!(first_held(&edits, &[]), Some(&edits[0]));
        assert_eq!(first_held(&edits, &edits[..1]), Some(&edits[1]));
        assert_eq!(first_held(&edits, &edits), None);
        assert_eq!(first_held(&[], &edits), None);
        assert!(held(2, "web:a").contains("2 entries were edited here, web:a first"));
    }
}
