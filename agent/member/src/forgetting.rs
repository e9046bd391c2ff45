//! Erases forgotten contents from this member's history and from its kept copies, and tells the manager whether it still holds
//! them. Done while nothing else is under way, and again when something that was in the way may be gone.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant, SystemTime},
};

use bellwether_proto::{
    error::chain,
    hash::Hash,
    record::Forgotten,
    revision::RevisionId,
    v1::{self, up},
};
use bellwether_store::{failpoint, history::HistoryError, kept};

use super::Member;

/// The pause before something that was in the way is looked at again.
const RETRY: Duration = Duration::from_secs(30);

/// For each note of the record, the reason why this server still holds the content; none: it does not.
type Holds = BTreeMap<u64, Option<String>>;

/// What counts for the contents that this server holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    notes: Vec<(u64, bool)>,
    at: Option<RevisionId>,
    drift: (u64, Vec<String>),
    /// When a kept copy was last added or removed.
    kept: Option<SystemTime>,
}

/// What this member knows of the contents that it is to erase.
#[derive(Debug, Default)]
pub(crate) struct Forgetting {
    /// For each note, the packs that do not hold its content.
    clean: BTreeMap<u64, HashSet<Hash>>,
    holds: Holds,
    /// What was there at the last search, and its time.
    searched: Option<(Seen, Instant)>,
    /// What the manager was told in which session.
    told: Option<(u64, Holds)>,
}

impl Member {
    /// Erases what the record says, if anything may have changed since the last time, and tells the manager.
    pub(super) fn forget(&mut self) {
        let record = self.record.current();
        let notes = &record.record().policy.forgotten;
        if notes.is_empty() {
            return;
        }
        let seen = self.seen(notes);
        let is_done = self.forgetting.holds.values().all(Option::is_none);
        let is_due = match &self.forgetting.searched {
            Some((before, then)) => *before != seen || (!is_done && then.elapsed() >= RETRY),
            None => true,
        };
        if is_due {
            let ids: HashSet<u64> = notes.iter().map(|note| note.id).collect();
            self.forgetting.clean.retain(|id, _| ids.contains(id));
            let holds: Holds = notes.iter().map(|note| (note.id, self.erase(note).err())).collect();
            for note in notes {
                if let Some(Some(why)) = holds.get(&note.id)
                    && self.forgetting.holds.get(&note.id) != holds.get(&note.id)
                {
                    tracing::warn!(place = note.place, why, "a forgotten content is not erased here yet");
                }
            }
            self.forgetting.holds = holds;
            // What was erased has changed the kept copies.
            self.forgetting.searched = Some((self.seen(notes), Instant::now()));
        }
        self.tell_forgets();
    }

    fn seen(&self, notes: &[Forgotten]) -> Seen {
        let drift = self.follower.drift();
        Seen {
            notes: notes.iter().map(|note| (note.id, note.done)).collect(),
            at: self.position.at.as_ref().map(|at| at.id()),
            drift: (drift.entries, drift.paths.clone()),
            kept: self.layout.recovery().metadata().and_then(|recovery| recovery.modified()).ok(),
        }
    }

    fn tell_forgets(&mut self) {
        let Some(session) = self.follower.session() else { return };
        let holds = &self.forgetting.holds;
        if self.forgetting.told.as_ref().is_some_and(|(to, told)| *to == session && told == holds) {
            return;
        }
        let forget =
            |(id, why): (&u64, &Option<String>)| v1::Forget { id: *id, holds: why.clone().unwrap_or_default() };
        let forgets = holds.iter().map(forget).collect();
        self.forgetting.told = Some((session, holds.clone()));
        if let Some(input) = self.send(up::Message::Forgets(v1::Forgets { forgets })) {
            self.put(input);
        }
    }

    /// Erases one content. Safe to repeat, and after a crash.
    ///
    /// # Errors
    /// The reason why this server still holds it.
    fn erase(&mut self, note: &Forgotten) -> Result<(), String> {
        let chunks: HashSet<Hash> = note.chunks.iter().copied().collect();
        let in_place = self
            .sets
            .tree
            .holder(&chunks)
            .map(|place| (place, "the revision that it holds has it"))
            .or_else(|| self.sets.live.holder(&chunks).map(|place| (place, "an edit of its own has it")));
        match in_place {
            // The content was published again, or put there, after every server had erased it.
            Some(_) if note.done => return Ok(()),
            Some((place, what)) => return Err(format!("{what}, at {place}")),
            None => {}
        }
        if self.position.fault.is_some() {
            return Err("it is in error".to_owned());
        }
        // What a switch leaves behind may have it.
        self.committed = None;
        let dropped = self.erase_from_history(note, &chunks)?;
        let erased = kept::erase(&self.layout.recovery(), &chunks);
        let erased = erased.map_err(|error| format!("the kept copies cannot be searched: {error}"))?;
        if dropped || !erased.deleted.is_empty() {
            let deleted = erased.deleted.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            tracing::info!(place = note.place, deleted, "the forgotten content is erased here");
        }
        match erased.unsearched.first() {
            Some(first) => Err(format!("a kept copy cannot be searched ({first}); remove it")),
            None => Ok(()),
        }
    }

    /// Begins a new segment, if none is without the content, and deletes what is before it; whether anything was deleted.
    fn erase_from_history(&mut self, note: &Forgotten, chunks: &HashSet<Hash>) -> Result<bool, String> {
        let until = note.until.sequence;
        let mut clean = self.forgetting.clean.remove(&note.id);
        let is_first = clean.is_none();
        let clean = clean.get_or_insert_default();
        let unsearched = |error: HistoryError| format!("the history cannot be searched: {}", chain(&error));
        let mut holding = self.history.holding(chunks, until, clean).map_err(unsearched)?;
        if holding.newest.is_some() && holding.begins.is_none() {
            let at = self.position.at.clone().ok_or("it holds no revision; sync it")?;
            failpoint::hit("member.forgets");
            let based = self.pack_base(&at);
            based.map_err(|error| format!("a base of its revision cannot be made: {}", chain(&error)))?;
            holding = self.history.holding(chunks, until, clean).map_err(unsearched)?;
        }
        let undeleted = |error: HistoryError| format!("the old segments cannot be deleted: {}", chain(&error));
        if is_first || holding.newest.is_some() {
            // Packs that were moved stay in the log until it is made anew.
            self.history.empty_log().map_err(undeleted)?;
            self.history.drop_partial();
        }
        if let Some(begins) = &holding.begins {
            failpoint::hit("member.based");
            self.history.drop_before(begins).map_err(undeleted)?;
            failpoint::hit("member.forgot");
        }
        let left = self.history.holding(chunks, until, clean).map_err(unsearched)?;
        match (&left.newest, left.unreadable.first()) {
            (Some(stored), _) => {
                let number = stored.header.number();
                Err(format!("revision {number} is still in {}", stored.path.display()))
            }
            (None, Some(path)) => Err(format!("{} is damaged and cannot be searched; remove it", path.display())),
            (None, None) => {
                self.forgetting.clean.insert(note.id, std::mem::take(clean));
                Ok(holding.newest.is_some())
            }
        }
    }
}
