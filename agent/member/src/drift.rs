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

use bellwether_proto::{clock, error::chain, record::SignedRecord, v1};
use bellwether_store::{
    scan::Look,
    tree::Change,
    watch::{
        Modes,
        pending::{Limits, PendingChanges},
    },
};

use tokio::sync::{mpsc, watch};

use super::{
    Input, Member,
    follower::{self, Edits},
};

/// How often every entry is looked at: events are hints.
const RESCAN: Duration = Duration::from_secs(60);
/// The same where events do not tell all.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(5);
/// How long a burst of events is waited for, and a file that is written all the time. Nobody waits for a report of drift,
/// and most events are our own switches.
const LIMITS: Limits = Limits { quiet: Duration::from_millis(500), open: Duration::from_secs(10) };
/// How many paths a report names.
pub(super) const NAMED: usize = 20;

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
            if dirty.take().is_some() { follower::Input::Changed(Look::Stats) } else { follower::Input::Rescan }
        } else if quiet.is_some_and(|at| at <= now)
            && let Some(look) = dirty.take_due(LIMITS, now)
        {
            follower::Input::Changed(look)
        } else if wanted != policy {
            follower::Input::Changed(waiting::nowhere())
        } else {
            continue;
        };
        policy = wanted;
        if inputs.send(Input::Happens(input)).await.is_err() {
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
        follower::holds(self.record.current().record(), self.position.at.as_ref())
    }

    /// Why a set cannot be compared.
    pub(super) fn away(&self) -> Option<String> {
        let whys: Vec<_> = self.sets.away.values().map(String::as_str).collect();
        (!whys.is_empty()).then(|| whys.join("; "))
    }

    /// Does what had to wait until nothing was under way, and what the policy wants done about edits.
    pub(super) fn catch_up(&mut self) {
        if !self.asked.is_empty() {
            self.put(follower::Input::Asked);
        }
        self.put(follower::Input::CatchUp);
        if !self.follower.is_idle() {
            return;
        }
        while let Some(asked) = self.asked.pop_front() {
            self.answer(asked);
        }
        self.put(follower::Input::Revert);
        if self.follower.is_idle() {
            self.forget();
        }
    }

    pub(super) fn revert_by_policy(&mut self) {
        let paths = self.follower.drift().paths.join(", ");
        match self.put_back(&[], false) {
            Ok(done) => tracing::warn!(paths, kept = done.kept.join(", "), "edits were put back, as the policy says"),
            Err(error) => tracing::warn!(paths, error = chain(&error), "edits could not be put back; tried again"),
        }
    }

    /// Looks where the watch saw something, and tells when the drift is another one than before.
    pub(super) fn dirty(&mut self, look: &Look) {
        let edits = self.look_and_compare(look);
        self.put(follower::Input::Compared(edits));
    }

    /// Looks where the watch saw something.
    pub(super) fn look_and_compare(&mut self, look: &Look) -> Edits {
        match self.sets.look_around(look) {
            Err(error) => tracing::warn!(error = chain(&error), "the sets cannot be looked at"),
            // Seldom, and written only where a directory was found elsewhere and accepted, or for the first time.
            Ok(_) if matches!(look, Look::Stats | Look::Bytes) => self.sets.save_roots(),
            Ok(_) => {}
        }
        self.rescans.scanned(&self.sets.live, &mut self.sets.links);
        self.compare()
    }

    /// Compares what the sets hold with what they should hold.
    pub(super) fn compare(&mut self) -> Edits {
        let away = self.away().unwrap_or_default();
        let edits = if self.position.at.is_some() { self.sets.edits() } else { Vec::new() };
        if edits.is_empty() {
            self.given.clear();
        }
        let paths = edits.iter().take(NAMED).map(|c| format!("{}:{}", c.set, c.path)).collect();
        let ungiven = first_held(&edits, &self.given).is_some();
        Edits { entries: edits.len() as u64, paths, ungiven, away }
    }

    /// Looks at everything and says what root that gives; none if something cannot be read.
    pub(super) fn verify(&mut self, full: bool) -> (v1::Verified, Edits) {
        let began = Instant::now();
        let look = if full { Look::Bytes } else { Look::Stats };
        let unread = match self.sets.look_around(&look) {
            Ok(unread) => unread.first().map(|unread| format!("{}:{}: {}", unread.set, unread.path, unread.reason())),
            Err(error) => Some(chain(&error)),
        };
        let root = if unread.is_none() { self.sets.live.root().into() } else { bytes::Bytes::new() };
        let (entries, edits) = (self.sets.live.entries(), self.compare());
        let unread = unread.unwrap_or_default();
        (v1::Verified { root, full, entries, micros: clock::micros(began), unread }, edits)
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
