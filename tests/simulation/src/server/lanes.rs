//! The manager: a lane to every member; heads to all, then each one's packs, one after the other.

use bellwether_manager::{procedure::ActError, recognition::Remembered};
use bellwether_proto::{
    hash::Hash,
    name::ServerName,
    record::Role,
    revision::{RevisionId, SignedHeader},
    v1::{self, down, up},
};

use super::{Purpose, Server, Standing, host, procedures::Told};
use crate::{
    net::Number,
    packet::Body,
    world::{Command, Notice},
};

/// A lane that was lost is dialled again after so long.
const RETRY_MS: u64 = 150;

/// The way to one member.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) number: Option<Number>,
    pub(super) dialling: bool,
    retry_ms: u64,
    /// It has said hello.
    pub(super) greeted: bool,
    /// The revision that it holds.
    pub(super) at: Option<SignedHeader>,
    /// What was offered to it and not reported.
    pub(super) offered: Option<RevisionId>,
    pub(super) refused: Option<RevisionId>,
    /// It is in error: it takes nothing until a sync.
    pub(super) fault: bool,
    /// It was found to be edited.
    pub(super) drifted: bool,
    /// A person, or a procedure, has asked for its sync, which has not ended.
    pub(super) sync: bool,
    /// What it has said of itself.
    pub(super) remembered: Remembered,
    /// Another start of it has spoken: if this one lives, one of the two is a copy.
    pub(super) suspect: bool,
    /// What it was sent of the procedures.
    pub(super) told: Told,
}

impl Lane {
    /// What outlives a connection.
    fn again(&self) -> Self {
        Self { fault: self.fault, remembered: self.remembered, ..Self::default() }
    }
}

impl Server {
    /// The role changed, perhaps: the old one's tasks end, the new one begins.
    pub(super) async fn settle_role(&mut self) {
        if self.standing() != Some(Standing::Manager) {
            self.leads_from_ms = 0;
            self.handing = None;
            self.close_lanes();
            self.lanes.clear();
            if self.standing().is_some() {
                self.begin_to_follow().await;
            }
            return;
        }
        if !self.leads() {
            return;
        }
        self.begin_epoch().await;
        if !self.drive.read(|disk| disk.leads) {
            self.drive.save("that it leads", |disk| (disk.at, disk.leads) = (None, true)).await;
        }
        let record = self.record().expect("it leads");
        let members: Vec<ServerName> = record
            .record()
            .servers
            .iter()
            .filter(|server| server.role == Role::Member)
            .map(|server| server.name.clone())
            .collect();
        let gone: Vec<Number> =
            self.lanes.iter().filter(|(name, _)| !members.contains(name)).filter_map(|(_, lane)| lane.number).collect();
        gone.into_iter().for_each(|number| self.closed(number));
        self.lanes.retain(|name, _| members.contains(name));
        for name in members {
            self.lanes.entry(name).or_default();
        }
    }

    pub(super) fn close_lanes(&mut self) {
        let lanes: Vec<Number> = self.lanes.values().filter_map(|lane| lane.number).collect();
        lanes.into_iter().for_each(|number| self.closed(number));
    }

    /// The manager's regular work.
    pub(super) async fn lead(&mut self) {
        self.heard_ms = self.now();
        self.look_for_successor();
        self.hand_over_when_ready().await;
        if self.standing() != Some(Standing::Manager) {
            return;
        }
        let (record, now) = (self.record().expect("it leads"), self.now());
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        for name in names {
            let lane = self.lanes.get_mut(&name).expect("its name was just there");
            if lane.fault {
                self.world.borrow_mut().notice(self.machine, Notice::Fault(name.clone()));
            }
            if let Some(number) = lane.number {
                self.down_to(number, down::Message::Keepalive(v1::Keepalive { time_ms: now }));
            } else if !lane.dialling && now >= lane.retry_ms {
                lane.dialling = true;
                let address = record.record().server(&name).expect("a lane's server").address.clone();
                self.dial(host(&address), Purpose::Lane(name));
            }
        }
    }

    pub(super) async fn lane_open(&mut self, name: &ServerName, number: Number) {
        let ticket = self.ticket_for(name).await.map(|ticket| ticket.to_wire());
        let Some(lane) = self.lanes.get_mut(name) else { return self.closed(number) };
        *lane = Lane { number: Some(number), ..lane.again() };
        let mut records = self.all_records().records;
        let (record, head) = (records.pop(), self.head());
        self.world.borrow_mut().offers(self.machine, head.as_ref());
        let head = head.map(|head| head.to_wire());
        let (protocol_min, protocol_max) = bellwether_proto::protocol::SPOKEN;
        let chain = records;
        let incarnation = self.start;
        let version = String::new();
        let hello = v1::DownHello { protocol_min, protocol_max, record, head, chain, incarnation, ticket, version };
        self.down_to(number, down::Message::Hello(hello));
    }

    pub(super) fn lane_lost(&mut self, purpose: &Purpose) {
        let retry_ms = self.now() + RETRY_MS;
        if let Purpose::Lane(name) = purpose
            && let Some(lane) = self.lanes.get_mut(name)
        {
            *lane = Lane { retry_ms, ..lane.again() };
        }
    }

    fn greeted_lanes(&self) -> Vec<Number> {
        self.lanes.values().filter(|lane| lane.greeted).filter_map(|lane| lane.number).collect()
    }

    /// The new record to all that are reached.
    pub(super) fn show_record(&mut self) {
        if let Some(record) = self.record() {
            for number in self.greeted_lanes() {
                self.down_to(number, down::Message::Record(record.to_wire()));
            }
        }
    }

    /// The new head to all that are reached, then the packs.
    pub(super) fn show_head(&mut self, head: &SignedHeader) {
        self.world.borrow_mut().offers(self.machine, Some(head));
        for number in self.greeted_lanes() {
            self.down_to(number, down::Message::Head(head.to_wire()));
        }
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        names.iter().for_each(|name| self.offer_next(name));
    }

    pub(super) async fn up(&mut self, name: &ServerName, message: v1::Up) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        match message.message {
            Some(up::Message::Hello(hello)) => {
                lane.at = hello.at.clone().and_then(|at| SignedHeader::from_wire(at).ok());
                lane.fault |= hello.fault.is_some();
                lane.drifted = hello.drift.as_ref().is_some_and(|drift| drift.entries > 0);
                if !self.recognised(name, &hello).await {
                    return;
                }
                self.name_lost(&hello.seen);
                let Some(lane) = self.lanes.get_mut(name) else { return };
                lane.greeted = true;
                let number = lane.number;
                // What the hello carried may be old by now.
                if let (Some(number), Some(record)) = (number, self.record()) {
                    self.down_to(number, down::Message::Record(record.to_wire()));
                }
                self.show_procedures(name);
            }
            Some(up::Message::Keepalive(beat)) => {
                let (number, suspect) = (lane.number, std::mem::take(&mut lane.suspect));
                self.beats(name, beat.time_ms, number);
                if suspect {
                    self.world.borrow_mut().notice(self.machine, Notice::Copy(name.clone()));
                }
                return;
            }
            Some(up::Message::Report(report)) => {
                let id = RevisionId(Hash::try_from(report.revision.as_ref()).expect("an id of this simulation"));
                lane.offered = None;
                match report.outcome() {
                    v1::Outcome::Done => {
                        lane.at = self.world.borrow().header(id);
                        lane.remembered.reported = lane.at.as_ref().map(SignedHeader::number);
                    }
                    _ => {
                        lane.refused = Some(id);
                        let mut world = self.world.borrow_mut();
                        world.tell(self.machine, || format!("hears that {name} refused: {}", report.reason));
                        world.notice(self.machine, Notice::Refused(name.clone()));
                    }
                }
            }
            _ => return,
        }
        self.offer_next(name);
    }

    /// Offers the next pack on the way to the head: the increment, or a base where the history does not lead there.
    pub(super) fn offer_next(&mut self, name: &ServerName) {
        let Some(head) = self.head().filter(|_| self.leads()) else { return };
        let held = self.holds(name);
        let Some(lane) = self.lanes.get_mut(name).filter(|lane| lane.greeted && lane.offered.is_none()) else { return };
        let at = lane.at.as_ref().map(SignedHeader::id);
        if at == Some(head.id()) {
            lane.sync = false;
            return;
        }
        let (refused, asked) = (lane.refused, lane.sync);
        if lane.fault || refused == Some(head.id()) || (held && !lane.sync) {
            return;
        }
        let held_there = lane.at.clone();
        self.world.borrow_mut().leads_on(self.machine, name, held_there.as_ref());
        let next = at.and_then(|at| self.after(at, &head));
        let forked = at.is_some() && next.is_none();
        let next = next.filter(|next| refused != Some(next.id()));
        let (header, base) = next.map_or((head, true), |next| (next, false));
        let mut world = self.world.borrow_mut();
        world.offers(self.machine, Some(&header));
        if base && !asked {
            world.syncs(self.machine, name, at, header.id());
        }
        drop(world);
        let lane = self.lanes.get_mut(name).expect("it was just there");
        lane.offered = Some(header.id());
        let number = lane.number.expect("a lane that was greeted is open");
        let offer = v1::Offer { header: Some(header.to_wire()), base, forked, ..Default::default() };
        self.down_to(number, down::Message::Offer(offer));
    }

    /// The revision after `at` on the way to `head`, where this history has it.
    fn after(&self, at: RevisionId, head: &SignedHeader) -> Option<SignedHeader> {
        let world = self.world.borrow();
        let history = &world.disks[self.machine].history;
        if !history.contains(&at) {
            return None;
        }
        let mut step = head.clone();
        while step.header().parent != Some(at) {
            step = world.header(step.header().parent.filter(|parent| history.contains(parent))?)?;
        }
        Some(step)
    }

    pub(super) fn down_to(&self, number: Number, message: down::Message) {
        self.send(number, Body::Down(v1::Down { message: Some(message) }));
    }

    pub(super) fn sync_all(&mut self) {
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        self.sync(&names);
    }

    /// Brings them to the head whatever they have.
    pub(super) fn sync(&mut self, servers: &[ServerName]) {
        if !self.leads() {
            return;
        }
        for name in servers {
            let Some(lane) = self.lanes.get_mut(name) else { continue };
            (lane.refused, lane.fault, lane.drifted, lane.sync) = (None, false, false, true);
            if let Some(number) = lane.number.filter(|_| lane.greeted) {
                self.down_to(number, down::Message::Sync(v1::Sync { request: 1 }));
            }
        }
        servers.iter().for_each(|name| self.offer_next(name));
    }

    /// Changes the group record, or lets a server enter.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn edit_group(&mut self, command: Command) -> Result<(), ActError> {
        use bellwether_manager::group;
        let Some(held) = self.record().filter(|_| self.leads() && !self.rival) else {
            return Err(ActError::Failed("this server does not lead, or another one does, too".to_owned()));
        };
        let by = group::By { author: self.name.to_string(), time_ms: self.now() };
        let next = match command.clone() {
            Command::EditRecord(edit) => group::apply(&held, &edit, &group::level::Programs::new(), &by),
            Command::Admit(name) => {
                let host = name.as_str().to_owned();
                let index: usize = host.trim_start_matches("web").parse().expect("a server of this simulation");
                group::enter(&held, &name, &crate::keys::public(index), &format!("{host}:7100"), &by)
            }
            _ => return Ok(()),
        };
        if let Command::Admit(name) = &command {
            self.entered(name).await;
            if let Some(lane) = self.lanes.get_mut(name) {
                *lane = Lane { number: lane.number, dialling: lane.dialling, ..Lane::default() };
            }
        }
        if let Some(record) = next.map_err(|why| ActError::Refused(why.to_string()))? {
            self.put_in_force(record).await;
        }
        Ok(())
    }
}
