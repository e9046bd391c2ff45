//! The server's store of the document of procedures, shared by all tasks. It is on the disk before it is shown.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bellwether_group::procedure::{Document, DocumentRefused, Id, NotChanged, SignedDocument};
use bellwether_proto::{
    Malformed,
    clock::now_ms,
    key::KeyPair,
    name::ServerName,
    record::Record,
    revision::{Epoch, GroupId, after},
};
use bellwether_store::{
    mutex::locked,
    state::file::{self, StateFileError},
};
use tokio::sync::watch;

/// For each procedure, the present step, and its action or obstacle.
pub type Doing = BTreeMap<Id, (usize, String)>;

/// The document that is held, if any.
pub struct ProcedureStore {
    path: PathBuf,
    key: Arc<KeyPair>,
    name: ServerName,
    held: watch::Sender<Option<Arc<SignedDocument>>>,
    doing: watch::Sender<Doing>,
    writing: Mutex<()>,
}

/// The document is not changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The change is refused.
    #[error(transparent)]
    Refused(#[from] NotChanged),
    /// The document is another server's.
    #[error(transparent)]
    Document(#[from] DocumentRefused),
    /// The document is too long.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The document is not written.
    #[error("the procedures could not be saved; nothing was changed")]
    Save(#[from] StateFileError),
}

impl ProcedureStore {
    /// Opens the file `path`, for the server `name`.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(path: PathBuf, name: ServerName, key: Arc<KeyPair>) -> Result<Self, StateFileError> {
        let held: Option<SignedDocument> = file::load(&path)?;
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

    /// The held document, now and at every change.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<SignedDocument>>> {
        self.held.subscribe()
    }

    /// Notes the action or obstacle of a procedure at that step; empty removes it.
    pub(super) fn doing(&self, id: Id, at: usize, what: String) {
        self.doing.send_if_modified(|doing| match what.is_empty() {
            true => doing.remove(&id).is_some(),
            false => doing.insert(id, (at, what.clone())) != Some((at, what)),
        });
    }

    /// The actions and obstacles of the procedures that this server drives, now and at every change.
    pub fn follow_doing(&self) -> watch::Receiver<Doing> {
        self.doing.subscribe()
    }

    /// The held document of `group`.
    pub fn document(&self, group: GroupId) -> Document {
        let held = self.held.borrow();
        let ours = held.as_ref().map(|held| held.document()).filter(|document| document.group == group);
        ours.cloned().unwrap_or_else(|| Document::empty(group))
    }

    /// Whether an unfinished recovery drains that server before it is synced, and has not come to it yet (W23).
    pub fn holds(&self, server: &ServerName) -> bool {
        self.held.borrow().as_ref().is_some_and(|held| held.document().holds().contains(server))
    }

    /// Changes the document as its driver, in the epoch of `record`. A new manager's first change also takes over what
    /// is under way. It is on the disk before this returns.
    ///
    /// # Errors
    /// The change is refused, or not written; the held document is unchanged.
    pub fn change<T>(
        &self,
        record: &Record,
        change: impl FnOnce(&mut Document) -> Result<T, NotChanged>,
    ) -> Result<T, StoreError> {
        let _one = locked(&self.writing);
        let mut document = self.document(record.group);
        if record.manager().name == self.name && document.version.0 != record.version.epoch {
            document.take_over(&self.name, now_ms());
        }
        let answer = change(&mut document)?;
        document.level = record.level;
        document.version = (record.version.epoch, after(document.version.1, 1, "version")?);
        let signed = SignedDocument::sign(document, &self.key)?;
        self.put(signed)?;
        Ok(answer)
    }

    /// Takes a newer document of a manager, durably; a recovery that this server drives is kept beside it.
    ///
    /// # Errors
    /// It is not from the manager of `record`, or not written; the held document is unchanged.
    pub fn take(&self, new: SignedDocument, record: &Record) -> Result<(), StoreError> {
        let _one = locked(&self.writing);
        let held = self.held.borrow().clone();
        if let Some(taken) = new.taken(held.as_deref(), record, &self.name, &self.key)? {
            self.put(taken)?;
        }
        Ok(())
    }

    fn put(&self, signed: SignedDocument) -> Result<(), StateFileError> {
        file::save(&self.path, &signed)?;
        self.held.send_replace(Some(Arc::new(signed)));
        Ok(())
    }

    /// The held version.
    pub fn version(&self) -> Option<(Epoch, u64)> {
        self.held.borrow().as_ref().map(|held| held.document().version)
    }
}

#[cfg(test)]
mod tests {
    use bellwether_group::procedure::{Insists, Kind, Procedure, Standing, Step, task::Undrain};
    use bellwether_proto::record::{Level, Policy, Role, Server, Version};

    use super::*;

    const GROUP: [u8; 16] = [7; 16];

    fn record(keys: &[&KeyPair], manager: usize, epoch: u64) -> Record {
        let server = |(at, key): (usize, &&KeyPair)| Server {
            name: ["a", "b"][at].parse().unwrap(),
            key: key.public(),
            address: format!("{at}:1"),
            role: if at == manager { Role::Manager } else { Role::Member },
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        Record {
            level: Level::NEWEST,
            group: GROUP.into(),
            version: Version { epoch: Epoch(epoch), version: 1 },
            servers: keys.iter().enumerate().map(server).collect(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        }
    }

    fn begun(procedure_store: &ProcedureStore, record: &Record, kind: Kind) {
        let begin = |document: &mut Document| {
            let task = Undrain(vec!["b".parse().unwrap()]).into();
            let step = Step { task, why: "it serves again".to_owned(), noted: None };
            document.put(Procedure::new(document.next_id(), kind, vec![step], "root".into(), 0));
            Ok(())
        };
        procedure_store.change(record, begin).unwrap();
    }

    #[test]
    fn w18_whatever_a_new_manager_changes_first_it_has_taken_over_what_is_under_way() {
        let home = tempfile::tempdir().unwrap();
        let keys = [Arc::new(KeyPair::generate()), Arc::new(KeyPair::generate())];
        let procedure_store =
            ProcedureStore::open(home.path().join("a"), "a".parse().unwrap(), keys[0].clone()).unwrap();
        let before = record(&[&keys[0], &keys[1]], 1, 1);
        let insists = Insists::default();
        let (lost, new) = ("b".parse().unwrap(), "c".parse().unwrap());
        begun(&procedure_store, &before, Kind::RecoverManager { lost, new, remove: false, insists });
        let standing =
            |procedure_store: &ProcedureStore| procedure_store.document(GROUP.into()).procedures[0].standing.clone();
        assert_eq!(standing(&procedure_store), Standing::Running, "another candidate's");
        begun(
            &procedure_store,
            &record(&[&keys[0], &keys[1]], 0, 3),
            Kind::MaintenanceFinish { server: "b".parse().unwrap() },
        );
        assert!(matches!(standing(&procedure_store), Standing::Aborted { .. }), "this server has the role by now");
        assert_eq!(procedure_store.version(), Some((Epoch(3), 2)));
    }

    #[test]
    fn what_is_held_survives_and_only_the_managers_newer_word_takes_its_place() {
        let home = tempfile::tempdir().unwrap();
        let keys = [Arc::new(KeyPair::generate()), Arc::new(KeyPair::generate())];
        let open = |at: usize| {
            let name = ["a", "b"][at];
            ProcedureStore::open(home.path().join(name), name.parse().unwrap(), keys[at].clone()).unwrap()
        };
        let (a, b) = (open(0), open(1));
        let first = record(&[&keys[0], &keys[1]], 0, 1);
        let word = |procedure_store: &ProcedureStore| procedure_store.follow().borrow().as_deref().cloned().unwrap();
        begun(&a, &first, Kind::MaintenanceFinish { server: "b".parse().unwrap() });
        let older = word(&a);
        begun(&a, &first, Kind::MaintenanceFinish { server: "b".parse().unwrap() });
        b.take(word(&a), &first).unwrap();
        b.take(older, &first).unwrap();
        assert_eq!(b.version(), Some((Epoch(1), 2)), "replayed");
        assert_eq!(open(1).document(GROUP.into()), a.document(GROUP.into()), "as it is on the disk");
        assert!(matches!(a.take(word(&b), &record(&[&keys[0], &keys[1]], 1, 2)), Err(StoreError::Document(_))));

        // b is about to take the place of a: a's document does not undo that until it is over.
        let lost = "a".parse().unwrap();
        let insists = Insists::default();
        begun(&b, &first, Kind::RecoverManager { lost, new: "b".parse().unwrap(), remove: false, insists });
        begun(&a, &first, Kind::MaintenanceFinish { server: "b".parse().unwrap() });
        b.take(word(&a), &first).unwrap();
        assert_ne!(b.document(GROUP.into()), a.document(GROUP.into()));
        let end = |document: &mut Document| {
            let mut last = document.procedures.last().cloned().unwrap();
            last.standing = Standing::Done;
            document.put(last);
            Ok(())
        };
        b.change(&first, end).unwrap();
        b.take(word(&a), &first).unwrap();
        assert_eq!(b.document(GROUP.into()), a.document(GROUP.into()), "though b had written more often");
    }
}
