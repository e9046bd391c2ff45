//! One simulated server: the shell around the rules. A single actor takes one event after the other, and first saves on its
//! model disk the state that has to survive a crash.

mod change;
mod follow;
mod hands;
mod lanes;
mod procedures;
mod rebuild;
mod records;
mod refusal;
mod rollout;
mod sessions;
mod takeover;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use bellwether_group::{
    procedure::Survey,
    rollout::{Plan, Rollout},
};
use bellwether_member::follower::{Follower, Input};
use bellwether_proto::{
    incarnation,
    key::{KeyPair, PublicKey},
    name::ServerName,
    record::{Role, SignedRecord},
    revision::RevisionId,
};
use tokio::time::Instant;

use self::{
    follow::Transfer,
    lanes::Lane,
    sessions::{Followed, Waiting},
    takeover::{Handing, Takeover},
};
use crate::{
    disk::Drive,
    keys,
    net::{Connection, Event, Net, Number},
    packet::{Body, Packet},
    world::{Command, Notice, World},
};

/// The interval at which a server looks at the clock and at its operator's commands.
const TICK: Duration = Duration::from_millis(50);
/// The time after which a silent connection is given up.
const SILENCE_MS: u64 = 500;
/// The interval of checks whether an obstacle is gone.
const LOOK_MS: u64 = 100;
/// The time for which a starting manager waits for the others' answers.
const BEFORE_LEADING_MS: u64 = 150;

/// A server's role by its held record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Manager,
    Member,
    Disabled,
    /// The record does not name the server.
    Removed,
}

/// The role of the server with that key by that record.
pub(crate) fn standing(record: &SignedRecord, key: &PublicKey) -> Standing {
    match record.record().by_key(key).map(|server| server.role) {
        Some(Role::Manager) => Standing::Manager,
        Some(Role::Member) => Standing::Member,
        Some(Role::Disabled) => Standing::Disabled,
        None => Standing::Removed,
    }
}

/// The purpose of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// This manager's stream to a member.
    Lane(ServerName),
    /// A manager's stream to this member.
    Followed,
    /// Asks a peer for newer records.
    Ask,
    /// Tells a peer newer records.
    Tell,
    /// Asks a peer for the revisions that it has seen.
    Survey,
    /// A peer's connection, before its first message or after the answer.
    Incoming,
}

struct Link {
    connection: Connection,
    purpose: Purpose,
    heard_ms: u64,
}

/// The actor's state, all of which is lost at a crash.
pub(crate) struct Server {
    world: World,
    machine: usize,
    rules: crate::rules::Rules,
    drive: Drive,
    net: Net,
    key: Rc<KeyPair>,
    name: ServerName,
    links: BTreeMap<Number, Link>,
    dials: BTreeMap<u64, Purpose>,
    next_dial: u64,
    lanes: BTreeMap<ServerName, Lane>,
    /// The time at which the manager was last heard.
    heard_ms: u64,
    /// The time of the last question to a peer, and the peer.
    asked_ms: u64,
    asked: usize,
    told_ms: u64,
    /// The revisions that this server has heard of.
    seen: BTreeSet<RevisionId>,
    /// A planned handover that waits for the new manager, and its time limit.
    handing: Option<Handing>,
    taking: Option<Takeover>,
    /// The stream of the manager that this server follows.
    followed: Option<Followed>,
    /// A hello of that manager that may be a copy's.
    waiting: Option<Waiting>,
    /// The number of this start.
    start: u64,
    /// The time until which a started manager asks the others before it leads.
    leads_from_ms: u64,
    /// Whether another server leads in this manager's epoch, so that no change is accepted.
    rival: bool,
    /// The machine of its decisions as a member, and the disk's state of a revision under way.
    follower: Follower,
    transfer: Option<Transfer>,
    /// The time of the last check whether an obstacle is gone.
    looked_ms: u64,
    /// Whether a lane wants a base of the head.
    base_wanted: bool,
    /// The rollout of the head, and the plan that the lanes know.
    rollout: Rollout,
    plan: Plan,
    /// The beginning of the clock for the lanes.
    began: std::time::Instant,
}

/// Runs the server of that machine until it crashes.
pub(crate) async fn run(world: World, machine: usize) -> turmoil::Result {
    if world.borrow().retired.contains(&machine) {
        return Ok(());
    }
    let (net, mut happens) = Net::open().await?;
    let mut server = Server::new(world, machine, net);
    server.boot().await;
    let mut next = Instant::now() + TICK;
    loop {
        match tokio::time::timeout_at(next, happens.recv()).await {
            Ok(Some(event)) => server.event(event).await,
            Ok(None) => return Ok(()),
            Err(_) => {
                next += TICK;
                server.tick().await;
            }
        }
    }
}

impl Server {
    fn new(world: World, machine: usize, net: Net) -> Self {
        let drive = Drive { world: world.clone(), machine };
        let (key, name) = drive.read(|disk| (disk.key, disk.name.clone()));
        let rules = world.borrow().rules;
        let now = world.borrow().now_ms;
        let kept = drive.read(|disk| disk.rollout.clone());
        Self {
            world,
            machine,
            rules,
            drive,
            net,
            key: Rc::new(keys::key(key)),
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            next_dial: 0,
            lanes: BTreeMap::new(),
            heard_ms: now,
            asked_ms: now,
            asked: machine,
            told_ms: 0,
            seen: BTreeSet::new(),
            handing: None,
            taking: None,
            followed: None,
            waiting: None,
            start: 0,
            leads_from_ms: 0,
            rival: false,
            follower: Follower::new(name.clone()),
            transfer: None,
            looked_ms: 0,
            name,
            base_wanted: false,
            rollout: Rollout::resume(kept),
            plan: Plan::default(),
            began: std::time::Instant::now(),
        }
    }

    /// Counts the start, and takes up the role.
    async fn boot(&mut self) {
        self.drive.save("incarnation", |disk| disk.incarnation += 1).await;
        let drawn = self.world.borrow_mut().draw();
        self.start = incarnation::with(self.drive.read(|disk| disk.incarnation), drawn);
        if self.standing() == Some(Standing::Manager) {
            return self.ask_before_leading();
        }
        self.settle_role().await;
    }

    /// A starting manager asks whether it was superseded (W26), and which of its revisions the others have seen (W14).
    fn ask_before_leading(&mut self) {
        self.leads_from_ms = self.now() + BEFORE_LEADING_MS;
        let record = self.record().expect("it is the manager of one");
        let own = self.name.clone();
        for server in record.record().servers.iter().filter(|server| server.name != own) {
            self.dial(host(&server.address), Purpose::Ask);
            self.dial(host(&server.address), Purpose::Survey);
        }
    }

    /// Whether this server leads now, and not only by its record.
    fn leads(&self) -> bool {
        let halted = self.drive.read(|disk| disk.halted.is_some());
        self.standing() == Some(Standing::Manager) && self.leads_from_ms == 0 && !halted
    }

    fn now(&self) -> u64 {
        self.world.borrow().now_ms
    }

    fn record(&self) -> Option<SignedRecord> {
        self.drive.read(|disk| disk.record().cloned())
    }

    fn standing(&self) -> Option<Standing> {
        let key = self.key.public();
        self.drive.read(|disk| disk.record().map(|record| standing(record, &key)))
    }

    async fn tick(&mut self) {
        let commands = std::mem::take(&mut self.world.borrow_mut().commands[self.machine]);
        for command in commands {
            self.command(command).await;
        }
        let now = self.now();
        let silent = |link: &Link| now.saturating_sub(link.heard_ms) > SILENCE_MS;
        let dead: Vec<Number> = self.links.iter().filter(|(_, link)| silent(link)).map(|(n, _)| *n).collect();
        for number in dead {
            self.closed(number);
        }
        if self.leads_from_ms != 0 && now >= self.leads_from_ms {
            self.leads_from_ms = 0;
            self.settle_role().await;
        }
        match self.standing() {
            Some(Standing::Manager) if self.leads_from_ms != 0 => {}
            Some(Standing::Manager) if !self.leads() => self.look_for_successor(),
            Some(Standing::Manager) => {
                self.lead().await;
                self.drive_procedures().await;
            }
            Some(_) => {
                self.look_for_manager();
                self.look_for_obstacle().await;
                self.drive_procedures().await;
            }
            None => {}
        }
        if self.drive.read(|disk| disk.halted.is_some()) {
            self.world.borrow_mut().notice(self.machine, Notice::WentBack);
        }
        if self.rival && self.leads() {
            self.world.borrow_mut().notice(self.machine, Notice::Conflict);
        }
        self.tell_successor();
        self.go_on_waiting().await;
        self.go_on_taking().await;
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Put(change) => self.put(change).await,
            Command::Edit(change) => self.edit(change).await,
            Command::Promote(to, leave) => self.begin_handover(to, leave).await,
            Command::Take { force } => self.begin_takeover(force),
            Command::Begin(kind) => self.begin(kind, Survey::default()).await,
            Command::RecoverManager { remove, insists } => self.begin_recovery(remove, insists),
            Command::GoOn { attest } => self.let_go_on(attest).await,
            Command::GiveUp => self.give_up().await,
            Command::ConfirmHead => self.confirm().await,
            Command::EditRecord(_) | Command::Admit(_) => _ = self.edit_group(command).await,
            Command::EnterAgain(name) => self.entered(&name).await,
            Command::Enter(held) => self.enter(*held).await,
            Command::Sync => self.sync_all(),
            Command::Rollout { stop } => self.decide_rollout(stop).await,
            Command::Rebuild => self.begin_rebuild(Vec::new()),
            Command::Refuse(key) => self.begin_rebuild(vec![key]),
            Command::Confirm(held) => self.follow_rebuilt(*held).await,
            Command::Usurp { by } => self.usurp(by).await,
            Command::Leave => self.leave().await,
        }
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::Accepted(connection) => self.open(connection, Purpose::Incoming),
            Event::Dialled { what, connection } => self.dialled(what, connection).await,
            Event::Packet { number, packet } => self.packet(number, *packet).await,
            Event::Closed { number } => self.closed(number),
        }
    }

    async fn look_for_obstacle(&mut self) {
        self.look_for_confirmation().await;
        if self.follower.waits() && self.now() - self.looked_ms >= LOOK_MS {
            self.looked_ms = self.now();
            self.happens(Input::LookForObstacle).await;
        }
    }

    fn open(&mut self, connection: Connection, purpose: Purpose) {
        let link = Link { connection, purpose, heard_ms: self.now() };
        self.links.insert(link.connection.number, link);
    }

    fn dial(&mut self, host: &str, purpose: Purpose) {
        self.next_dial += 1;
        self.dials.insert(self.next_dial, purpose);
        let machine = self.world.borrow().places[&host.parse().expect("a name")];
        self.net.dial(&crate::history::host(machine), self.next_dial);
    }

    async fn dialled(&mut self, what: u64, connection: std::io::Result<Connection>) {
        let Some(purpose) = self.dials.remove(&what) else { return };
        let Ok(connection) = connection else {
            return self.lane_lost(&purpose);
        };
        let number = connection.number;
        self.open(connection, purpose.clone());
        match purpose {
            Purpose::Lane(name) => self.lane_open(&name, number).await,
            Purpose::Ask => self.ask(number),
            Purpose::Tell => self.tell(number),
            Purpose::Survey => self.send(number, Body::Survey(Default::default())),
            Purpose::Followed | Purpose::Incoming => {}
        }
    }

    async fn packet(&mut self, number: Number, packet: Packet) {
        let now = self.now();
        let start = packet.start;
        let (Some(link), Some(body)) = (self.links.get_mut(&number), packet.body) else { return };
        link.heard_ms = now;
        let purpose = link.purpose.clone();
        self.world.borrow_mut().overheard(&body);
        let from = PublicKey::try_from(packet.from.as_ref()).expect("a key of this simulation");
        match (body, purpose) {
            (Body::Down(down), _) => self.down(number, from, down).await,
            (Body::Up(up), Purpose::Lane(name)) => self.up(&name, up).await,
            (Body::Ask(ask), _) => self.answer(number, &ask, &from, start),
            (Body::Answer(records), _) => {
                self.closed(number);
                self.answered(&from, &records).await;
            }
            (Body::Tell(records), _) => self.told(number, &records).await,
            (Body::Refused(refused), purpose) => self.refused(number, &purpose, &refused).await,
            (Body::Survey(_), _) => self.surveyed(number),
            (Body::Seen(reply), _) => self.seen_by(number, reply, from).await,
            (Body::Up(_), _) => {}
        }
    }

    fn send(&self, number: Number, body: Body) {
        if let Some(link) = self.links.get(&number) {
            let body = self.world.borrow_mut().said_by(self.machine, body);
            let from = bytes::Bytes::copy_from_slice(self.key.public().as_bytes());
            link.connection.send(Packet { from, start: self.start, body: Some(body) });
        }
    }

    fn closed(&mut self, number: Number) {
        if let Some(link) = self.links.remove(&number) {
            self.lane_lost(&link.purpose);
        }
        self.followed_no_more(number);
    }
}

/// The host of an address.
fn host(address: &str) -> &str {
    address.split(':').next().expect("an address has a host")
}
