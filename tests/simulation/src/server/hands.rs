//! The procedures' view of the farm and their actions, on a model of the balancer.

use bellwether_group::{
    edits,
    procedure::{ActError, Action, Fact, Id, ObservedServer, Removed, Traffic, World},
    roles::Leave,
};
use bellwether_manager::Phase;
use bellwether_proto::{
    name::ServerName,
    record::{Role, Server as Entry},
    revision::{Epoch, SignedHeader},
    status::State,
};

use super::{Server, lanes::Lane, takeover::Then};
use crate::world::Command;

/// The time limit for sessions, by the engine's clock.
const DRAIN_MS: u64 = 2_000;

impl Server {
    /// The farm from this server's view.
    pub(super) fn observe(&self) -> Option<World> {
        let (record, held) = (self.record()?, self.drive.read(|disk| disk.procedures.clone()));
        let version = held.map(|held| held.document().version);
        let record = record.record();
        let head = self.head().filter(|_| self.leads());
        let removed =
            |gone: &Entry| (gone.name.clone(), Removed { drained: gone.drained, traffic: self.traffic(&gone.name) });
        let seen = |entry: &Entry| (entry.name.clone(), self.seen(entry, head.as_ref(), version));
        Some(World {
            me: self.name.clone(),
            manager: record.manager().name.clone(),
            servers: record.servers.iter().map(seen).collect(),
            removed: record.removed.iter().map(removed).collect(),
            balancers: true,
            min_serving: self.world.borrow().min_serving,
            drain_timeout_ms: DRAIN_MS,
        })
    }

    /// The balancer's state.
    fn traffic(&self, name: &ServerName) -> Traffic {
        let world = self.world.borrow();
        Traffic::Known { out: world.drained.contains(name), up: world.is_ready(name), sessions: 0 }
    }

    fn seen(&self, entry: &Entry, head: Option<&SignedHeader>, version: Option<(Epoch, u64)>) -> ObservedServer {
        let lane = self.lanes.get(&entry.name);
        let session = lane.and_then(Lane::session);
        let own = entry.name == self.name;
        let state = match entry.role {
            Role::Disabled => State::Disabled,
            Role::Manager | Role::Member if own => self.own_state(),
            Role::Manager | Role::Member => lane.map_or(State::Unknown, |lane| state(lane, head)),
        };
        let current = (own && state == State::InSync) || session.is_some_and(|member| member.at() == head);
        ObservedServer {
            key: entry.key,
            role: entry.role,
            candidate: entry.candidate,
            drained: entry.drained,
            state,
            reason: None,
            current,
            in_order: false,
            kept: None,
            equal_ms: lane.and_then(|lane| lane.equal_ms).filter(|_| current),
            traffic: self.traffic(&entry.name),
            informed: own || lane.and_then(|lane| lane.informed) == version,
        }
    }

    fn own_state(&self) -> State {
        let led = self.leads();
        self.drive.read(|disk| match (led || disk.at.is_some(), &disk.fault) {
            (_, Some(_)) => State::Error,
            (false, None) => State::AwaitingSync,
            (true, None) if !led && !disk.sets.edits.is_empty() => State::Drifted,
            (true, None) => State::InSync,
        })
    }

    /// Executes the action; none: its result is noted later.
    pub(super) async fn act(&mut self, id: Id, action: Action) -> Option<Result<(), ActError>> {
        let done = match action {
            Action::Drain(servers) => self.route(id, &servers, true).await,
            Action::Undrain(servers) => self.route(id, &servers, false).await,
            Action::HandOver { to, remove } => {
                self.world.borrow_mut().hands_over(self.machine, &to);
                self.begin_handover(to, leave(remove)).await;
                Ok(())
            }
            Action::Edit(edit) => self.edit_group(Command::EditRecord(edit)).await,
            Action::Sync(servers) => {
                self.sync(&servers);
                Ok(())
            }
            Action::Verify(servers) => {
                servers.iter().for_each(|name| self.verify(name));
                Ok(())
            }
            Action::Promote { remove, insists } => {
                self.survey(Then::Promote(id, leave(remove)), insists);
                return None;
            }
        };
        Some(done)
    }

    /// A member that can be reached hashes every byte.
    fn verify(&mut self, name: &ServerName) {
        let (now, head) = (self.engine_ms(), self.head());
        let world = self.world.clone();
        let Some(lane) = self.lanes.get_mut(name) else { return };
        if lane.session().is_none_or(|member| member.at() != head.as_ref()) {
            return;
        }
        let world = world.borrow();
        let sets = &world.disks[world.places[name]].sets;
        let equal = sets.edits.is_empty() && sets.revision == head.map(|head| head.id());
        lane.drifted = !equal;
        lane.equal_ms = Some(now).filter(|_| equal);
    }

    /// Changes the record if this server may do that, and after it the balancer.
    async fn route(&mut self, id: Id, servers: &[ServerName], out: bool) -> Result<(), ActError> {
        let Some(before) = self.observe() else { return Ok(()) };
        if before.is_manager() {
            let Some(held) = self.record().filter(|_| self.leads()) else {
                return Err(ActError::Failed("this server does not lead".to_owned()));
            };
            if let Some(next) = edits::set_drained(&held, servers, out, &self.by()) {
                self.put_in_force(next).await;
            }
        }
        let mut world = self.world.borrow_mut();
        for server in servers {
            let changed = if out { world.drained.insert(server.clone()) } else { world.drained.remove(server) };
            world.met.drains += u64::from(out && changed);
            if changed && !out {
                world.met.undrained += 1;
                world.undrained(self.machine, server);
            }
        }
        drop(world);
        let Some(after) = self.observe() else { return Ok(()) };
        let fewer = after.serving().len() < before.serving().len();
        let lost = |server: &ServerName| self.is_isolated(id, server);
        if fewer && !servers.iter().all(lost) && after.serving().len() < before.min_serving {
            let (left, name) = (after.serving().len(), self.name.clone());
            self.world.borrow_mut().breaks(format!("W23: {name} drains {servers:?}: {left} serve"));
        }
        Ok(())
    }
}

impl Server {
    /// Whether a person has attested that the server serves nobody any more.
    fn is_isolated(&self, id: Id, server: &ServerName) -> bool {
        let said = |fact: &Fact| matches!(fact, Fact::Isolated(of) if of == server);
        let document = self.document();
        let procedure = document.as_ref().and_then(|document| document.get(id));
        procedure.is_some_and(|procedure| procedure.attestations.iter().any(|attested| said(&attested.fact)))
    }
}

/// The state of a member in its manager's monitor.
fn state(lane: &Lane, head: Option<&SignedHeader>) -> State {
    let Some(member) = lane.session() else {
        // The member was never heard, or is silent by now.
        return if lane.memory().remembered.incarnation == 0 { State::Unknown } else { State::Unreachable };
    };
    let standing = &member.memory().standing;
    match member.phase() {
        _ if standing.is_sync() => State::Syncing,
        _ if standing.fault().is_some() => State::Error,
        (Phase::Updating | Phase::Syncing, ..) => State::Updating,
        _ if head.is_some_and(|head| standing.refused().is_some_and(|refused| refused.revision == head.id())) => {
            State::Refused
        }
        _ if lane.drifted && member.at().is_some() => State::Drifted,
        _ if member.at() == head => State::InSync,
        _ => State::AwaitingSync,
    }
}

fn leave(remove: bool) -> Leave {
    if remove { Leave::Removed } else { Leave::Disabled }
}
