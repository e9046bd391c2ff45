//! The role moves: handed over by the manager (W18), or taken by a candidate (W24).

use bellwether_manager::{Leave, group::By};
use bellwether_proto::{
    key::PublicKey,
    name::ServerName,
    record::Version,
    revision::{Epoch, SignedHeader},
    v1,
};

use super::{Purpose, Server, Standing, host};
use crate::{changes::Changes, net::Number, packet::Body, world::Notice};

/// How long a handover waits for the new manager, and a takeover for the answers of the others.
const HAND_MS: u64 = 800;
const SURVEY_MS: u64 = 250;
/// A manager that was heard so lately answers.
const ANSWERS_MS: u64 = 300;

/// A handover that waits until the new manager has everything.
pub(super) struct Handing {
    to: ServerName,
    leave: Leave,
    until_ms: u64,
}

/// A takeover that waits for answers.
pub(super) struct Takeover {
    force: bool,
    until_ms: u64,
    /// The highest epoch that anybody knows.
    epoch: Epoch,
    /// Somebody leads, or has a newer record.
    ahead: bool,
    /// What others have.
    seen: Changes,
}

impl Server {
    fn by(&self) -> By {
        By { author: self.name.to_string(), time_ms: self.now() }
    }

    /// From now on no change is taken here.
    pub(super) async fn begin_handover(&mut self, to: ServerName, leave: Leave) {
        if self.leads() && self.handing.is_none() {
            self.publish().await;
            self.handing = Some(Handing { to, leave, until_ms: self.now() + HAND_MS });
        }
    }

    pub(super) async fn hand_over_when_ready(&mut self) {
        let Some(Handing { to, leave, until_ms }) = &self.handing else { return };
        let (to, leave, late) = (to.clone(), *leave, self.now() > *until_ms);
        let head = self.head();
        let ready = self.lanes.get(&to).is_some_and(|lane| lane.greeted && lane.at.is_some() && lane.at == head);
        if ready {
            let held = self.record().expect("it leads");
            if let Ok(Some(next)) = (self.rules.hand_over)(&held, &to, leave, &self.by()) {
                self.put_in_force(next).await;
            }
        }
        if ready || late {
            self.handing = None;
            self.publish().await;
        }
    }

    /// Asks everybody first.
    pub(super) fn begin_takeover(&mut self, force: bool) {
        let Some(record) = self.record() else { return };
        if self.taking.is_some() || (self.standing() == Some(Standing::Manager) && !force) {
            return;
        }
        let own = self.name.clone();
        for server in record.record().servers.iter().filter(|server| server.name != own) {
            // Who answers may know of a takeover that this server has not heard of.
            self.dial(host(&server.address), Purpose::Ask);
            self.dial(host(&server.address), Purpose::Survey);
        }
        let answers = self.now().saturating_sub(self.heard_ms) < ANSWERS_MS;
        let until_ms = self.now() + SURVEY_MS;
        self.taking = Some(Takeover { force, until_ms, epoch: Epoch(0), ahead: answers, seen: Changes::default() });
    }

    pub(super) fn surveyed(&mut self, number: Number) {
        let Some(record) = self.record() else { return };
        let Version { epoch, version } = record.record().version;
        let world = self.world.borrow();
        let seen = self.seen.iter().filter_map(|id| world.header(*id)).map(|header| header.to_wire()).collect();
        let leads = self.standing() == Some(Standing::Manager);
        let at = if leads { self.head() } else { self.drive.read(|disk| disk.at.clone()) };
        let at = at.map(|at| at.to_wire());
        drop(world);
        let follows = self.now().saturating_sub(self.heard_ms) < ANSWERS_MS;
        self.send(number, Body::Seen(v1::SurveyReply { epoch: epoch.0, version, at, seen, follows, leads }));
    }

    pub(super) fn seen_by(&mut self, number: Number, reply: v1::SurveyReply, from: PublicKey) {
        self.closed(number);
        let Some(held) = self.record() else { return };
        let held = held.record();
        let world = self.world.clone();
        let Some(taking) = &mut self.taking else { return };
        let version = Version { epoch: Epoch(reply.epoch), version: reply.version };
        let manager = reply.leads && held.manager().key == from;
        taking.ahead |= manager || reply.follows || version > held.version;
        taking.epoch = taking.epoch.max(version.epoch);
        let headers = reply.seen.into_iter().chain(reply.at).filter_map(|wire| SignedHeader::from_wire(wire).ok());
        let world = world.borrow();
        taking.seen = headers.fold(taking.seen, |sum, header| sum.and(world.content(Some(header.id()))));
    }

    /// When the answers are there, or late: signs the record, and leads.
    pub(super) async fn go_on_taking(&mut self) {
        let now = self.now();
        let Some(taking) = self.taking.take_if(|taking| now > taking.until_ms) else { return };
        let Some(held) = self.record() else { return };
        if taking.ahead && !taking.force {
            return self.world.borrow_mut().tell(self.machine, || "does not take over: somebody is ahead".into());
        }
        let next = (self.rules.take_over)(&held, &self.key.public(), Leave::Disabled, taking.epoch, &self.by());
        let Ok(next) = next else { return };
        let (revision, edits) = self.in_sets();
        let lost = taking.seen.without(self.world.borrow().content(revision).and(edits));
        if !lost.is_empty() {
            self.world.borrow_mut().notice(self.machine, Notice::Lost(lost));
        }
        self.put_in_force(next).await;
    }
}
