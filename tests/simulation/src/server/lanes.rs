//! The manager: a lane to every member. What a lane does is the program's own machine ([`Session`]); here are a connection that
//! carries its messages, a history to ask, and the eyes of the monitor.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};

use bellwether_group::{procedure::ActError, rollout::Order};
use bellwether_manager::lane::{
    Control, Deadlines, Ends, Facts, Input, Memory, NotLed, Now, Outgoing, Output, Session, check,
    plan::{Route, Stored, Until, Ways},
};
use bellwether_proto::{
    hash::Hash,
    name::ServerName,
    record::Role,
    revision::{Epoch, RevisionId, SignedHeader},
    status::Observation,
    v1::{self, down, up},
};

use super::{Purpose, Server, Standing, follow::chunk, host};
use crate::{
    changes::{Change, Changes, MOST},
    net::Number,
    packet::Body,
    world::{Command, Notice, State},
};

/// A lane that was lost is dialled again after so long.
const RETRY_MS: u64 = 150;

/// The way to one member.
#[derive(Default)]
pub(super) struct Lane {
    way: Way,
    /// It was found to be edited.
    pub(super) drifted: bool,
    /// Its edits hold updates back.
    held: bool,
    /// Another start of it has spoken: if this one lives, one of the two is a copy.
    pub(super) suspect: bool,
    /// The document of procedures that it has.
    pub(super) informed: Option<(Epoch, u64)>,
    /// When every byte of it was last hashed and found to be the head's.
    pub(super) equal_ms: Option<u64>,
}

/// A connection.
enum Way {
    Away {
        memory: Memory,
        retry_ms: u64,
    },
    Dialling(Memory),
    /// It has not said hello.
    Open(Number, Memory),
    Talking(Number, Box<Session>),
}

impl Default for Way {
    fn default() -> Self {
        Self::Away { memory: Memory::default(), retry_ms: 0 }
    }
}

impl Lane {
    fn number(&self) -> Option<Number> {
        match &self.way {
            Way::Away { .. } | Way::Dialling(_) => None,
            Way::Open(number, _) | Way::Talking(number, _) => Some(*number),
        }
    }

    /// While it is connected and has said hello.
    pub(super) fn session(&self) -> Option<&Session> {
        match &self.way {
            Way::Talking(_, session) => Some(session),
            Way::Away { .. } | Way::Dialling(_) | Way::Open(..) => None,
        }
    }

    pub(super) fn memory(&self) -> &Memory {
        match &self.way {
            Way::Away { memory, .. } | Way::Dialling(memory) | Way::Open(_, memory) => memory,
            Way::Talking(_, session) => session.memory(),
        }
    }

    pub(super) fn memory_mut(&mut self) -> &mut Memory {
        match &mut self.way {
            Way::Away { memory, .. } | Way::Dialling(memory) | Way::Open(_, memory) => memory,
            Way::Talking(_, session) => session.memory_mut(),
        }
    }

    /// What outlives a connection, taken out.
    fn ended(&mut self) -> Memory {
        match std::mem::take(self).way {
            Way::Away { memory, .. } | Way::Dialling(memory) | Way::Open(_, memory) => memory,
            Way::Talking(_, session) => session.end(),
        }
    }
}

/// A pack of that revision: the changes in one byte; in a base each chunk in one, too.
fn stored(world: &State, header: SignedHeader, base: bool) -> Arc<Stored> {
    let pack = Hash::of(&[header.id().0.as_bytes().as_slice(), &[base.into()]].concat());
    let chunks = if base { world.content(Some(header.id())).count().into() } else { 0 };
    Arc::new(Stored { header, base, pack, size: 1 + chunks, changes_end: 1, changes: 1, path: PathBuf::new(), at: 0 })
}

/// Chunks in one message.
const CHUNKS: usize = 4;

/// The history of one machine.
struct History<'a> {
    world: &'a State,
    machine: usize,
    head: SignedHeader,
}

impl History<'_> {
    /// The packs from the one of which that is true, without it, up to the head; none: this history has not all of them.
    fn after(&self, is: impl Fn(RevisionId) -> bool) -> Option<(SignedHeader, VecDeque<Arc<Stored>>)> {
        let history = &self.world.disks[self.machine].history;
        let (mut way, mut step) = (VecDeque::new(), self.head.clone());
        while !is(step.id()) {
            let parent = step.header().parent.filter(|parent| history.contains(parent))?;
            way.push_front(stored(self.world, step, false));
            step = self.world.header(parent)?;
        }
        Some((step, way))
    }

    /// The newest base and what follows it.
    fn based(&self) -> Vec<Arc<Stored>> {
        let found = self.after(|id| self.world.disks[self.machine].bases.contains(&id));
        let packs = found.map(|(base, way)| [stored(self.world, base, true)].into_iter().chain(way).collect());
        packs.unwrap_or_default()
    }
}

impl Ways for History<'_> {
    fn route(&self, from: Option<RevisionId>) -> Route {
        if from == Some(self.head.id()) {
            return Route::Nothing;
        }
        let way = from.and_then(|at| self.after(|id| id == at));
        Route::Packs(way.map_or_else(|| self.based(), |(_, way)| way.into()))
    }

    fn leads_from(&self, at: RevisionId) -> bool {
        self.after(|id| id == at).is_some()
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
        let gone: Vec<Number> = self
            .lanes
            .iter()
            .filter(|(name, _)| !members.contains(name))
            .filter_map(|(_, lane)| lane.number())
            .collect();
        gone.into_iter().for_each(|number| self.closed(number));
        self.lanes.retain(|name, _| members.contains(name));
        for name in members {
            self.lanes.entry(name).or_default();
        }
    }

    pub(super) fn close_lanes(&mut self) {
        let lanes: Vec<Number> = self.lanes.values().filter_map(Lane::number).collect();
        lanes.into_iter().for_each(|number| self.closed(number));
    }

    /// The manager's regular work.
    pub(super) async fn lead(&mut self) {
        self.heard_ms = self.now();
        self.look_for_successor();
        self.make_base().await;
        self.look_at_rollout().await;
        self.hand_over_when_ready().await;
        if self.standing() != Some(Standing::Manager) {
            return;
        }
        let (record, now) = (self.record().expect("it leads"), self.now());
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        for name in names {
            let lane = self.lanes.get_mut(&name).expect("its name was just there");
            if lane.memory().standing.fault().is_some() && !lane.memory().standing.is_sync() {
                self.world.borrow_mut().notice(self.machine, Notice::Fault(name.clone()));
            }
            if lane.memory().standing.refused().is_some_and(|refused| refused.until == Until::Sync) {
                self.world.borrow_mut().notice(self.machine, Notice::Refused(name.clone()));
            }
            if lane.held {
                self.world.borrow_mut().notice(self.machine, Notice::Held(name.clone()));
            }
            if lane.session().is_some() {
                self.put_in(&name, Input::Tick);
            } else if matches!(lane.way, Way::Away { retry_ms, .. } if now >= retry_ms) {
                lane.way = Way::Dialling(lane.ended());
                let address = record.record().server(&name).expect("a lane's server").address.clone();
                self.dial(host(&address), Purpose::Lane(name));
            }
        }
    }

    pub(super) async fn lane_open(&mut self, name: &ServerName, number: Number) {
        let ticket = self.ticket_for(name).await.map(|ticket| ticket.to_wire());
        let Some(lane) = self.lanes.get_mut(name) else { return self.closed(number) };
        lane.way = Way::Open(number, lane.ended());
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
            lane.way = Way::Away { memory: lane.ended(), retry_ms };
            let now = self.now();
            self.rollout.observe(name, &Observation::Lost("the connection has ended".to_owned()), now);
        }
    }

    fn put_in_all(&mut self, input: impl Fn() -> Input) {
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        names.iter().for_each(|name| self.put_in(name, input()));
    }

    /// The new record to all that are reached.
    pub(super) fn show_record(&mut self) {
        if let Some(record) = self.record().map(Arc::new) {
            self.put_in_all(|| Input::Record(record.clone()));
        }
    }

    /// The new head to all that are reached, then the packs.
    pub(super) fn show_head(&mut self, head: &SignedHeader) {
        let (head, published) = (stored(&self.world.borrow(), head.clone(), false), self.clock().at);
        self.put_in_all(|| Input::Head(head.clone(), published));
    }

    /// A base of the head is made, where lanes want one.
    async fn make_base(&mut self) {
        let Some(head) = self.head().filter(|_| std::mem::take(&mut self.base_wanted)) else { return };
        self.world.borrow_mut().met.bases_wanted += 1;
        let id = head.id();
        self.drive.save(&format!("a base of {}", head.number()), |disk| _ = disk.bases.insert(id)).await;
        let (base, published) = (stored(&self.world.borrow(), head, true), self.clock().at);
        self.put_in_all(|| Input::Head(base.clone(), published));
    }

    /// How far the procedures are, to the candidates that are reached; whom they held back, they do not, perhaps.
    pub(super) fn show_procedures(&mut self) {
        let held = self.drive.read(|disk| disk.procedures.clone());
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        for name in names {
            let later = self.holds(&name);
            self.put_in(&name, Input::Procedures(held.clone(), later));
        }
    }

    fn order(&self, name: &ServerName) -> Order {
        Order { later: self.holds(name), release: self.release(name) }
    }

    fn clock(&self) -> Now {
        let ms = self.now();
        Now { at: self.began + Duration::from_millis(ms), ms }
    }

    pub(super) async fn up(&mut self, name: &ServerName, message: v1::Up) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        match (&lane.way, &message.message) {
            (Way::Open(number, _), Some(up::Message::Hello(hello))) => {
                let number = *number;
                self.greets(name, number, hello).await;
            }
            (Way::Talking(..), said) => {
                if matches!(said, Some(up::Message::Keepalive(_))) && std::mem::take(&mut lane.suspect) {
                    self.world.borrow_mut().notice(self.machine, Notice::Copy(name.clone()));
                }
                self.put_in(name, Input::Heard(message));
            }
            (Way::Away { .. } | Way::Dialling(_) | Way::Open(..), _) => {}
        }
    }

    async fn greets(&mut self, name: &ServerName, number: Number, hello: &v1::UpHello) {
        let Some(epoch) = self.record().map(|record| record.record().version.epoch) else { return };
        if let Err(not_led) = check(&self.name, epoch, name, hello) {
            self.world.borrow_mut().tell(self.machine, || format!("does not lead {name}: {not_led}"));
            let address = self.record().and_then(|record| Some(record.record().server(name)?.address.clone()));
            if let (NotLed::Behind { .. }, Some(address)) = (not_led, address) {
                self.dial(host(&address), Purpose::Ask);
            }
            return self.closed(number);
        }
        if !self.recognised(name, hello).await {
            return;
        }
        let (Some(record), Some(head)) = (self.record(), self.head()) else { return };
        let (order, now) = (self.order(name), self.clock());
        let procedures = self.drive.read(|disk| disk.procedures.clone());
        let (record, head) = (Arc::new(record), stored(&self.world.borrow(), head, false));
        let facts = Facts { record, head, published: now.at, procedures, order };
        let ends = Ends { server: name.clone(), manager: self.key.public(), deadlines: Deadlines::default() };
        let Some(lane) = self.lanes.get_mut(name).filter(|lane| lane.number() == Some(number)) else { return };
        let (session, outputs) = Session::begin(ends, facts, lane.ended(), hello, now);
        lane.way = Way::Talking(number, Box::new(session));
        self.do_all(name, outputs);
    }

    /// Puts in what happens, where that member is reached.
    pub(super) fn put_in(&mut self, name: &ServerName, input: Input) {
        let now = self.clock();
        let Some(Way::Talking(number, session)) = self.lanes.get_mut(name).map(|lane| &mut lane.way) else { return };
        match session.handle(now, input) {
            Ok(outputs) => self.do_all(name, outputs),
            Err(end) => {
                let number = *number;
                self.world.borrow_mut().tell(self.machine, || format!("ends the connection to {name}: {end:?}"));
                self.closed(number);
            }
        }
    }

    /// Does what comes out, and sends.
    fn do_all(&mut self, name: &ServerName, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::See(observation) => self.sees(name, observation),
                Output::Answered { procedures, .. } => {
                    let lane = self.lanes.get_mut(name).expect("it talks");
                    lane.informed = procedures.or(lane.informed);
                }
                Output::Plan(look) => {
                    let Some(head) = self.head() else { return };
                    let step = look.plan(&History { world: &self.world.borrow(), machine: self.machine, head });
                    self.put_in(name, Input::Planned(step));
                }
                Output::Find(revision) => {
                    let world = self.world.borrow();
                    let found = world.disks[self.machine].history.get(&revision).and_then(|id| world.header(*id));
                    drop(world);
                    self.put_in(name, Input::Found(found));
                }
                Output::WantBase => self.base_wanted = true,
                Output::Open(pack) => self.offers(name, &pack),
            }
        }
        self.carry(name);
    }

    /// What is about to be offered is judged.
    fn offers(&mut self, name: &ServerName, pack: &Stored) {
        let Some(session) = self.lanes.get(name).and_then(Lane::session) else { return };
        let (at, asked) = (session.at().cloned(), session.memory().standing.is_sync());
        let on_the_way = self.head().is_none_or(|head| head.id() != pack.header.id());
        let mut world = self.world.borrow_mut();
        world.offers(self.machine, Some(&pack.header));
        world.leads_on(self.machine, name, at.as_ref());
        if asked || at.is_none() || on_the_way {
            world.may_hold.insert((pack.header.id(), name.clone()));
        }
        if pack.base && !asked {
            world.syncs(self.machine, name, at.map(|at| at.id()), pack.header.id());
        }
    }

    /// What the monitor would show.
    fn sees(&mut self, name: &ServerName, observation: Observation) {
        self.rollout.observe(name, &observation, self.now());
        match observation {
            Observation::Drift { entries, held, .. } => {
                let lane = self.lanes.get_mut(name).expect("it talks");
                (lane.drifted, lane.held) = (entries > 0, held);
            }
            Observation::Refused { reason, .. } => {
                let mut world = self.world.borrow_mut();
                world.tell(self.machine, || format!("hears that {name} refused: {reason}"));
                world.notice(self.machine, Notice::Refused(name.clone()));
            }
            _ => {}
        }
    }

    /// Sends what there is to send.
    fn carry(&mut self, name: &ServerName) {
        let now = self.clock();
        loop {
            let Some(Way::Talking(number, session)) = self.lanes.get_mut(name).map(|lane| &mut lane.way) else {
                return;
            };
            let number = *number;
            let message = match session.next_mail() {
                None => return,
                Some(Outgoing::Message(message)) => message,
                Some(Outgoing::Slice { at: offset, length }) => {
                    let data = vec![0; usize::try_from(length).expect("a small pack")].into();
                    down::Message::Slice(v1::Slice { offset, data })
                }
                Some(Outgoing::Supply { mut wanted, look }) => {
                    let these: Vec<Hash> = wanted.drain(..CHUNKS.min(wanted.len())).collect();
                    let last = wanted.is_empty();
                    session.supplied(wanted, look);
                    let there = self.revisions();
                    let find = |hash: &Hash| (0..=MOST).find(|c| there.has(*c) && chunk(*c).hash == *hash).ok_or(*hash);
                    let (frames, missing): (Vec<_>, Vec<_>) = these.iter().map(find).partition(Result::is_ok);
                    let frames: Vec<Change> = frames.into_iter().flatten().collect();
                    let missing = missing.into_iter().filter_map(Result::err).map(Into::into).collect();
                    down::Message::Supply(v1::Supply { frames: frames.into(), last, missing })
                }
            };
            if let Some(Way::Talking(_, session)) = self.lanes.get_mut(name).map(|lane| &mut lane.way) {
                session.went(now, 0);
            }
            if let down::Message::Head(head) = &message {
                let head = SignedHeader::from_wire(head.clone()).ok();
                self.world.borrow_mut().offers(self.machine, head.as_ref());
            }
            self.down_to(number, message);
        }
    }

    /// What the history here holds.
    fn revisions(&self) -> Changes {
        let world = self.world.borrow();
        let history = world.disks[self.machine].history.iter();
        history.fold(Changes::default(), |sum, id| sum.and(world.content(Some(*id))))
    }

    fn down_to(&self, number: Number, message: down::Message) {
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
            lane.drifted = false;
            match lane.session() {
                Some(_) => self.put_in(name, Input::Asked(Control::Sync { full: false })),
                None => lane.memory_mut().note(Control::Sync { full: false }),
            }
        }
    }

    /// Changes the group record, or lets a server enter.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn edit_group(&mut self, command: Command) -> Result<(), ActError> {
        use bellwether_group::edits;
        let Some(held) = self.record().filter(|_| self.leads() && !self.rival) else {
            return Err(ActError::Failed("this server does not lead, or another one does, too".to_owned()));
        };
        let by = edits::By { author: self.name.to_string(), time_ms: self.now() };
        let next = match command.clone() {
            Command::EditRecord(edit) => edits::apply(&held, &edit, &edits::level::Programs::new(), &by),
            Command::Admit(name) => {
                let host = name.as_str().to_owned();
                let index: usize = host.trim_start_matches("web").parse().expect("a server of this simulation");
                edits::enter(&held, &name, &crate::keys::public(index), &format!("{host}:7100"), &by)
            }
            _ => return Ok(()),
        };
        if let Command::Admit(name) = &command {
            self.entered(name).await;
            if let Some(number) = self.lanes.get(name).and_then(Lane::number) {
                self.closed(number);
            }
            if let Some(lane) = self.lanes.get_mut(name) {
                *lane.memory_mut() = Memory::default();
            }
        }
        if let Some(record) = next.map_err(|why| ActError::Refused(why.to_string()))? {
            self.put_in_force(record).await;
        }
        Ok(())
    }
}
