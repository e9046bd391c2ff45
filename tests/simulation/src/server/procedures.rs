//! Procedures (W18–W27): their driver (the manager; before its promotion the candidate that recovers one) goes on with them by
//! the engine's own rules; candidates keep the signed document, so that they go on after a crash and after the role has moved.

use std::sync::Arc;

use bellwether_group::procedure::{
    ActError, Document, Id, Kind, Next, Procedure, Request, SignedDocument, Standing, Survey, abort, acted, again,
    begun, propose, resume, settle, takes_the_place,
};
use bellwether_proto::{name::ServerName, revision::Epoch, v1};

use super::{Server, Standing as Role};

/// The engine's patience is for real farms: its clock runs so many times faster here.
pub(crate) const FASTER: u64 = 20;

impl Server {
    pub(super) fn document(&self) -> Option<Document> {
        let group = self.record()?.record().group;
        let held = self.drive.read(|disk| disk.procedures.clone());
        let mut document = held.map_or_else(|| Document::empty(group), |held| held.document().clone());
        if self.leads() && self.epoch() != Some(document.version.0) {
            document.take_over(&self.name, self.engine_ms());
        }
        Some(document)
    }

    fn epoch(&self) -> Option<Epoch> {
        self.record().map(|record| record.record().version.epoch)
    }

    /// The engine's clock.
    pub(super) fn engine_ms(&self) -> u64 {
        self.now() * FASTER
    }

    /// Whether a recovery drains that server before it is synced, and has not come to it yet (W23).
    pub(super) fn holds(&self, server: &ServerName) -> bool {
        let holds = |held: &SignedDocument| (self.rules.holds)(held.document()).contains(server);
        self.drive.read(|disk| disk.procedures.as_deref().is_some_and(holds))
    }

    /// Whether what it drives may go on: a manager that stands still, or asks before it leads, cannot act.
    fn may_drive(&self) -> bool {
        self.standing() != Some(Role::Manager) || self.leads()
    }

    /// What is unfinished and this server's to drive.
    fn mine<'a>(&self, document: &'a Document) -> impl Iterator<Item = &'a Procedure> + use<'a> {
        let record = self.record().filter(|_| self.may_drive());
        let name = self.name.clone();
        let mine = move |procedure: &&Procedure| {
            let driver = record.as_ref().map(|record| procedure.driver(&record.record().manager().name));
            !procedure.is_over() && driver == Some(&name)
        };
        document.procedures.iter().filter(mine)
    }

    /// One look at what this server has to drive, as the engine's runner does it; an action that is under way ends first.
    pub(super) async fn drive_procedures(&mut self) {
        let held = self.drive.read(|disk| disk.procedures.clone());
        let (Some(held), None) = (held.filter(|held| !held.document().procedures.is_empty()), &self.taking) else {
            return;
        };
        let Some(record) = self.record() else { return };
        let (record, document) = (record.record(), held.document());
        let epoch = record.version.epoch;
        if self.leads() && document.version.0 != epoch {
            let document = self.document().expect("it is of a group");
            self.keep_document(document, epoch).await;
        }
        for procedure in self.mine(document).filter(|procedure| procedure.goes_on(record)) {
            self.drive_one(procedure.id).await;
        }
    }

    async fn drive_one(&mut self, id: Id) {
        let (Some(epoch), Some(document), Some(world)) = (self.epoch(), self.document(), self.observe()) else {
            return;
        };
        let Some(mut procedure) = document.get(id).cloned() else { return };
        let now = self.engine_ms();
        if settle(&mut procedure, &world, now) {
            self.put_procedure(procedure.clone(), epoch).await;
        }
        if let Next::Do(action) = (self.rules.next)(&procedure, &world, now) {
            procedure.trying(&world, now);
            self.put_procedure(procedure, epoch).await;
            if let Some(done) = self.act(id, action).await {
                self.acted(id, done, epoch).await;
            }
        }
    }

    /// Notes how an action ended that was begun in that epoch.
    pub(super) async fn acted(&mut self, id: Id, done: Result<(), ActError>, epoch: Epoch) {
        let (Some(document), Some(world)) = (self.document(), self.observe()) else { return };
        // Another one may have its name by now.
        let Some(before) = document.get(id).filter(|found| found.tried_ms.is_some()) else { return };
        let mut procedure = before.clone();
        acted(&mut procedure, done, &world, self.engine_ms());
        if procedure != *before {
            self.put_procedure(procedure, epoch).await;
        }
    }

    async fn put_procedure(&mut self, procedure: Procedure, epoch: Epoch) {
        let Some(mut document) = self.document() else { return };
        let step = procedure.step().map_or_else(|| "the end".to_owned(), |step| step.task.about().what);
        let line = format!("{} ({}) at {step}: {:?}", procedure.id, procedure.kind.command(), procedure.standing);
        self.world.borrow_mut().tell(self.machine, || line);
        let before = document.get(procedure.id);
        if procedure.standing == Standing::Done && before.is_some_and(|before| !before.is_over()) {
            self.world.borrow_mut().met.ends(&procedure.kind);
        }
        document.put(procedure);
        self.keep_document(document, epoch).await;
    }

    /// On the disk, then to the candidates.
    async fn keep_document(&mut self, mut document: Document, epoch: Epoch) {
        document.version = (epoch, document.version.1 + 1);
        let what = format!("procedures {}.{}", document.version.0, document.version.1);
        let signed = SignedDocument::sign(document, &self.key).expect("few procedures");
        self.drive.save(&what, |disk| disk.procedures = Some(Arc::new(signed))).await;
        self.show_procedures();
    }

    /// A candidate keeps what its manager says.
    pub(super) async fn procedures_told(&mut self, wire: &v1::SignedProcedures) {
        let new = self.world.borrow_mut().document(wire);
        let (Some(record), Ok(new)) = (self.record(), new) else { return };
        let candidate = record.record().by_key(&self.key.public()).is_some_and(|own| own.candidate);
        let held = self.drive.read(|disk| disk.procedures.clone());
        let version = new.document().version;
        let taken = new.taken(held.as_deref(), record.record(), &self.name, &self.key);
        if let Some(taken) = taken.ok().flatten().filter(|_| candidate) {
            let what = format!("procedures {}.{} of its manager", version.0, version.1);
            self.drive.save(&what, |disk| disk.procedures = Some(Arc::new(taken))).await;
        }
    }

    /// Begins a procedure, unless one is in its way; the one that it means, and that has stopped, goes on.
    pub(super) async fn begin(&mut self, kind: Kind, survey: Survey) {
        let (Some(record), Some(mut document), Some(world)) = (self.record(), self.document(), self.observe()) else {
            return;
        };
        if !self.may_drive() {
            return;
        }
        let (record, now) = (record.record(), self.engine_ms());
        let epoch = record.version.epoch;
        let request = Request { kind, survey, attest: String::new(), by: "root".to_owned(), dry_run: false };
        if let Some(meant) = begun(&document, record, &request.kind) {
            let mut procedure = meant.clone();
            let mine = *procedure.driver(&record.manager().name) == self.name;
            if mine && again(&mut procedure, &request, now).is_ok() && procedure != *meant {
                self.world.borrow_mut().met.goes_on(false);
                self.put_procedure(procedure, epoch).await;
            }
            return;
        }
        match propose((&document, record.level), &world, request, now) {
            Ok(procedure) if procedure.steps.is_empty() => {}
            Ok(procedure) => {
                self.world.borrow_mut().met.begins(&procedure.kind);
                takes_the_place(&mut document, procedure.id, &procedure.kind, "root");
                document.put(procedure);
                self.keep_document(document, epoch).await;
            }
            Err(why) => self.world.borrow_mut().tell(self.machine, || format!("begins nothing: {why}")),
        }
    }

    /// A person lets what this server drives go on: what stopped, or, with an attestation, what asks.
    pub(super) async fn let_go_on(&mut self, attest: bool) {
        let (Some(document), Some(epoch)) = (self.document(), self.epoch()) else { return };
        for mut procedure in self.mine(&document).cloned() {
            let said = if attest { "so it is" } else { "" };
            if resume(&mut procedure, said, "root", self.engine_ms()).is_ok() {
                self.world.borrow_mut().met.goes_on(attest);
                self.put_procedure(procedure, epoch).await;
            }
        }
    }

    /// A person gives up what is unfinished and this server's to drive.
    pub(super) async fn give_up(&mut self) {
        let (Some(document), Some(epoch), Some(world)) = (self.document(), self.epoch(), self.observe()) else {
            return;
        };
        for mut procedure in self.mine(&document).cloned() {
            if abort(&mut procedure, &world, "root").is_ok() {
                self.world.borrow_mut().met.given_up += 1;
                self.put_procedure(procedure, epoch).await;
            }
        }
    }
}
