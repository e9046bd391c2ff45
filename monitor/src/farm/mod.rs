//! Folds observations into the known state of the farm.

mod configured;
mod heads;
mod server;
mod told;

use std::{collections::BTreeMap, sync::Arc};

use bellwether_proto::{
    key::PublicKey,
    name::{ServerName, SetName},
    record::Record,
    revision::Number,
    status::{Batch, Event, FarmStatus, ForgetStatus, ProcedureStatus, RolloutState, RolloutStatus, SetStatus},
};

pub use configured::differing;
use heads::Heads;
use server::{Known, standing::View};
pub use told::Told;

/// The version of an unknown record.
pub const NO_RECORD: &str = "0.0";
/// The words for edits that have gone on for more than a moment.
const PENDING: &str = "edits go on, and become a revision when they pause, or 10 s after the first";

/// One server's knowledge of the farm. Its memory grows with the group's servers only: never with revisions or events.
#[derive(Debug)]
pub struct Farm {
    observer: ServerName,
    /// The observer's key; none: not known.
    key: Option<PublicKey>,
    record: Option<Arc<Record>>,
    heads: Heads,
    head_message: String,
    /// By set: noticed by events (none), or the reason for rescanning.
    watching: BTreeMap<SetName, Option<String>>,
    unpublished: Option<String>,
    /// Edits at the manager go on.
    pending: bool,
    quarantined: Vec<String>,
    sets: Vec<SetStatus>,
    configured: Option<Vec<SetName>>,
    servers: BTreeMap<ServerName, Known>,
    procedures: Vec<ProcedureStatus>,
    /// The rollout of the head in waves, at the manager.
    rollout: Option<RolloutStatus>,
    /// The batch, at the manager.
    batch: Option<Batch>,
}

impl Farm {
    /// An empty state, observed by `observer`.
    pub fn new(observer: ServerName) -> Self {
        Self {
            observer,
            key: None,
            record: None,
            heads: Heads::default(),
            head_message: String::new(),
            watching: BTreeMap::new(),
            unpublished: None,
            pending: false,
            quarantined: Vec::new(),
            sets: Vec::new(),
            configured: None,
            servers: BTreeMap::new(),
            procedures: Vec::new(),
            rollout: None,
            batch: None,
        }
    }

    /// Sets the observer's key.
    pub fn of_key(self, key: PublicKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Sets the names of the sets in the observer's configuration.
    pub fn configure(&mut self, sets: Vec<SetName>) {
        self.configured = Some(sets);
    }

    /// Applies `event`, observed at `now_ms` (milliseconds since 1970).
    pub fn apply(&mut self, now_ms: u64, event: Event) {
        match event {
            Event::Record(record) => self.take_record(now_ms, record),
            Event::Head { number, time_ms, message } => {
                self.heads.push(number, time_ms);
                self.head_message = message;
                self.servers.values_mut().for_each(|server| server.measure(&self.heads));
            }
            Event::Watching(how) => self.watching = how,
            Event::Unpublished(why) => self.unpublished = why,
            Event::Pending(pending) => self.pending = pending,
            Event::Quarantined(lines) => self.quarantined = lines,
            Event::Sets(sets) => self.sets = sets,
            Event::Procedures(procedures) => self.procedures = procedures,
            Event::Rollout(rollout) => self.rollout = rollout.map(|rollout| *rollout),
            Event::Batch(batch) => self.batch = batch.map(|batch| *batch),
            Event::Fenced { server, conflict, reason } => {
                if let Some(server) = self.servers.get_mut(&server) {
                    server.fence(conflict, reason);
                }
            }
            Event::Acknowledged(servers) => {
                let acknowledged = self.servers.iter_mut().filter(|(name, _)| servers.contains(name));
                acknowledged.for_each(|(_, server)| server.acknowledge());
            }
            Event::Led { server, epoch } => {
                if let Some(server) = self.servers.get_mut(&server) {
                    server.has_led(epoch);
                }
            }
            // A late event of a server that was removed meanwhile is dropped.
            Event::Server(name, observation) => {
                if let Some(server) = self.servers.get_mut(&name) {
                    server.observe(now_ms, observation);
                    server.measure(&self.heads);
                }
            }
        }
    }

    fn take_record(&mut self, now_ms: u64, record: Arc<Record>) {
        self.servers.retain(|name, _| record.server(name).is_some());
        let turned = self.record.as_ref().is_some_and(|before| before.manager().key != record.manager().key);
        if turned {
            (self.unpublished, self.pending) = (None, false);
            self.rollout = None;
            self.batch = None;
        }
        if self.record.as_ref().is_some_and(|before| before.version.epoch != record.version.epoch) {
            // A server that refuses this epoch, too, says so again.
            self.servers.values_mut().for_each(Known::decided);
        }
        for server in &record.servers {
            match self.servers.get_mut(&server.name) {
                Some(known) => known.assign(now_ms, server, turned && server.name != self.observer),
                None => drop(self.servers.insert(server.name.clone(), Known::new(now_ms, server))),
            }
        }
        self.servers.values_mut().for_each(|server| server.measure(&self.heads));
        self.record = Some(record);
    }

    /// The farm at `now_ms` (milliseconds since 1970).
    pub fn status(&self, now_ms: u64) -> FarmStatus {
        let record = self.record.as_deref();
        let manager = record.map_or(&self.observer, |record| &record.manager().name);
        let paused = record.is_some_and(|record| record.policy.paused);
        let version = record.map(|record| record.version);
        let stopped = self.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Stopped);
        let view =
            View { head: self.head(), record: version, paused, stopped, observer: &self.observer, manager, now_ms };
        FarmStatus {
            observer: self.observer.clone(),
            time_ms: now_ms,
            record: record.map_or_else(|| NO_RECORD.to_owned(), |record| record.version.to_string()),
            manager: manager.clone(),
            head: self.head(),
            head_time_ms: self.heads.last_time_ms(),
            head_message: self.head_message.clone(),
            paused,
            publish: record.map_or("unknown", |record| record.policy.publish.word()).to_owned(),
            watching: self.watching(),
            unpublished: self.unpublished.clone().or_else(|| self.pending.then(|| PENDING.to_owned())),
            pending: self.pending,
            sets: self.sets.iter().map(|set| self.watched(set)).collect(),
            warnings: self
                .configured
                .iter()
                .zip(record)
                .flat_map(|(sets, record)| differing(sets, &record.policy.sets))
                .collect(),
            quarantined: self.quarantined.clone(),
            servers: self.servers.iter().map(|(name, server)| server.status(name, &view)).collect(),
            told_ms: None,
            procedures: self.procedures.clone(),
            expelled: record.and_then(|record| self.expelled(record)),
            rollout: self.rollout.clone(),
            batch: self.batch.clone(),
            forgets: record.map(|record| self.forgets(record)).unwrap_or_default(),
        }
    }

    /// The forgotten contents that some servers hold, or may hold.
    fn forgets(&self, record: &Record) -> Vec<ForgetStatus> {
        let pending = record.policy.forgotten.iter().filter(|note| !note.done);
        let holders =
            |id: u64| self.servers.iter().filter_map(move |(name, server)| Some((name.clone(), server.remembers(id)?)));
        let forgets = pending.map(|note| ForgetStatus {
            id: note.id,
            place: note.place.clone(),
            holders: holders(note.id).collect(),
        });
        forgets.filter(|forget| !forget.holders.is_empty()).collect()
    }

    /// The reason why the observer is no server of the group any more, and the next action.
    fn expelled(&self, record: &Record) -> Option<String> {
        let (name, manager) = (&self.observer, record.manager());
        self.key.filter(|key| record.by_key(key).is_none())?;
        let at = format!("at the manager, {} ({})", manager.name, manager.address);
        Some(match record.server(name) {
            None => format!(
                "{name} was removed from the group: it gets no updates, and serves its present files; to bring it back, {at}: \
                 `bellwether server add {name}`; or to forget the group, here: `bellwether leave`"
            ),
            Some(_) => format!(
                "other hardware has taken the place of {name}: this machine is sent nothing, and its key is refused; here: \
                 `bellwether leave`; to enter the group under another name, {at}: `bellwether token create`"
            ),
        })
    }

    fn watched(&self, set: &SetStatus) -> SetStatus {
        SetStatus { watching: how(self.watching.get(&set.name)), ..set.clone() }
    }

    /// The way in which changes are noticed, in all sets.
    fn watching(&self) -> String {
        let rescanned = self.watching.iter().filter_map(|(set, why)| Some((set, why.as_ref()?)));
        let rescanned: Vec<_> =
            rescanned.map(|(set, why)| format!("{set} {}", how(Some(&Some(why.clone()))))).collect();
        match rescanned.is_empty() {
            true => how(self.watching.values().next()),
            false => rescanned.join("; "),
        }
    }

    fn head(&self) -> Option<Number> {
        self.heads.last()
    }
}

/// The way in which changes are noticed, in words.
fn how(noticed: Option<&Option<String>>) -> String {
    match noticed {
        None => "not watching".to_owned(),
        Some(None) => "events".to_owned(),
        Some(Some(why)) => format!("by rescanning every few seconds: {why}"),
    }
}

#[cfg(test)]
mod tests;
