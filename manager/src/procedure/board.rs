//! Where this server keeps the document of procedures: on the disk before anybody sees it, one for all tasks.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bellwether_proto::{
    Malformed,
    key::{KeyPair, PublicKey},
    name::ServerName,
    record::Record,
    revision::{Epoch, GroupId},
};
use bellwether_store::state_file::{self, StateFileError};
use tokio::sync::watch;

use super::{Document, DocumentRefused, Id, SignedDocument};

/// The document that is held, if any.
pub struct Board {
    path: PathBuf,
    key: Arc<KeyPair>,
    name: ServerName,
    held: watch::Sender<Option<Arc<SignedDocument>>>,
    doing: watch::Sender<BTreeMap<Id, String>>,
    writing: Mutex<()>,
}

/// Why the document is not changed; the one held stays.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The change is refused.
    #[error("{0}")]
    Refused(String),
    /// A document of somebody else.
    #[error(transparent)]
    Document(#[from] DocumentRefused),
    /// Too long.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Not written.
    #[error("the procedures could not be saved; nothing was changed")]
    Save(#[from] StateFileError),
}

impl Board {
    /// What is in `path`, for the server `name`.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(path: PathBuf, name: ServerName, key: Arc<KeyPair>) -> Result<Self, StateFileError> {
        let held: Option<SignedDocument> = state_file::load(&path)?;
        Ok(Self {
            path,
            key,
            name,
            held: watch::Sender::new(held.map(Arc::new)),
            doing: watch::Sender::default(),
            writing: Mutex::new(()),
        })
    }

    /// This server.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// What is held, now and at every change.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<SignedDocument>>> {
        self.held.subscribe()
    }

    /// Says what a procedure does or waits for now; empty: nothing any more.
    pub(super) fn doing(&self, id: Id, what: String) {
        self.doing.send_if_modified(|doing| match what.is_empty() {
            true => doing.remove(&id).is_some(),
            false => doing.insert(id, what.clone()).as_ref() != Some(&what),
        });
    }

    /// What the procedures that are driven here do or wait for, now and at every change.
    pub fn follow_doing(&self) -> watch::Receiver<BTreeMap<Id, String>> {
        self.doing.subscribe()
    }

    /// What is held of `group`.
    pub fn document(&self, group: GroupId) -> Document {
        let held = self.held.borrow();
        let ours = held.as_ref().map(|held| held.document()).filter(|document| document.group == group);
        ours.cloned().unwrap_or_else(|| Document::empty(group))
    }

    /// Whether an unfinished recovery drains that server before it is synced, and has not come to it yet (W23).
    pub fn holds(&self, server: &ServerName) -> bool {
        self.held.borrow().as_ref().is_some_and(|held| held.document().holds().contains(server))
    }

    /// Changes the document as the one who drives it, in the epoch of `record`. On the disk before it returns.
    ///
    /// # Errors
    /// The change is refused, or it is not written; what was held is held.
    pub fn change<T>(
        &self,
        record: &Record,
        change: impl FnOnce(&mut Document) -> Result<T, String>,
    ) -> Result<T, BoardError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut document = self.document(record.group);
        let answer = change(&mut document).map_err(BoardError::Refused)?;
        document.version = (record.version.epoch, document.version.1 + 1);
        let signed = SignedDocument::sign(document, &self.key)?;
        self.put(signed)?;
        Ok(answer)
    }

    /// Takes a manager's document, if it is newer. On the disk before it returns.
    ///
    /// # Errors
    /// Not the manager's of `record`, or not written; what was held is held.
    pub fn take(&self, new: SignedDocument, record: &Record) -> Result<(), BoardError> {
        new.said_by(&record.manager().key, record.group, record.version.epoch)?;
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.document(record.group);
        // The manager is heard of while this server is about to take its place: that has to end first.
        let own = |held: &Document| {
            held.procedures.iter().any(|p| !p.is_over() && *p.driver(&record.manager().name) == self.name)
        };
        if new.document().version > held.version && !own(&held) {
            self.put(new)?;
        }
        Ok(())
    }

    fn put(&self, signed: SignedDocument) -> Result<(), StateFileError> {
        state_file::save(&self.path, &signed)?;
        self.held.send_replace(Some(Arc::new(signed)));
        Ok(())
    }

    /// The key that signs here.
    pub fn signer(&self) -> PublicKey {
        self.key.public()
    }

    /// The version that is held.
    pub fn version(&self) -> Option<(Epoch, u64)> {
        self.held.borrow().as_ref().map(|held| held.document().version)
    }
}
