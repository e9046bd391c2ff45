//! The member's role: takes revisions from the manager, switches to them, reports back.
//!
//! One thread, `member`, owns the history, the position and everything about the sets; it does one thing after the
//! other and never waits for the network. It is fed by one bounded channel of `Input`: from the push stream
//! (the daemon has one task a stream), and from the watch on the sets (drift). It answers through the stream's own channel
//! and tells what it sees as [`Event`]s.
//!
//! Rules are in modules of their own, without I/O: [`greeting`], [`incoming`] and [`follower`], which decides what the thread
//! does.

mod again;
mod drift;
pub mod follower;
mod forgetting;
pub mod greeting;
pub mod incoming;
mod keeping;
mod position;
mod prove;
mod receive;
mod recovery;
mod sets;
mod switch;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bellwether_group::takeover::Account;
use bellwether_local::prove::Commands;
use bellwether_proto::{
    clock::now_ms,
    error::chain,
    hash::Hash,
    key::PublicKey,
    level::Program,
    name::{ServerName, SetName},
    ready::Ready,
    revision::{Number, RevisionId, SignedHeader},
    status::{self, Event, Observation},
    v1::{self, down, up},
};
use bellwether_store::{
    apply::{Committed, Obstacle, Plan},
    failpoint,
    history::History,
    quarantine,
    scan::Look,
    state::{known_heads::KnownHeads, layout::Layout, record::GroupRecord},
    tree::{Change, Tree},
    underway::{Dealing, Suspect},
    watch::{self as watching, Files, Found, Modes, Rescans, Watched, pending::PendingChanges},
};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

#[cfg(fuzzing)]
pub use self::position::Fault as HeldFault;
pub use self::{
    drift::asked::{AskError, Asked, Hand, Looked, PutBack, SetPath, selected, selected_with_parents},
    position::{Position as HeldPosition, held_before, note_leading},
    prove::FAILPOINTS,
    receive::ReceiveError,
    recovery::recover,
};
use self::{
    drift::waiting,
    follower::{Arrived, Facts, Follower, Output, Proven, Trouble},
    forgetting::Forgetting,
    position::{Fault, Position},
    prove::Running,
    receive::{Receiving, Step},
    sets::Sets,
    switch::{Filling, Prepared},
};

/// Answers that may wait for the network. Each is small; a manager that leaves so many unread is let go of.
pub const ANSWERS: usize = 64;

/// What goes to the manager: an answer, or at last why the stream ends.
pub type Answer = Result<v1::Up, Status>;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);

/// What the member's thread is told.
pub enum Input {
    /// A manager's stream began; `up` is its way back, and it ends when `held` is dropped.
    Open {
        /// Counts the streams.
        session: u64,
        /// The manager's key.
        key: PublicKey,
        /// What the manager shows of the sessions before.
        ticket: Option<v1::Ticket>,
        /// The way back.
        up: mpsc::Sender<Answer>,
        /// Its drop ends the stream.
        held: oneshot::Sender<()>,
    },
    /// What else happens.
    Happens(follower::Input),
    /// What this server holds is asked for, before it takes over.
    Account(oneshot::Sender<Account>),
    /// The role ends.
    End,
    /// A person, or the manager for one, asks about edits made here.
    Asked(Asked),
    /// The commands of that number tell how far they are, or how they ended.
    Ran(u64, follower::Input),
}

/// What the member needs from the agent.
pub struct Setup {
    /// This server.
    pub name: ServerName,
    /// Where each set is.
    pub paths: BTreeMap<SetName, PathBuf>,
    /// The directories in which this server edits sets while it is the manager.
    pub edited: BTreeMap<SetName, PathBuf>,
    /// The commands of the sets that have any.
    pub commands: Commands,
    /// The state directory.
    pub layout: Layout,
    /// The group record.
    pub record: Arc<GroupRecord>,
    /// Where what is seen is told.
    pub events: mpsc::UnboundedSender<Event>,
    /// Whether this server may take traffic.
    pub ready: watch::Sender<Ready>,
    /// Where the tree of the revision that is held is shown.
    pub tree: Arc<ArcSwap<Tree>>,
    /// Where the revisions that are heard of are shown.
    pub seen: Arc<KnownHeads>,
    /// This server's incarnation.
    pub incarnation: u64,
}

/// The way back to the manager. A newer one takes its place.
struct Session {
    up: mpsc::Sender<Answer>,
    _held: oneshot::Sender<()>,
}

/// Where the watch hears what rescans find, and which files there are.
type Finds = (mpsc::UnboundedReceiver<Found>, watch::Receiver<Files>);

/// What the disk has of the revision that is under way.
#[derive(Default)]
enum Transfer {
    #[default]
    Nothing,
    Receiving(Box<Receiving>),
    /// Staged but for chunks that were asked for by hash.
    Filling(Box<Filling>),
    /// All of it is staged.
    Prepared(Box<Prepared>),
}

/// The member's thread's state.
pub struct Member {
    name: ServerName,
    layout: Layout,
    record: Arc<GroupRecord>,
    events: mpsc::UnboundedSender<Event>,
    ready: watch::Sender<Ready>,
    tree: Arc<ArcSwap<Tree>>,
    seen: Arc<KnownHeads>,
    incarnation: u64,
    history: History,
    position: Position,
    sets: Sets,
    follower: Follower,
    /// Edits that the manager has as a revision by now: updates need not wait for them (policy `hold`).
    given: Vec<Change>,
    /// Questions that wait until nothing is under way.
    asked: VecDeque<Asked>,
    /// When every entry was last looked at because somebody asked.
    looked: Option<Instant>,
    /// Told of what a rescan finds; and where the watch hears it, until it is begun.
    rescans: Rescans,
    found: Option<Finds>,
    transfer: Transfer,
    /// The commands of the sets that have any.
    commands: Commands,
    /// Commands that are running, and how many runs there were.
    running: Option<Running>,
    runs: u64,
    /// Where what comes of them goes: this member.
    inputs: mpsc::WeakSender<Input>,
    /// Where commands run.
    runtime: tokio::runtime::Handle,
    /// The last switch, whose remains are tidied up after the report.
    committed: Option<Committed>,
    /// What stands in the way of the revision that was refused last.
    obstacle: Option<Obstacle>,
    /// Whether a revision waits.
    waits: watch::Sender<bool>,
    session: Option<Session>,
    progressed: Instant,
    /// The contents that this server is to erase.
    forgetting: Forgetting,
}

/// Why a member cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The history.
    #[error("the history cannot be opened")]
    History(#[from] bellwether_store::history::HistoryError),
    /// The position.
    #[error("the position cannot be read")]
    Position(#[from] bellwether_store::state::file::StateFileError),
    /// The sets.
    #[error("the sets cannot be scanned")]
    Scan(#[from] bellwether_store::scan::ScanError),
    /// An interrupted switch.
    #[error("an interrupted switch can be neither completed nor taken back")]
    Recovery(#[from] bellwether_store::apply::Failed),
    /// A set of the group that agent.toml does not name.
    #[error("set {0} of the group has no path on this server; nothing was changed; add it to agent.toml")]
    NoPath(SetName),
}

impl Member {
    /// Recovers what a crash interrupted, then opens the history and scans the sets. `inputs` are its own, for what comes of the
    /// sets' commands.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(setup: Setup, inputs: &mpsc::Sender<Input>) -> Result<Self, OpenError> {
        let Setup { name, paths, edited, commands, layout, record, events, ready, tree: shown, seen, incarnation } =
            setup;
        let (mut position, history) =
            recover(&layout, (&paths, &edited), &commands, record.current().record(), &record.own_key())?;
        if position.leads {
            position.leads = false;
            history.log().note(&position)?;
        }
        history.all().for_each(|stored| seen.note(stored.header.clone()));
        let tree = position.at.as_ref().and_then(|at| {
            let held = history.tree(at.id());
            let span = tracing::error_span!("apply", revision = %at.number());
            let warn = |error| span.in_scope(|| tracing::warn!(%error, "not in the history: to be synced anew"));
            held.map_err(warn).ok()
        });
        if tree.is_none() {
            position.at = None;
        }
        let rules =
            record.current().record().policy.sets.iter().map(|rules| Arc::new(rules.clone())).collect::<Vec<_>>();
        let (rescans, found, files) = Rescans::new();
        let key = record.own_key();
        let log = history.log().clone();
        let sets = Sets::open(paths, &layout, log, key, tree.unwrap_or_else(|| Tree::empty(rules)))?;
        let mut member = Self {
            name: name.clone(),
            layout,
            record,
            events,
            ready,
            tree: shown,
            seen,
            incarnation,
            history,
            position,
            sets,
            follower: Follower::new(name),
            given: Vec::new(),
            asked: VecDeque::new(),
            looked: None,
            rescans,
            found: Some((found, files)),
            transfer: Transfer::Nothing,
            commands,
            running: None,
            runs: 0,
            inputs: inputs.downgrade(),
            runtime: tokio::runtime::Handle::current(),
            committed: None,
            obstacle: None,
            waits: watch::Sender::new(false),
            session: None,
            progressed: Instant::now(),
            forgetting: Forgetting::default(),
        };
        member.tell(Observation::Reached {
            program: Program::own(),
            at: member.position.at.as_ref().map(SignedHeader::number),
            fault: member.position.fault.as_ref().map(|fault| fault.reason.clone()),
        });
        let edits = member.compare();
        member.put(follower::Input::Compared(edits));
        member.tell_ready();
        Ok(member)
    }

    /// Watches the sets for drift, until `stop`: one task arms the watches, one feeds this member's thread; a third wakes it
    /// while a revision waits.
    pub fn watch(
        &mut self,
        inputs: mpsc::Sender<Input>,
        stop: &watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let sets = self.sets.paths.iter().map(|(set, path)| (set.clone(), path.clone())).collect();
        let (found, files) = self.found.take().unwrap_or_else(|| {
            let (rescans, found, files) = Rescans::new();
            self.rescans = rescans;
            (found, files)
        });
        let watched = Watched { record: self.record.follow(), sets, events: self.events.clone(), found, files };
        let dirty = Arc::new(PendingChanges::default());
        let (modes, known) = watch::channel(Modes::default());
        let arming = watching::run(watched, dirty.clone(), modes, stop.clone());
        let waking = wake(self.waits.subscribe(), inputs.clone(), stop.clone());
        let feeding = drift::watch((dirty, known), self.record.follow(), inputs, stop.clone());
        async move {
            tokio::join!(arming, feeding, waking);
        }
    }

    /// Serves inputs until the role ends; then saves the index.
    pub fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        if let Some(owed) = self.owed() {
            self.put(follower::Input::Owed(Box::new(owed)));
        }
        self.catch_up();
        while let Some(input) = inputs.blocking_recv() {
            match input {
                Input::Open { session, key, ticket, up, held } => {
                    self.close();
                    self.session = Some(Session { up, _held: held });
                    let hello = Box::new(self.hello(ticket));
                    self.put(follower::Input::Opened { session, key, hello });
                }
                Input::Happens(input) => self.happens(input),
                Input::Asked(asked) => self.asked(asked),
                Input::Account(answer) => drop(answer.send(self.account())),
                Input::Ran(number, input) if self.running.as_ref().is_some_and(|run| run.number == number) => {
                    self.put(input);
                }
                // Of commands that were given up.
                Input::Ran(..) => {}
                Input::End => break,
            }
            self.catch_up();
        }
        self.close();
        self.sets.save_index(&self.layout);
    }

    /// What the sets hold, looked at now.
    fn account(&mut self) -> Account {
        if self.follower.is_idle() {
            self.dirty(&Look::Stats);
        }
        let (at, unconfirmed) = (self.position.at.as_ref(), self.position.unconfirmed.as_ref());
        let unconfirmed = at.zip(unconfirmed).map(|(at, unconfirmed)| {
            let (number, before, s) = (at.number(), unconfirmed.before.number(), unconfirmed.left_ms().div_ceil(1_000));
            format!("nobody has confirmed {number}, which goes back to {before} by itself in {s} s")
        });
        Account {
            at: self.position.at.clone(),
            fault: self
                .position
                .fault
                .as_ref()
                .map(|fault| fault.reason.clone())
                .or_else(|| self.away())
                .or(unconfirmed),
            drift: (self.follower.drift().entries, self.follower.drift().paths.clone()),
        }
    }

    /// The newest revision in the history that follows the one held, if that is proven.
    fn ahead(&self) -> bytes::Bytes {
        let at = match self.position.proven() {
            Proven::Yes => self.position.at.as_ref(),
            Proven::NotYet(before) => before,
        };
        let head = self.history.head().map(|head| head.header.id());
        let follows = |at: &SignedHeader| head != Some(at.id()) && self.history.leads_from(at.id());
        at.filter(|at| follows(at)).and(head).map(|head| head.0.into()).unwrap_or_default()
    }

    /// What only the disk knows of a hello.
    fn hello(&self, ticket: Option<v1::Ticket>) -> v1::UpHello {
        let partial = self.history.partial();
        v1::UpHello {
            validates: self.commands.values().any(|commands| commands.validate.is_some()),
            ahead: self.ahead(),
            partial: partial.map(|(pack, _)| pack.into()).unwrap_or_default(),
            partial_bytes: partial.map_or(0, |(_, bytes)| bytes),
            incarnation: self.incarnation,
            ticket,
            seen: self.seen.newest().iter().map(SignedHeader::to_wire).collect(),
            ..v1::UpHello::default()
        }
    }

    /// Lets go of the stream.
    fn close(&mut self) {
        self.session = None;
        if let Some(session) = self.follower.session() {
            self.put(follower::Input::Closed(session));
        }
    }

    fn happens(&mut self, input: follower::Input) {
        let (packed, revision) = match &input {
            follower::Input::Said(_, message) => {
                let packed = self.follower.packed(message);
                let held = matches!(message, down::Message::Sync(_)).then_some(self.position.at.as_ref()).flatten();
                (packed, packed.or(held.map(SignedHeader::number)))
            }
            follower::Input::Closed(session) if self.follower.session() == Some(*session) => return self.close(),
            follower::Input::LookForObstacle => {
                self.look_for_confirmation();
                return self.put(input);
            }
            _ => return self.put(input),
        };
        let _span = revision.map(|number| tracing::error_span!("apply", revision = %number).entered());
        let _dealing = Dealing::with(self.suspect(packed));
        self.put(input);
    }

    /// The cause to name if this agent ends while it handles a message: the pack of that revision, otherwise the manager.
    fn suspect(&self, packed: Option<Number>) -> Suspect {
        match packed {
            Some(revision) => Suspect::Pack(revision.to_string()),
            None => Suspect::Peer(self.record.current().record().manager().name.to_string()),
        }
    }

    /// Puts in what happens, does what comes out, and puts the answers in.
    fn put(&mut self, input: follower::Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let (record, fault) = (self.record.current(), self.position.fault.as_ref().map(Fault::to_wire));
            let facts = Facts {
                now: Instant::now(),
                now_ms: now_ms(),
                record: record.record(),
                manager_of: &|epoch| self.record.manager_of(epoch),
                quarantined: &|number| quarantined(&self.name, number),
                at: self.position.at.as_ref(),
                fault: fault.as_ref(),
                proven: self.position.proven(),
                kept: &|revision| kept(&self.history, self.position.at.as_ref()?, revision),
            };
            for output in self.follower.handle(&facts, input) {
                inputs.extend(self.act(output));
            }
        }
        let waits = self.follower.waits() || self.position.unconfirmed.is_some();
        self.waits.send_if_modified(|before| std::mem::replace(before, waits) != waits);
    }

    /// Does what came out; the disk's answer.
    fn act(&mut self, output: Output) -> Option<follower::Input> {
        match output {
            Output::Send(message) => return self.send(message),
            Output::See(observation) => self.tell(observation),
            Output::Head(head) => self.note_head(head),
            Output::Show => self.tell_ready(),
            Output::Fault(reason) => self.note_fault(reason),
            Output::Fence(reason) => self.fence(reason),
            Output::Drop => {
                self.running = None;
                if let Transfer::Receiving(receiving) = std::mem::take(&mut self.transfer) {
                    receiving.keep();
                }
            }
            Output::Receive { offer, header, forked, plan } => {
                failpoint::hit("member.offer");
                self.sets.forked = forked;
                let arrived = self.receive(&offer, header, plan);
                return Some(follower::Input::Arrived(arrived.map_err(|e| self.trouble(&e))));
            }
            Output::Slice(slice) => {
                let arrived = self.slice(&slice);
                return Some(follower::Input::Arrived(arrived.map_err(|e| self.trouble(&e))));
            }
            Output::Rest => {
                if let Transfer::Receiving(receiving) = &mut self.transfer {
                    receiving.want_rest();
                }
            }
            Output::Fill => {
                if let Transfer::Receiving(receiving) = std::mem::take(&mut self.transfer)
                    && let Ok(filling) = Filling::of(*receiving)
                {
                    self.transfer = Transfer::Filling(Box::new(filling));
                }
            }
            Output::Supply(supply) => {
                let came = self.supply(&supply);
                return Some(follower::Input::Supplied(came.map_err(|e| self.trouble(&e))));
            }
            Output::Keep { stage } => {
                let kept = self.keep(stage);
                return Some(follower::Input::Kept(kept.map_err(|e| self.trouble(&e))));
            }
            Output::Shelve => self.shelve(),
            Output::Stage { keep } => {
                let staged = self.stage(keep);
                return Some(follower::Input::Staged(staged.map_err(|e| self.trouble(&e))));
            }
            Output::Validate => self.validate(),
            Output::Switch(validation) => return Some(follower::Input::Switched(self.switch_staged(validation))),
            Output::Prove => self.prove(),
            Output::Proved => self.note_proved(),
            Output::Return(complaint) => return Some(follower::Input::Returned(self.go_back(complaint))),
            Output::Tidy(header) => {
                self.committed = None;
                self.tidy_history(&header);
            }
            Output::Finish => {
                return Some(follower::Input::Finished(self.finish_interrupted().map_err(|e| chain(&e))));
            }
            Output::Back { header, bytes } => {
                let missing = self.back(header, &if bytes { Look::Bytes } else { Look::Stats });
                return Some(follower::Input::Planned(missing.map_err(|e| self.trouble(&e))));
            }
            Output::Look { look, plain } => {
                let before = self.sets.live.clone();
                let edits = self.look_and_compare(&look);
                if plain {
                    self.rescans.found(&before, &self.sets.live);
                }
                return Some(follower::Input::Compared(edits));
            }
            Output::Verify { full } => {
                let (verified, edits) = self.verify(full);
                return Some(follower::Input::Verified(verified, edits));
            }
            Output::PutBack => self.revert_by_policy(),
            Output::LookForObstacle => {
                return Some(follower::Input::Obstacle(self.obstacle.as_ref().and_then(Obstacle::is_there)));
            }
        }
        None
    }

    /// Why a revision is not taken; what the disk had of it is dropped.
    fn trouble(&mut self, error: &ReceiveError) -> Trouble {
        self.transfer = Transfer::Nothing;
        self.obstacle = error.obstacle(&self.sets.paths, self.layout.state());
        let look = match error {
            ReceiveError::Held(_) => Some(waiting::nowhere()),
            ReceiveError::Scan(_) => Some(Look::Stats),
            _ => None,
        };
        if let Some(obstacle) = &self.obstacle {
            tracing::debug!(?obstacle, "it stands in the way");
        }
        let (reason, cause) = (chain(error), self.obstacle.as_ref().map(Obstacle::cause));
        Trouble { reason, cause, look, output: String::new() }
    }

    /// The head as its manager signed it.
    fn note_head(&self, head: SignedHeader) {
        let header = head.header();
        let (number, time_ms, message) = (header.number, header.time_ms, header.message.clone());
        self.seen.note(head);
        let _ = self.events.send(Event::Head { number, time_ms, message });
    }

    fn receive(&mut self, offer: &v1::Offer, header: SignedHeader, plan: bool) -> Result<Arrived, ReceiveError> {
        let held = self.holds().then_some(self.given.as_slice());
        let sets = &mut self.sets;
        let mut planner = |head: &_, changes| sets.plan_over(head, changes, held);
        let receiving = Receiving::new(&self.history, offer, header, plan, &mut planner)?;
        self.arrived(Box::new(receiving))
    }

    fn slice(&mut self, slice: &v1::Slice) -> Result<Arrived, ReceiveError> {
        let Transfer::Receiving(mut receiving) = std::mem::take(&mut self.transfer) else { return Ok(Arrived::More) };
        let held = self.holds().then_some(self.given.as_slice());
        let sets = &mut self.sets;
        let mut planner = |head: &_, changes| sets.plan_over(head, changes, held);
        receiving.slice(slice, &mut planner)?;
        self.arrived(receiving)
    }

    /// How far the pack is; what it did not bring is taken from the files here and from the history.
    fn arrived(&mut self, mut receiving: Box<Receiving>) -> Result<Arrived, ReceiveError> {
        let step = receiving.step();
        if step != Step::More {
            receiving.look_elsewhere(&self.sets.live)?;
        }
        let arrived = match step {
            Step::More => {
                self.progress("receiving", receiving.plan(), receiving.received(), receiving.size);
                Arrived::More
            }
            Step::Whole => {
                receiving.make_rest(&self.history)?;
                if let Some(plan) = receiving.plan_mut() {
                    // Of a directory that was removed here, the pack has only what changed.
                    self.take_from_here(plan)?;
                }
                Arrived::Whole
            }
            Step::Paused => {
                let missing = receiving.plan().map(Plan::missing);
                let missing = missing.ok_or_else(|| ReceiveError::Offer("it stops before all changes".into()))?;
                Arrived::Paused { missing, in_pack: receiving.chunk_bytes(), rest: receiving.rest() }
            }
        };
        self.transfer = Transfer::Receiving(receiving);
        Ok(arrived)
    }

    fn supply(&mut self, supply: &v1::Supply) -> Result<Vec<Hash>, ReceiveError> {
        let Transfer::Filling(mut filling) = std::mem::take(&mut self.transfer) else { return Ok(Vec::new()) };
        let came = filling.supply(supply)?;
        self.progress("receiving", Some(filling.plan()), 0, 0);
        self.transfer = Transfer::Filling(filling);
        Ok(came)
    }

    fn progress(&mut self, phase: &str, plan: Option<&Plan>, bytes: u64, bytes_total: u64) {
        if self.progressed.elapsed() < PROGRESS {
            return;
        }
        self.progressed = Instant::now();
        let (files, files_total) = plan.map_or((0, 0), Plan::progress);
        let message = v1::Progress { phase: phase.into(), files, files_total, bytes, bytes_total };
        // A reader that does not keep up misses a figure, no more.
        if let Some(session) = self.session.as_ref().filter(|session| session.up.capacity() > ANSWERS / 2) {
            let _ = session.up.try_send(Ok(v1::Up { message: Some(up::Message::Progress(message)) }));
        }
        let phase = phase.into();
        let bytes_per_s = 0;
        self.tell(Observation::Progress(status::Progress {
            phase,
            files,
            files_total,
            bytes,
            bytes_total,
            bytes_per_s,
        }));
    }

    /// Answers the manager. One that does not read is let go of: this thread waits for nobody.
    fn send(&mut self, mut message: up::Message) -> Option<follower::Input> {
        match &mut message {
            up::Message::Report(report) => report.ahead = self.ahead(),
            up::Message::Staged(staged) => staged.ahead = self.ahead(),
            _ => {}
        }
        let up = v1::Up { message: Some(message) };
        self.session.take_if(|session| session.up.try_send(Ok(up)).is_err())?;
        self.follower.session().map(follower::Input::Closed)
    }

    fn tell(&self, observation: Observation) {
        let _ = self.events.send(Event::Server(self.name.clone(), observation));
    }

    /// Readiness is what the sets hold (W12): a pack, a base like an increment, is staged beside them and switched at once, so
    /// what is under way changes nothing before the switch. Who is drained for a sync is so by the record.
    fn tell_ready(&self) {
        self.tree.store(Arc::new(self.sets.tree.clone()));
        self.seen.hold(self.position.at.clone());
        self.ready.send_replace(match (&self.position.at, &self.position.fault) {
            (_, Some(fault)) => Ready::no(fault.reason.clone()),
            (None, None) => Ready::no("awaiting the first sync"),
            (Some(at), None) => {
                let stale = self.follower.heard() != Some((at.number(), at.id()));
                Ready { stale, ..Ready::yes(format!("at revision {}", at.number())) }
            }
        });
    }
}

/// The header of that revision, if it is `at`, or a later one whose tree `history` has.
fn kept(history: &History, at: &SignedHeader, revision: RevisionId) -> Option<SignedHeader> {
    let age = |header: &SignedHeader| (header.number().epoch, header.number().sequence);
    let header = &history.get(revision)?.header;
    (revision == at.id() || age(at) < age(header)).then(|| header.clone())
}

/// Why a pack is not to be touched.
fn quarantined(own: &ServerName, number: Number) -> Option<String> {
    let pack = Suspect::Pack(number.to_string());
    quarantine::holds(&pack).then(|| {
        format!(
            "{pack} is quarantined: this agent ended three times while it dealt with it; let it in there: \
             bellwether quarantine lift '{pack}', then here: bellwether sync {own}"
        )
    })
}

/// Wakes the member every second while it waits, until `stop`.
async fn wake(mut waits: watch::Receiver<bool>, inputs: mpsc::Sender<Input>, mut stop: watch::Receiver<bool>) {
    let waking = async {
        while waits.wait_for(|waits| *waits).await.is_ok() {
            tokio::time::sleep(again::LOOK).await;
            if inputs.send(Input::Happens(follower::Input::LookForObstacle)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = waking => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
