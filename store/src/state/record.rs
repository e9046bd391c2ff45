//! The group record of this server: durable before it is in force, and one for all tasks.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bellwether_proto::{
    advice::{Advice, Advise},
    clock::now_ms,
    key::PublicKey,
    limits,
    record::{RecordRefused, Server, SignedRecord, Version, chain},
    revision::{Epoch, SignedHeader},
    status::{Event, Observation},
    time,
};
use tokio::sync::{mpsc, watch};

use super::{
    file::{self, StateFileError},
    layout::{Held, Layout},
};
use crate::mutex::locked;

/// The interval at which requests from outside the group are reported, at most one each time.
const KNOCKS: Duration = Duration::from_secs(1);

/// The record in force, and the chain that leads to it.
pub struct GroupRecord {
    layout: Layout,
    own_key: PublicKey,
    current: watch::Sender<Arc<SignedRecord>>,
    /// The record by which this server leads, if it leads; see [`GroupRecord::lead`].
    led: watch::Sender<Arc<SignedRecord>>,
    chain: Mutex<Arc<Vec<SignedRecord>>>,
    events: mpsc::UnboundedSender<Event>,
    /// The last request from outside the group, for people.
    knock: watch::Sender<Option<String>>,
    knocked: Mutex<Option<Instant>>,
    /// The reason that nothing is changed here: another server leads in this server's epoch.
    rival: watch::Sender<Option<Arc<str>>>,
}

/// The records that a server lacks. Nothing is copied before it is sent.
pub struct Since {
    chain: Arc<Vec<SignedRecord>>,
    current: Arc<SignedRecord>,
    from: Version,
}

impl Since {
    /// Oldest first: the chain, then the record in force.
    pub fn iter(&self) -> impl Iterator<Item = &SignedRecord> {
        chain::since(&self.chain, &self.current, self.from)
    }
}

/// A record is refused, and the held record stays in force.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The held record does not allow the new one.
    #[error(transparent)]
    Refused(#[from] RecordRefused),
    /// The record could not be written.
    #[error(transparent)]
    Save(#[from] StateFileError),
}

/// A record of this manager is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The held record is another manager's by now.
    #[error("this server is not the manager any more")]
    Superseded(#[source] RecordRefused),
    /// The record could not be made durable.
    #[error("the group record could not be saved; nothing was changed")]
    State(#[from] StateFileError),
}

impl Advise for SaveError {
    fn advice(&self) -> Option<Advice> {
        matches!(self, Self::Superseded(_)).then(|| Advice::run("the manager is named by", "bellwether status"))
    }
}

/// The way to end a conflict of two managers.
pub fn decide() -> Advice {
    let other = "the other one follows it, and saves its own revisions as a kept copy";
    Advice::run("decide which one leads, then there", "bellwether promote --self --force").or(&Advice::say(other))
}

impl GroupRecord {
    /// Holds a loaded record, and tells the monitor of it.
    pub fn new(layout: Layout, own_key: PublicKey, held: Held, events: mpsc::UnboundedSender<Event>) -> Self {
        let current = watch::Sender::new(Arc::new(held.current));
        let _ = events.send(Event::Record(Arc::new(current.borrow().record().clone())));
        let led = watch::Sender::new(current.borrow().clone());
        let (chain, knock, knocked) = (Mutex::new(Arc::new(held.chain)), watch::Sender::default(), Mutex::default());
        Self { layout, own_key, current, led, chain, events, knock, knocked, rival: watch::Sender::default() }
    }

    /// The record in force.
    pub fn current(&self) -> Arc<SignedRecord> {
        self.current.borrow().clone()
    }

    /// The record in force, now and at every change.
    pub fn follow(&self) -> watch::Receiver<Arc<SignedRecord>> {
        self.current.subscribe()
    }

    /// The record by which this server leads from now on: the one in force, then its own from [`GroupRecord::save_next`]
    /// within the epoch. A record that ends its role or comes from the network is never this one: until the manager's tasks
    /// have ended, they act on the last record that they made, and cannot put another one in force.
    pub fn lead(&self) -> watch::Receiver<Arc<SignedRecord>> {
        let _unchanged = self.locked();
        self.led.send_replace(self.current());
        self.led.subscribe()
    }

    /// The records that made each manager, oldest first, as far back as a message has space for.
    pub fn chain(&self) -> Vec<SignedRecord> {
        chain::newest_within(&self.locked(), limits::CHAIN_SENT).to_vec()
    }

    /// All kept records of the chain.
    pub fn whole_chain(&self) -> Vec<SignedRecord> {
        self.locked().to_vec()
    }

    /// The reason that this manager changes nothing, now and at every change; none if no other server leads in its epoch.
    pub fn disputes(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.rival.subscribe()
    }

    /// The files of the state directory.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// This server's key.
    pub fn own_key(&self) -> PublicKey {
        self.own_key
    }

    /// Tells the monitor of a request from outside the group, at most once a second (W15).
    pub fn knocked(&self, key: &PublicKey, address: SocketAddr, asked: &str) {
        let mut last = locked(&self.knocked);
        if last.is_some_and(|last| last.elapsed() < KNOCKS) {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        let current = self.current();
        let record = current.record();
        let who = match record.removed.iter().find(|gone| gone.key == *key) {
            Some(gone) => format!("{}, which was removed,", gone.name),
            None => key.to_string(),
        };
        let now = time::utc((now_ms() / 1_000) as i64);
        let said = format!("{who} at {address} asked {asked} at {now} UTC; it was refused");
        tracing::warn!("a request from outside the group: {said}");
        if let Some(own) = record.by_key(&self.own_key) {
            let _ = self.events.send(Event::Server(own.name.clone(), Observation::Knocked(said.clone())));
        }
        self.knock.send_replace(Some(said));
    }

    /// The requests from outside the group, from now on.
    pub fn knocks(&self) -> watch::Receiver<Option<String>> {
        self.knock.subscribe()
    }

    /// The records that a server with a record of version `from` lacks, oldest first: the chain, then the record in force.
    pub fn since(&self, from: Version) -> Since {
        let chain = self.locked();
        Since { chain: chain.clone(), current: self.current(), from }
    }

    /// The key of the manager of that epoch, if it is known and the group does not refuse it.
    pub fn manager_of(&self, epoch: Epoch) -> Option<PublicKey> {
        let (chain, current) = (self.locked(), self.current());
        let key = chain::manager_of(&chain, &current, epoch)?;
        (!current.record().refused.contains(&key)).then_some(key)
    }

    /// Whether this is a revision of this group that the manager of its epoch signed.
    pub fn is_managers(&self, header: &SignedHeader) -> bool {
        let ours = header.header().group == self.current().record().group;
        ours && self.manager_of(header.number().epoch).is_some_and(|manager| header.signed_by(&manager))
    }

    /// The signer of the record that ended that epoch, if it is known.
    pub fn ended_by(&self, epoch: Epoch) -> Option<PublicKey> {
        let (chain, current) = (self.locked(), self.current());
        let mut later = chain.iter().chain([&*current]);
        later.find(|record| record.record().version.epoch > epoch).map(SignedRecord::signer)
    }

    /// Whether the record in force makes this server the manager.
    pub fn is_led_here(&self) -> bool {
        self.current().record().manager().key == self.own_key
    }

    /// Takes a record from the network if it may follow the held one. The record is durable before it is in force.
    ///
    /// # Errors
    /// The record is refused or cannot be written; the held record stays in force.
    pub fn take(&self, new: SignedRecord) -> Result<(), TakeError> {
        self.take_by(&[new])
    }

    /// Takes the newest of `links`, with those between if it needs them. Each is durable before it is in force.
    ///
    /// # Errors
    /// A record is refused or cannot be written; the held record stays in force.
    pub fn take_by(&self, links: &[SignedRecord]) -> Result<(), TakeError> {
        let mut chain = self.locked();
        let way = chain::walk(&self.current(), links).inspect_err(|refused| {
            self.tell_refused(links, refused);
            self.note_rival(&chain, links, refused);
        })?;
        Ok(self.put(&mut chain, &way)?)
    }

    /// Shows that a server of the group leads by a record that does not follow from the held one: the held one has it as
    /// removed, disabled or no candidate, or is on another branch. Only a person can decide.
    fn tell_refused(&self, links: &[SignedRecord], refused: &RecordRefused) {
        let Some(last) = links.last() else { return };
        let current = self.current();
        let (ours, theirs) = (current.record(), last.record());
        let rebuilt_without = theirs.refused.iter().find(|key| current.is_by(key));
        if let (Some(key), Some(signer)) =
            (rebuilt_without, ours.by_key(&last.signer()).filter(|_| last.is_self_signed()))
        {
            let reason = format!(
                "{} has rebuilt the group without {key}, which this server follows ({refused}); if that is right, root of \
                 this machine confirms it by the token that the rebuild printed: bellwether group rebuild --confirm TOKEN",
                signer.name
            );
            tracing::error_span!("peer", server = %signer.name).in_scope(|| tracing::warn!(reason, "a rebuilt group"));
            let _ = self.events.send(Event::Fenced { server: signer.name.clone(), conflict: true, reason });
            return;
        }
        let (RecordRefused::Signer(_) | RecordRefused::Jump { .. }) = refused else { return };
        let known = |key: &PublicKey| ours.servers.iter().chain(&ours.removed).find(|server| server.key == *key);
        // A record with an unknown manager or signer is not shown.
        let (Some(leads), Some(signer)) = (known(&theirs.manager().key), known(&last.signer())) else { return };
        let branch = (leads.key == self.own_key).then_some(signer);
        if theirs.version.epoch < ours.version.epoch || (leads.key == ours.manager().key && branch.is_none()) {
            return;
        }
        // A removed server has no line in the status, so the manager's line shows it.
        let line = |server: &Server| ours.by_key(&server.key).unwrap_or(ours.manager()).name.clone();
        let (theirs, held) = (theirs.version, ours.version);
        let jumps = format!(
            "{} made group record {theirs}, which no server accepts ({refused}); if its key is not trusted any more, refuse \
             it at the manager: bellwether group rebuild --refuse {}",
            signer.name, signer.key
        );
        let (server, reason) = match branch {
            _ if matches!(refused, RecordRefused::Jump { .. }) => (line(signer), jumps),
            Some(signer) => (
                line(signer),
                format!(
                    "{} made group record {theirs}, by which this server is the manager, too, and which does not follow from \
                     {held}, which is held here ({refused}); servers with that record take nothing from this server until \
                     it leads again: bellwether promote --self --force",
                    signer.name
                ),
            ),
            None => (
                line(leads),
                format!(
                    "{leads} leads by group record {theirs}, which does not follow from {held}, which is held here ({refused}); \
                     decide whether {leads} or {} leads, then there: bellwether promote --self --force (a server that is \
                     refused after that, too, leaves the group by bellwether leave, and joins again)",
                    ours.manager().name,
                    leads = leads.name,
                ),
            ),
        };
        tracing::error_span!("peer", %server).in_scope(|| tracing::warn!(reason, "two managers"));
        let _ = self.events.send(Event::Fenced { server, conflict: true, reason });
    }

    /// Notes that another server leads in this manager's epoch, by a record with the same right. Changes of both could never
    /// be merged, so neither server changes anything (W26). A server without the right to the role stops no other one.
    fn note_rival(&self, kept: &[SignedRecord], links: &[SignedRecord], refused: &RecordRefused) {
        let newest = links.iter().max_by_key(|link| link.record().version);
        let (RecordRefused::Conflict(_), Some(last)) = (refused, newest) else { return };
        let current = self.current();
        if !self.is_led_here() || !chain::is_rival(kept, &current, last) {
            return;
        }
        let (ours, theirs) = (current.record(), last.record());
        let reason: Arc<str> = format!(
            "two managers lead in epoch {}: {}, and {} by group record {}; neither of them accepts any change",
            ours.version.epoch,
            ours.manager().name,
            theirs.manager().name,
            theirs.version,
        )
        .into();
        let first = self.rival.send_if_modified(|rival| rival.replace(reason.clone()).as_ref() != Some(&reason));
        if first {
            let server = theirs.manager().name.clone();
            tracing::error_span!("peer", %server).in_scope(|| tracing::warn!(%reason, "two managers"));
            let reason = format!("{reason}; {}", decide().hint);
            let _ = self.events.send(Event::Fenced { server, conflict: true, reason });
        }
    }

    /// Puts in force a record that root of this machine has decided on, whether or not the held one allows it. It is durable
    /// when this returns.
    ///
    /// # Errors
    /// The record cannot be written; the held one stays in force.
    pub fn put_by_root(&self, held: Held) -> Result<(), StateFileError> {
        self.keep(&mut self.locked(), held)
    }

    /// As [`GroupRecord::put_by_root`], with a record that this server made.
    ///
    /// # Errors
    /// As [`GroupRecord::put_by_root`].
    pub fn save_by_root(&self, new: &SignedRecord) -> Result<(), StateFileError> {
        self.put(&mut self.locked(), std::slice::from_ref(new))
    }

    /// Puts a record in force that this server made and that begins an epoch. It is durable when this returns.
    ///
    /// # Errors
    /// The held record is another manager's by now, or the new one cannot be written; the held one stays in force.
    pub fn save(&self, new: &SignedRecord) -> Result<(), SaveError> {
        let mut chain = self.locked();
        if new.may_follow(&self.current()).map_err(SaveError::Superseded)? {
            self.put(&mut chain, std::slice::from_ref(new))?;
        }
        Ok(())
    }

    /// Puts the record in force that this manager made from `held`, unless another one has come into force since (invariant
    /// 3). It is durable when this returns.
    ///
    /// # Errors
    /// The held record is another one by now, or the new one cannot be written; the held one stays in force.
    pub fn save_next(&self, held: &SignedRecord, next: &SignedRecord) -> Result<(), SaveError> {
        let mut chain = self.locked();
        let current = self.current();
        next.may_follow(&current).map_err(SaveError::Superseded)?;
        if *current != *held {
            return Err(SaveError::Superseded(RecordRefused::Conflict(current.record().version)));
        }
        self.put(&mut chain, std::slice::from_ref(next))?;
        if next.record().version.epoch == held.record().version.epoch {
            self.led.send_replace(self.current());
        }
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, Arc<Vec<SignedRecord>>> {
        locked(&self.chain)
    }

    fn put(&self, chain: &mut Arc<Vec<SignedRecord>>, way: &[SignedRecord]) -> Result<(), StateFileError> {
        let Some(last) = way.last() else { return Ok(()) };
        let (mut longer, mut before) = (chain.to_vec(), self.current());
        for step in way {
            chain::extend(&mut longer, &before, step);
            before = Arc::new(step.clone());
        }
        self.keep(chain, Held { current: last.clone(), chain: longer })
    }

    fn keep(&self, chain: &mut Arc<Vec<SignedRecord>>, held: Held) -> Result<(), StateFileError> {
        file::save(&self.layout.group(), &held)?;
        if held.current.record().version.epoch != self.current().record().version.epoch {
            self.rival.send_replace(None);
        }
        *chain = Arc::new(held.chain);
        let _ = self.events.send(Event::Record(Arc::new(held.current.record().clone())));
        self.current.send_replace(Arc::new(held.current));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
