//! `forget`: earlier contents of a place are erased from every history.
//!
//! First a note in the group record names the chunks. Then the publisher begins a new segment at the head, if it has to, and
//! deletes each segment before that ([`erase`]). One task (`task.rs`) does this again after each start, because a crash may have
//! come in between, and notes in the record when every server has erased the content. The members do the same by the note in
//! their record; what they report comes over their lanes.

mod plan;
mod runs;
mod task;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use bellwether_group::edits::{self, By};
use bellwether_proto::{
    clock::now_ms,
    error::chain,
    hash::Hash,
    name::ServerName,
    record::{Forgotten, Record},
    status::Observation,
};
use bellwether_store::{
    history::{HistoryError, Stored},
    kept,
    mutex::locked,
    state::layout::Layout,
    tree::Tree,
};
use tokio::sync::{Notify, oneshot};

pub(crate) use self::{plan::plan, task::run};
pub use self::{
    plan::{Forget, ForgetError, ForgetPlan},
    runs::Run,
};
use crate::{
    Manager, failpoints,
    publish::{head::Head, publisher::Command, round},
    shared::Shared,
};

/// For each note of the record, the reason why a server still holds the content; none: it does not.
pub(crate) type Holds = BTreeMap<u64, Option<String>>;

/// The servers' reports about the notes.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    held: Mutex<BTreeMap<ServerName, Holds>>,
    /// Notified of reports.
    heard: Notify,
}

impl Reports {
    /// Takes a report of a server.
    pub(crate) fn observe(&self, server: &ServerName, observation: &Observation) {
        if let Observation::Forgets(holds) = observation {
            // This manager's own report is one, too: it must not wake the task that made it again and again.
            if self.take(server, holds) {
                self.heard.notify_one();
            }
        }
    }

    /// Whether the report says something else than the one before.
    fn take(&self, server: &ServerName, holds: &Holds) -> bool {
        locked(&self.held).insert(server.clone(), holds.clone()).as_ref() != Some(holds)
    }

    /// The notes that are not done, although every server of the group has erased the content.
    fn done_everywhere(&self, record: &Record) -> Vec<u64> {
        let held = locked(&self.held);
        let erased = |id: u64| move |holds: &Holds| holds.get(&id).is_some_and(Option::is_none);
        let everywhere = |id: u64| record.servers.iter().all(|server| held.get(&server.name).is_some_and(erased(id)));
        let pending = record.policy.forgotten.iter().filter(|note| !note.done);
        pending.map(|note| note.id).filter(|id| everywhere(*id)).collect()
    }
}

/// What is remembered between two erasures.
#[derive(Debug, Default)]
pub(crate) struct Searched {
    ids: Vec<u64>,
    /// For each note, the packs that do not hold its content.
    clean: BTreeMap<u64, HashSet<Hash>>,
    /// Whether the kept copies were searched for these notes.
    kept: bool,
    /// The result of the last time.
    holds: Holds,
}

impl Searched {
    fn begin(&mut self, notes: &[Forgotten]) {
        let ids: Vec<u64> = notes.iter().map(|note| note.id).collect();
        if self.ids != ids {
            *self = Self { ids, ..Self::default() };
        }
    }
}

/// Erases the contents of the record's notes here, as far as this server may; the state of each note. Safe to repeat, and after a
/// crash. Blocks. `known`: the sets as last scanned. Only the publisher calls this.
pub(crate) fn erase(shared: &Arc<Shared>, known: &Tree, searched: &mut Searched) -> Holds {
    let record = shared.record.borrow().clone();
    let notes = &record.record().policy.forgotten;
    searched.begin(notes);
    let head = shared.head.borrow().tree.clone();
    let mut holds = Holds::new();
    for note in notes {
        let chunks: HashSet<Hash> = note.chunks.iter().copied().collect();
        if note.done && searched.holds.get(&note.id) == Some(&None) {
            holds.insert(note.id, None);
            continue;
        }
        let why = match (head.holder(&chunks), known.holder(&chunks)) {
            // Somebody published the content again after it was erased everywhere.
            (Some(_), _) | (None, Some(_)) if note.done => None,
            (Some(place), _) => Some(format!("the head has it again, at {place}")),
            (None, Some(place)) => Some(format!("the manager's directories have it, at {place}")),
            (None, None) => erase_one(shared, note, &chunks, searched).err(),
        };
        if let Some(why) = &why
            && searched.holds.get(&note.id) != Some(&Some(why.clone()))
        {
            tracing::warn!(place = note.place, why, "a forgotten content is not erased yet; it is tried again");
        }
        holds.insert(note.id, why);
    }
    searched.kept = holds.values().all(Option::is_none);
    searched.holds.clone_from(&holds);
    holds
}

fn erase_one(
    shared: &Arc<Shared>,
    note: &Forgotten,
    chunks: &HashSet<Hash>,
    searched: &mut Searched,
) -> Result<(), String> {
    let clean = searched.clean.entry(note.id).or_default();
    let dropped = erase_from_history(shared, note, chunks, clean)?;
    let deleted = if searched.kept {
        Vec::new()
    } else {
        let erased = kept::erase(&Layout::new(shared.state.clone()).recovery(), chunks);
        let erased = erased.map_err(|error| format!("the kept copies cannot be searched: {error}"))?;
        match erased.unsearched.first() {
            Some(first) => return Err(format!("a kept copy cannot be searched ({first}); remove it")),
            None => erased.deleted,
        }
    };
    if dropped || !deleted.is_empty() {
        let deleted = deleted.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        tracing::info!(place = note.place, deleted, "the forgotten content is erased here");
    }
    Ok(())
}

/// Begins a new segment at the head, if none is without the content, and deletes what is before it; whether anything was deleted.
fn erase_from_history(
    shared: &Arc<Shared>,
    note: &Forgotten,
    chunks: &HashSet<Hash>,
    clean: &mut HashSet<Hash>,
) -> Result<bool, String> {
    let failed = |error: HistoryError| format!("the history cannot be searched: {}", chain(&error));
    let mut search = || {
        let history = shared.history.read().unwrap_or_else(PoisonError::into_inner);
        history.holding(chunks, note.until.sequence, clean).map_err(failed)
    };
    let mut holding = search()?;
    if holding.newest.is_some() && holding.begins.is_none() {
        failpoints::hit("forget.searched");
        round::base(shared, usize::MAX)
            .map_err(|error| format!("a base of the head cannot be made: {}", chain(&error)))?;
        failpoints::hit("forget.based");
        holding = search()?;
    }
    if drop_before(shared, holding.begins.as_ref())? {
        failpoints::hit("forget.dropped");
        refresh_head(shared);
    }
    let left = search()?;
    match (&left.newest, left.unreadable.first()) {
        (None, None) => Ok(holding.newest.is_some()),
        (Some(stored), _) => Err(format!("revision {} is still in {}", stored.header.number(), stored.path.display())),
        (None, Some(path)) => Err(format!("{} is damaged and cannot be searched; remove it", path.display())),
    }
}

/// Deletes the packs before that base, and those that the log has. Whether any pack was deleted.
fn drop_before(shared: &Shared, begins: Option<&Arc<Stored>>) -> Result<bool, String> {
    let failed = |error: HistoryError| format!("the old segments cannot be deleted: {}", chain(&error));
    let mut history = shared.history.write().unwrap_or_else(PoisonError::into_inner);
    if begins.is_some() || history.log_has_packs() {
        history.empty_log().map_err(failed)?;
    }
    let Some(begins) = begins else { return Ok(false) };
    let before = history.all().count();
    history.drop_before(begins).map_err(failed)?;
    Ok(history.all().count() < before)
}

/// The head's pack may be the base by now. The lanes plan anew.
fn refresh_head(shared: &Shared) {
    let head = shared.head.borrow().clone();
    let stored = shared.history.read().unwrap_or_else(PoisonError::into_inner).get(head.id()).cloned();
    if let Some(stored) = stored {
        shared.head.send_replace(Arc::new(Head::new(stored, head.tree.clone(), head.published)));
    }
}

impl Manager {
    /// Erases earlier contents of a place from every history; with `dry_run` only says what that costs. When this returns, the
    /// note is durable, and the content is erased here.
    ///
    /// # Errors
    /// Refused: nothing was changed. Or the content is not erased here yet: it is tried again.
    pub async fn forget(&self, forget: Forget) -> Result<ForgetPlan, ForgetError> {
        let (dry_run, author) = (forget.dry_run, forget.author.clone());
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::PlanForget(forget, answer)).await;
        sent.map_err(|_| ForgetError::Stopping)?;
        let mut plan = answered.await.map_err(|_| ForgetError::Stopping)??;
        let by = By::new(&author, now_ms());
        let shared = &self.inner.shared;
        if dry_run {
            let held = shared.record.borrow().clone();
            if let Some(next) = edits::forget(&held, plan.note.clone(), &by)? {
                edits::level::may_be_written(&next, &shared.programs())?;
            }
            return Ok(plan);
        }
        let record = shared.edit(|held| edits::forget(held, plan.note.clone(), &by)).await?;
        plan.note.id = record.record().policy.forgotten.last().map_or(0, |note| note.id);
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Erase(answer)).await;
        sent.map_err(|_| ForgetError::Stopping)?;
        let mut holds = answered.await.map_err(|_| ForgetError::Stopping)?;
        match holds.remove(&plan.note.id).flatten() {
            None => Ok(plan),
            Some(why) => Err(ForgetError::NotYet(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        key::KeyPair,
        record::{Level, Policy, Role, Server, Version},
        revision::{Epoch, Number},
    };

    use super::*;

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    /// A group of `m` and `a`, with two notes that are not done and one that is.
    fn record() -> Record {
        let server = |server: &str, role| Server {
            name: name(server),
            key: KeyPair::generate().public(),
            address: format!("{server}:1"),
            role,
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        let number = Number { epoch: Epoch(1), sequence: 4 };
        let note = |id, done| Forgotten {
            id,
            place: "web:a.key".to_owned(),
            chunks: vec![Hash::of(b"x")],
            until: number,
            begins: number,
            by: "root".to_owned(),
            time_ms: 1,
            done,
        };
        let forgotten = vec![note(1, true), note(2, false), note(3, false)];
        Record {
            level: Level::NEWEST,
            group: [1; 16].into(),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: vec![server("a", Role::Disabled), server("m", Role::Manager)],
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy { forgotten, ..Policy::new(Vec::new()) },
            log: Vec::new(),
            previous: None,
        }
    }

    #[test]
    fn a_note_is_done_when_every_server_has_said_so() {
        let (reports, record) = (Reports::default(), record());
        let holds = |why: Option<&str>| Holds::from([(1, None), (2, None), (3, why.map(str::to_owned))]);
        assert!(reports.take(&name("m"), &holds(None)));
        assert!(reports.done_everywhere(&record).is_empty(), "a has said nothing, and counts although it is disabled");
        assert!(reports.take(&name("a"), &holds(Some("an edit has it"))));
        assert_eq!(reports.done_everywhere(&record), [2]);
        assert!(!reports.take(&name("a"), &holds(Some("an edit has it"))), "nothing new");
        assert!(reports.take(&name("a"), &holds(None)));
        assert_eq!(reports.done_everywhere(&record), [2, 3]);
    }
}
