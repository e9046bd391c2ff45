//! How records get around: shown in hellos, asked of peers, told to a successor. What is taken is on the disk first.

use bellwether_group::{
    halt::{Halt, Proof},
    rollback_detection,
};
use bellwether_manager::begin::rebuild::Kept;
use bellwether_member::{
    follower::{Input, Look},
    greeting,
};
use bellwether_proto::{
    key::PublicKey,
    record::{RecordRefused, SignedRecord, Version, chain},
    revision::{Epoch, SignedHeader},
    v1,
};

use super::{Purpose, Server, Standing, host};
use crate::{
    changes::Changes,
    disk::Held,
    net::Number,
    packet::{Body, Records, Refused},
    world::Notice,
};

/// A server that has not heard its manager for so long asks its peers.
const ASK_MS: u64 = 600;
const ASK_EVERY_MS: u64 = 300;
const LEADER_ASKS_EVERY_MS: u64 = 1_000;
const TELL_EVERY_MS: u64 = 300;

impl Server {
    /// Takes the records that may follow what is held. Durable when it returns.
    pub(super) async fn take(&mut self, shown: &[SignedRecord]) -> Result<(), Refused> {
        let Some(held) = self.drive.read(|disk| disk.held.clone()) else {
            return Err(refused("this machine belongs to no group".into()));
        };
        let way = (self.rules.walk)(&held.current, shown);
        let way = way.map_err(|why| self.record_refused(&held.current, shown, &why))?;
        let Some(last) = way.last().cloned() else { return Ok(()) };
        let mut chain = held.chain;
        let mut before = held.current;
        for next in way {
            chain::extend(&mut chain, &before, &next);
            before = next;
        }
        self.hold(Held { current: last, chain }).await;
        Ok(())
    }

    /// What that server answered is taken; what is not, was noted, and what is held stays in force. As the agent's peers ask.
    pub(super) async fn answered(&mut self, from: &PublicKey, shown: &Records) {
        let read = |wire| self.world.borrow_mut().record(wire).ok();
        let links: Vec<SignedRecord> = shown.records.iter().filter_map(read).collect();
        let led = self.standing() == Some(Standing::Manager);
        let Some(ours) = self.record() else { return };
        let _ = self.take(&links).await;
        let proof = led.then(|| rollback_detection::shown(&self.key.public(), &ours, &links)).flatten();
        if let Some(proof) = proof.filter(|_| self.standing() == Some(Standing::Manager)) {
            self.halt(from, proof).await;
        }
    }

    /// This manager's state went back: it leads nobody, until the group is rebuilt.
    pub(super) async fn halt(&mut self, witness: &PublicKey, proof: Proof) {
        self.world.borrow_mut().notice(self.machine, Notice::WentBack);
        if self.drive.read(|disk| disk.halted.is_some()) {
            return;
        }
        let record = self.record().expect("a manager has one");
        let witness = record.record().by_key(witness).map_or(&self.name, |server| &server.name);
        let head = self.head().map(|head| head.number());
        let halt = Halt { head, ..Halt::new(witness.clone(), proof) };
        self.handing = None;
        self.close_lanes();
        let witness = record.record().server(&halt.witness).map(|server| server.address.clone());
        self.drive.save(&format!("that it stands still: {halt}"), |disk| disk.halted = Some(halt)).await;
        if let Some(address) = witness {
            self.dial(host(&address), Purpose::Survey);
        }
    }

    /// What a witness has seen of this manager's, and it lacks, is part of what the halt says.
    pub(super) fn lacks(&mut self, seen: &[SignedHeader]) {
        let Some(halt) = self.drive.read(|disk| disk.halted.clone()) else { return };
        let (kept, own) = (self.kept(), self.key.public());
        let halt = halt.lacking(seen, |header| kept.lacks(header) && header.signed_by(&own));
        let named = |header: &&SignedHeader| halt.lacks.iter().any(|(number, _)| *number == header.number());
        let world = self.world.clone();
        let listed = seen
            .iter()
            .filter(named)
            .fold(Changes::default(), |sum, header| sum.and(world.borrow().content(Some(header.id()))));
        let (revision, edits) = self.in_sets();
        let listed = listed.without(world.borrow().content(revision).and(edits));
        if !listed.is_empty() {
            world.borrow_mut().notice(self.machine, Notice::Lost(listed));
        }
    }

    /// What the history here has.
    pub(super) fn kept(&self) -> Kept {
        let world = self.world.borrow();
        Kept::of(world.disks[self.machine].history.iter().filter_map(|id| world.header(*id)))
    }

    /// Puts a record in force.
    pub(super) async fn hold(&mut self, held: Held) {
        let manager = |record: &SignedRecord| record.record().manager().key;
        let superseded = self.record().is_some_and(|before| manager(&before) != manager(&held.current));
        let epoch = |record: &SignedRecord| record.record().version.epoch;
        let turned = self.record().is_none_or(|before| epoch(&before) != epoch(&held.current));
        let what = format!("record {}", held.current.record().version);
        let leads = super::standing(&held.current, &self.key.public()) == Standing::Manager;
        self.drive
            .save(&what, |disk| {
                if !leads {
                    disk.halted = None;
                }
                disk.held = Some(held);
            })
            .await;
        if superseded {
            self.close_all(&Purpose::Followed);
        }
        if turned {
            self.rival = false;
            // The role ends and begins anew: every lane begins with a hello.
            self.close_lanes();
        }
        self.settle_role().await;
        self.show_record();
        // The policy for edits may be another one.
        self.happens(Input::Changed(Look::Stats)).await;
    }

    /// Signs and holds this manager's own next record.
    pub(super) async fn put_in_force(&mut self, record: bellwether_proto::record::Record) {
        let signed = SignedRecord::sign(record, &self.key).expect("the rules make good records");
        let Some(held) = self.drive.read(|disk| disk.held.clone()) else { return };
        let mut chain = held.chain;
        chain::extend(&mut chain, &held.current, &signed);
        self.hold(Held { current: signed, chain }).await;
    }

    fn record_refused(&mut self, held: &SignedRecord, shown: &[SignedRecord], why: &RecordRefused) -> Refused {
        let conflict = matches!(why, RecordRefused::Conflict(_));
        match why {
            RecordRefused::Conflict(_) => {
                self.world.borrow_mut().conflict(self.machine, held, shown);
                let kept =
                    self.drive.read(|disk| disk.held.as_ref().map(|held| held.chain.clone())).unwrap_or_default();
                let rival = shown.iter().any(|shown| chain::is_rival(&kept, held, shown));
                self.rival |= rival && self.standing() == Some(Standing::Manager);
            }
            RecordRefused::Jump { .. } => self.world.borrow_mut().met.jumps_refused += 1,
            RecordRefused::Refused(_) => self.world.borrow_mut().met.keys_refused += 1,
            RecordRefused::Signer(_) => {
                let manager = shown.last().unwrap_or(held).record().manager().name.clone();
                self.world.borrow_mut().notice(self.machine, Notice::CannotFollow(manager));
            }
            RecordRefused::Older { .. } | RecordRefused::OtherGroup { .. } | RecordRefused::Level(_) => {}
        }
        let Version { epoch, version } = held.record().version;
        let record = matches!(why, RecordRefused::Older { .. } | RecordRefused::Conflict(_));
        let refusal = v1::RecordRefusal { conflict, epoch: epoch.0, version, ticket: None };
        let record = record.then(|| Box::new(refusal));
        Refused { record, reason: why.to_string(), signer: matches!(why, RecordRefused::Signer(_)), copy: false }
    }

    /// What a server at `from` lacks.
    pub(super) fn since(&self, from: Version) -> Records {
        let records = self.drive.read(|disk| {
            let held = disk.held.as_ref();
            held.map(|held| chain::since(&held.chain, &held.current, from).cloned().collect::<Vec<_>>())
                .unwrap_or_default()
        });
        Records { records: records.iter().map(SignedRecord::to_wire).collect() }
    }

    /// The whole chain and the record in force.
    pub(super) fn all_records(&self) -> Records {
        self.since(Version { epoch: Epoch(0), version: 0 })
    }

    /// A server whose manager does not answer asks the others, one after the other.
    pub(super) fn look_for_manager(&mut self) {
        if self.now().saturating_sub(self.heard_ms) > ASK_MS {
            self.ask_another(ASK_EVERY_MS);
        }
    }

    /// A manager asks them, too, but rarely: it may have been superseded by one that it had disabled or removed meanwhile.
    pub(super) fn look_for_successor(&mut self) {
        self.ask_another(LEADER_ASKS_EVERY_MS);
    }

    fn ask_another(&mut self, every_ms: u64) {
        let now = self.now();
        if now.saturating_sub(self.asked_ms) < every_ms {
            return;
        }
        self.asked_ms = now;
        self.asked += 1;
        let record = self.record().expect("it has a standing");
        let record = record.record();
        let all = record.servers.iter().chain(&record.removed);
        let others: Vec<_> = all.filter(|server| server.name != self.name).collect();
        if let Some(peer) = others.get(self.asked % others.len().max(1)) {
            self.dial(host(&peer.address), Purpose::Ask);
        }
    }

    pub(super) fn ask(&mut self, number: Number) {
        let Some(record) = self.record() else { return };
        let Version { epoch, version } = record.record().version;
        let at = self.drive.read(|disk| disk.at.as_ref().map(|at| at.to_wire()));
        self.send(number, Body::Ask(v1::RecordsRequest { epoch: epoch.0, version, at }));
    }

    pub(super) fn answer(&mut self, number: Number, ask: &v1::RecordsRequest, from: &PublicKey, start: u64) {
        self.suspect(from, start);
        let records = self.since(Version { epoch: Epoch(ask.epoch), version: ask.version });
        self.send(number, Body::Answer(records));
    }

    /// Whoever signed the record that makes another one manager tells that one, until it is heard.
    pub(super) fn tell_successor(&mut self) {
        let (Some(record), now) = (self.record(), self.now()) else { return };
        let handed = record.signer() == self.key.public() && self.standing() != Some(Standing::Manager);
        if handed && now.saturating_sub(self.heard_ms) > TELL_EVERY_MS && now - self.told_ms > TELL_EVERY_MS {
            self.told_ms = now;
            self.dial(host(&record.record().manager().address), Purpose::Tell);
        }
    }

    pub(super) fn tell(&mut self, number: Number) {
        self.send(number, Body::Tell(self.all_records()));
    }

    pub(super) async fn told(&mut self, number: Number, records: &Records) {
        let read = |wire| self.world.borrow_mut().record(wire).map_err(greeting::Refused::from);
        let records: Result<Vec<SignedRecord>, _> = records.records.iter().map(read).collect();
        let told = match records {
            Ok(records) => self.take(&records).await,
            Err(malformed) => Err(malformed.into()),
        };
        if let Err(refused) = told {
            self.send(number, Body::Refused(refused));
        }
    }

    /// Somebody has not taken what this server said.
    pub(super) async fn refused(&mut self, number: Number, purpose: &Purpose, refused: &Refused) {
        self.closed(number);
        if refused.copy {
            self.world.borrow_mut().notice(self.machine, Notice::Copy(self.name.clone()));
        }
        if refused.signer {
            self.world.borrow_mut().notice(self.machine, Notice::CannotFollow(self.name.clone()));
        }
        let Some(record) = &refused.record else { return };
        if let (Purpose::Lane(name), Some(held)) = (purpose, &record.ticket) {
            return self.ticket_shown(name, held).await;
        }
        if record.conflict {
            self.world.borrow_mut().notice(self.machine, Notice::Conflict);
        }
        if let (Purpose::Lane(name), Some(held)) = (purpose, self.record())
            && let Some(server) = held.record().server(name)
        {
            let address = server.address.clone();
            self.dial(host(&address), Purpose::Ask);
        }
    }
}

fn refused(reason: String) -> Refused {
    Refused { reason, ..Refused::default() }
}
