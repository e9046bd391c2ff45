//! Procedures (W18–W21): the manager drives them by the engine's own rules, on a model of the balancer; candidates keep the
//! signed document, so that they go on after a crash and after the role has moved.

use bellwether_manager::{
    Leave, group,
    procedure::{
        Action, Document, Id, Kind, Next, Procedure, Removed, Seen, SignedDocument, Survey, Traffic, World, abort,
        plan, settle,
    },
};
use bellwether_proto::{
    name::ServerName,
    record::{Role, Server as Entry},
    revision::Epoch,
    status::State,
    v1::{self, down},
};

use super::Server;
use crate::{net::Number, world::Command};

/// The engine's patience is for real farms: its clock runs so many times faster here.
const FASTER: u64 = 20;
/// How long sessions are waited for, by that clock.
const DRAIN_MS: u64 = 2_000;

/// What a member was sent of the procedures, and when.
#[derive(Default, Clone, Copy)]
pub(super) struct Told {
    sent: Option<((Epoch, u64), u64)>,
    /// What it is known to have.
    informed: Option<(Epoch, u64)>,
    /// When every byte of it was last hashed and found to be the head's.
    equal_ms: Option<u64>,
}

impl Told {
    /// It has answered a keepalive that was sent then: it has what was sent before.
    pub(super) fn answered(&mut self, beat: u64) {
        if let Some((version, _)) = self.sent.take_if(|(_, sent)| beat > *sent) {
            self.informed = Some(version);
        }
    }
}

impl Server {
    fn document(&self) -> Option<Document> {
        let group = self.record()?.record().group;
        let held = self.drive.read(|disk| disk.procedures.clone());
        Some(held.map_or_else(|| Document::empty(group), |held| held.document().clone()))
    }

    /// One look at what this manager has to drive, as the engine's runner does it.
    pub(super) async fn drive_procedures(&mut self) {
        let (Some(record), Some(mut document)) = (self.record(), self.document()) else { return };
        if document.procedures.is_empty() || !self.leads() {
            return;
        }
        let now = self.now() * FASTER;
        if document.version.0 != record.record().version.epoch {
            document.take_over(now);
            self.keep_document(document.clone()).await;
        }
        let manager = &record.record().manager().name;
        let mine = |procedure: &&Procedure| procedure.goes_on() && procedure.driver(manager) == &self.name;
        let mine: Vec<Id> = document.procedures.iter().filter(mine).map(|procedure| procedure.id).collect();
        for id in mine {
            self.drive_one(id, now).await;
        }
    }

    async fn drive_one(&mut self, id: Id, now: u64) {
        let (Some(document), Some(world)) = (self.document(), self.observe()) else { return };
        let Some(mut procedure) = document.get(id).cloned() else { return };
        if settle(&mut procedure, &world, now) {
            self.put_procedure(procedure.clone()).await;
        }
        if let Next::Do(action) = (self.rules.next)(&procedure, &world, now) {
            procedure.trying(now);
            self.put_procedure(procedure).await;
            self.act(action).await;
        }
    }

    async fn put_procedure(&mut self, procedure: Procedure) {
        let Some(mut document) = self.document() else { return };
        let line =
            format!("{} at step {} of {}: {:?}", procedure.id, procedure.at, procedure.steps.len(), procedure.standing);
        self.world.borrow_mut().tell(self.machine, || line);
        document.put(procedure);
        self.keep_document(document).await;
    }

    /// On the disk, then to the candidates.
    async fn keep_document(&mut self, mut document: Document) {
        let Some(record) = self.record() else { return };
        document.version = (record.record().version.epoch, document.version.1 + 1);
        let what = format!("procedures {}.{}", document.version.0, document.version.1);
        let signed = SignedDocument::sign(document, &self.key).expect("few procedures");
        self.drive.save(&what, |disk| disk.procedures = Some(signed)).await;
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        names.iter().for_each(|name| self.show_procedures(name));
    }

    /// To a candidate, what this manager has signed.
    pub(super) fn show_procedures(&mut self, name: &ServerName) {
        let (Some(record), Some(signed)) = (self.record(), self.drive.read(|disk| disk.procedures.clone())) else {
            return;
        };
        let record = record.record();
        let candidate = record.server(name).is_some_and(|server| server.candidate);
        let current = signed.said_by(&self.key.public(), record.group, record.version.epoch).is_ok();
        let now = self.now();
        let Some(lane) = self.lanes.get_mut(name).filter(|lane| candidate && current && lane.greeted) else { return };
        lane.told.sent = Some((signed.document().version, now));
        if let Some(number) = lane.number {
            self.down_to(number, down::Message::Procedures(signed.to_wire()));
        }
    }

    /// A candidate keeps what its manager says.
    pub(super) async fn procedures_told(&mut self, wire: &v1::SignedProcedures) {
        let (Some(record), Ok(new)) = (self.record(), SignedDocument::from_wire(wire)) else { return };
        let candidate = record.record().by_key(&self.key.public()).is_some_and(|own| own.candidate);
        let held = self.drive.read(|disk| disk.procedures.clone());
        if candidate && new.takes_place_of(held.as_ref(), record.record(), &self.name) == Ok(true) {
            let version = new.document().version;
            let what = format!("procedures {}.{} of its manager", version.0, version.1);
            self.drive.save(&what, |disk| disk.procedures = Some(new)).await;
        }
    }

    /// The farm as this manager sees it.
    fn observe(&self) -> Option<World> {
        let (record, head) = (self.record()?, self.head()?);
        let record = record.record();
        let version = self.document()?.version;
        let routes = self.world.borrow().drained.clone();
        let seen = |entry: &Entry| {
            let lane = self.lanes.get(&entry.name);
            let greeted = lane.filter(|lane| lane.greeted);
            let own = entry.role == Role::Manager;
            let current = own || greeted.is_some_and(|lane| lane.at.as_ref() == Some(&head));
            let state = match (entry.role, greeted) {
                (Role::Manager, _) => State::InSync,
                (Role::Disabled, _) => State::Disabled,
                (Role::Member, None) => State::Unreachable,
                (Role::Member, Some(lane)) if lane.fault => State::Error,
                (Role::Member, Some(_)) if current => State::InSync,
                (Role::Member, Some(_)) => State::Updating,
            };
            let out = routes.contains(&entry.name);
            let told = lane.map(|lane| lane.told).unwrap_or_default();
            let seen = Seen {
                key: entry.key,
                role: entry.role,
                candidate: entry.candidate,
                drained: entry.drained,
                state,
                reason: None,
                current,
                equal_ms: told.equal_ms.filter(|_| current),
                traffic: Traffic::Known { out, up: true, sessions: 0 },
                informed: own || told.informed == Some(version),
            };
            (entry.name.clone(), seen)
        };
        let removed = |gone: &Entry| {
            let traffic = Traffic::Known { out: routes.contains(&gone.name), up: true, sessions: 0 };
            (gone.name.clone(), Removed { drained: gone.drained, traffic })
        };
        Some(World {
            me: self.name.clone(),
            manager: record.manager().name.clone(),
            servers: record.servers.iter().map(seen).collect(),
            removed: record.removed.iter().map(removed).collect(),
            balancers: true,
            min_serving: if record.servers.len() > 3 { 2 } else { 1 },
            drain_timeout_ms: DRAIN_MS,
        })
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Drain(servers) => self.route(&servers, true).await,
            Action::Undrain(servers) => self.route(&servers, false).await,
            Action::HandOver { to, remove } => {
                let leave = if remove { Leave::Removed } else { Leave::Disabled };
                self.begin_handover(to, leave).await;
            }
            Action::Disable(server) => self.edit_group(Command::Disable(server)).await,
            Action::Remove(server) => self.edit_group(Command::Remove(server)).await,
            Action::Add(server) => self.edit_group(Command::BringBack(server)).await,
            Action::Sync(_) => self.sync_all(),
            Action::Verify(servers) => {
                let (now, head) = (self.now() * FASTER, self.head());
                for (_, lane) in self.lanes.iter_mut().filter(|(name, _)| servers.contains(name)) {
                    lane.told.equal_ms = Some(now).filter(|_| lane.at == head);
                }
            }
            // Given at a candidate, whose manager is lost.
            Action::Promote { .. } => {}
        }
    }

    /// In the record, then at the balancer.
    async fn route(&mut self, servers: &[ServerName], out: bool) {
        let Some(before) = self.observe() else { return };
        if let Some(held) = self.record()
            && let Some(next) = group::set_drained(&held, servers, out, &self.by())
        {
            self.put_in_force(next).await;
        }
        let mut world = self.world.borrow_mut();
        for server in servers {
            let changed = if out { world.drained.insert(server.clone()) } else { world.drained.remove(server) };
            world.met.drains += u64::from(out && changed);
        }
        drop(world);
        let Some(after) = self.observe() else { return };
        let fewer = after.serving().len() < before.serving().len();
        if fewer && after.serving().len() < before.min_serving {
            let (left, name) = (after.serving().len(), self.name.clone());
            self.world.borrow_mut().breaks(format!("W23: {name} drains {servers:?}: {left} serve"));
        }
    }

    /// Begins a procedure, where no other is under way.
    pub(super) async fn maintain(&mut self, kind: Kind) {
        let (Some(document), Some(world)) = (self.document().filter(|_| self.leads()), self.observe()) else { return };
        if document.procedures.iter().any(|procedure| !procedure.is_over()) {
            return;
        }
        if let Ok(steps) = plan(&kind, &world, &Survey::default()) {
            let now = self.now() * FASTER;
            self.put_procedure(Procedure::new(document.next_id(), kind, steps, "root".to_owned(), now)).await;
            self.world.borrow_mut().met.procedures += 1;
        }
    }

    /// Gives up what is unfinished.
    pub(super) async fn give_up(&mut self) {
        let (Some(document), Some(world)) = (self.document().filter(|_| self.leads()), self.observe()) else { return };
        for mut procedure in document.procedures.into_iter().filter(|procedure| !procedure.is_over()) {
            if abort(&mut procedure, &world, "root").is_ok() {
                self.put_procedure(procedure).await;
            }
        }
    }

    /// That member has answered a keepalive.
    pub(super) fn beats(&mut self, name: &ServerName, beat: u64, number: Option<Number>) {
        if let Some(lane) = self.lanes.get_mut(name).filter(|lane| lane.number == number) {
            lane.told.answered(beat);
        }
    }
}
