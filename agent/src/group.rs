//! The group record as this server holds it: durable before it is in force, one for all tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bellwether_manager::SaveError;
use bellwether_proto::{
    key::PublicKey,
    record::{RecordRefused, SignedRecord, Version, chain},
    revision::Epoch,
    status::Event,
};
use bellwether_store::state_file::{self, StateFileError};
use tokio::sync::{mpsc, watch};

use crate::layout::{Held, Layout};

/// The record in force, and the chain that leads to it.
pub(crate) struct GroupRecord {
    layout: Layout,
    own_key: PublicKey,
    current: watch::Sender<Arc<SignedRecord>>,
    chain: Mutex<Vec<SignedRecord>>,
    events: mpsc::UnboundedSender<Event>,
}

/// Why a record is not taken; the one held stays in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Refused(#[from] RecordRefused),
    #[error(transparent)]
    Save(#[from] StateFileError),
}

impl GroupRecord {
    /// Holds what was loaded, and tells it.
    pub(crate) fn new(layout: Layout, own_key: PublicKey, held: Held, events: mpsc::UnboundedSender<Event>) -> Self {
        let current = watch::Sender::new(Arc::new(held.current));
        let _ = events.send(Event::Record(Arc::new(current.borrow().record().clone())));
        Self { layout, own_key, current, chain: Mutex::new(held.chain), events }
    }

    /// The record in force.
    pub(crate) fn current(&self) -> Arc<SignedRecord> {
        self.current.borrow().clone()
    }

    /// The record in force, now and at every change.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<SignedRecord>> {
        self.current.subscribe()
    }

    /// The records that made each manager, oldest first.
    pub(crate) fn chain(&self) -> Vec<SignedRecord> {
        self.locked().clone()
    }

    /// This server's key.
    pub(crate) fn own_key(&self) -> PublicKey {
        self.own_key
    }

    /// What a server whose record is of version `from` lacks, oldest first: the chain, then the record in force.
    pub(crate) fn since(&self, from: Version) -> Vec<SignedRecord> {
        let chain = self.locked();
        chain::since(&chain, &self.current(), from)
    }

    /// The key of the manager of that epoch, as far as it is known here.
    pub(crate) fn manager_of(&self, epoch: Epoch) -> Option<PublicKey> {
        let chain = self.locked();
        chain::manager_of(&chain, &self.current(), epoch)
    }

    /// Who signed the record that ended that epoch, as far as it is known here.
    pub(crate) fn ended_by(&self, epoch: Epoch) -> Option<PublicKey> {
        let (chain, current) = (self.locked(), self.current());
        let mut later = chain.iter().chain([&*current]);
        later.find(|record| record.record().version.epoch > epoch).map(SignedRecord::signer)
    }

    /// Whether the record in force makes this server the manager.
    pub(crate) fn is_led_here(&self) -> bool {
        self.current().record().manager().key == self.own_key
    }

    /// Takes a record from the network, if it may follow the one held. On the disk before it is in force.
    ///
    /// # Errors
    /// Refused, or not written; the record held stays in force.
    pub(crate) fn take(&self, new: SignedRecord) -> Result<(), TakeError> {
        self.take_by(&[new])
    }

    /// Takes the newest of `links`, over those between where it needs them. On the disk before it is in force.
    ///
    /// # Errors
    /// Refused, or not written; the record held stays in force.
    pub(crate) fn take_by(&self, links: &[SignedRecord]) -> Result<(), TakeError> {
        let mut chain = self.locked();
        let way = chain::walk(&self.current(), links)?;
        Ok(self.put(&mut chain, &way)?)
    }

    /// Puts a record of this server's own making in force: its manager's next one, or one that changes the manager. On the
    /// disk before it returns.
    ///
    /// # Errors
    /// What is held by now is another manager's, or not written; the record held stays in force.
    pub(crate) fn save(&self, new: &SignedRecord) -> Result<(), SaveError> {
        let mut chain = self.locked();
        if new.may_follow(&self.current()).map_err(SaveError::Superseded)? {
            self.put(&mut chain, std::slice::from_ref(new))?;
        }
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<SignedRecord>> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, chain: &mut Vec<SignedRecord>, way: &[SignedRecord]) -> Result<(), StateFileError> {
        let Some(last) = way.last() else { return Ok(()) };
        let (mut longer, mut before) = (chain.clone(), self.current());
        for step in way {
            chain::extend(&mut longer, &before, step);
            before = Arc::new(step.clone());
        }
        let held = Held { current: last.clone(), chain: longer };
        state_file::save(&self.layout.group(), &held)?;
        *chain = held.chain;
        let _ = self.events.send(Event::Record(Arc::new(held.current.record().clone())));
        self.current.send_replace(Arc::new(held.current));
        Ok(())
    }
}
