//! The group record as this server holds it: durable before it is in force, one for all tasks.

use std::sync::{Arc, Mutex, PoisonError};

use bellwether_proto::{
    key::PublicKey,
    record::{RecordRefused, SignedRecord},
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
        self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This server's key.
    pub(crate) fn own_key(&self) -> PublicKey {
        self.own_key
    }

    /// Takes a record from the network, if it may follow the one held. On the disk before it is in force.
    ///
    /// # Errors
    /// Refused, or not written; the record held stays in force.
    pub(crate) fn take(&self, new: SignedRecord) -> Result<(), TakeError> {
        let chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if new.may_follow(&self.current())? {
            self.put(&chain, new)?;
        }
        Ok(())
    }

    /// Puts this manager's own new record in force. On the disk before it returns.
    ///
    /// # Errors
    /// Not written; the record held stays in force.
    pub(crate) fn save(&self, new: &SignedRecord) -> Result<(), StateFileError> {
        let chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(&chain, new.clone())
    }

    fn put(&self, chain: &[SignedRecord], new: SignedRecord) -> Result<(), StateFileError> {
        let held = Held { current: new, chain: chain.to_vec() };
        state_file::save(&self.layout.group(), &held)?;
        let _ = self.events.send(Event::Record(Arc::new(held.current.record().clone())));
        self.current.send_replace(Arc::new(held.current));
        Ok(())
    }
}
