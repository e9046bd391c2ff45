//! The member's role: takes revisions from the manager, switches to them, reports back.
//!
//! One thread, `member`, owns the history, the position and everything about the sets; it does one thing after the
//! other and never waits for the network. It is fed by one bounded channel of [`Input`]: from the push stream
//! (the daemon has one task a stream), and from the watch on the sets (drift). It answers through the stream's own channel
//! and tells what it sees as [`Event`]s.

mod again;
mod drift;
mod keeping;
mod position;
mod receive;
mod recovery;
mod sets;
mod switch;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bellwether_group::takeover::Account;
use bellwether_proto::{
    admission::{Authority, admit},
    entry::Chunk,
    hash::Hash,
    key::PublicKey,
    level::Program,
    limits,
    name::{ServerName, SetName},
    protocol,
    ready::Ready,
    revision::{Number, RevisionId, SignedHeader},
    status::{self, Event, Observation},
    v1::{self, down, up},
};
use bellwether_store::{
    apply::Plan,
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
use self::{
    again::Again,
    drift::{pace::Pace, waiting::Waiting},
    position::{Fault, Position},
    receive::{Receiving, Step},
    sets::Sets,
    switch::Filling,
};
pub use self::{
    drift::asked::{AskError, Asked, Hand, Looked, Place, PutBack, selected, selected_with_parents},
    position::{Position as HeldPosition, held_before, note_leading},
    receive::ReceiveError,
    recovery::recover,
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
    /// A message of that stream.
    Down {
        /// Of which stream.
        session: u64,
        /// The message.
        message: down::Message,
    },
    /// That stream ended.
    Closed {
        /// Which one.
        session: u64,
    },
    /// Something changed in the sets.
    Changed(Look),
    /// Everything is to be looked at, though nothing says that something changed.
    Rescan,
    /// What stands in the way of a revision may be gone.
    LookForObstacle,
    /// What this server holds is asked for, before it takes over.
    Account(oneshot::Sender<Account>),
    /// The role ends.
    End,
    /// A person, or the manager for one, asks about edits made here.
    Asked(Asked),
}

/// What the member needs from the agent.
pub struct Setup {
    /// This server.
    pub name: ServerName,
    /// Where each set is.
    pub paths: BTreeMap<SetName, PathBuf>,
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
    /// How often this server's state was opened.
    pub incarnation: u64,
}

/// The stream that is followed now. A newer one takes its place.
struct Session {
    number: u64,
    /// Whose it is.
    key: PublicKey,
    /// That it shows.
    ticket: Option<v1::Ticket>,
    up: mpsc::Sender<Answer>,
    _held: oneshot::Sender<()>,
}

/// Where the watch hears what rescans find, and which files there are.
type Finds = (mpsc::UnboundedReceiver<Found>, watch::Receiver<Files>);

/// What is under way.
enum Work {
    Idle,
    Receiving(Box<Receiving>),
    /// Staged but for chunks that were asked for by hash.
    Filling(Box<Filling>),
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
    /// The newest head that was heard of.
    heard: Option<(Number, RevisionId)>,
    sets: Sets,
    drift: v1::Drift,
    /// Recovery points that no manager was told of yet.
    unsaid: Vec<String>,
    /// Edits that the manager has as a revision by now: updates need not wait for them (policy `hold`).
    given: Vec<Change>,
    /// What has to wait until nothing is under way.
    waiting: Waiting,
    /// Told of what a rescan finds; and where the watch hears it, until it is begun.
    rescans: Rescans,
    found: Option<Finds>,
    /// When edits may be put back without being asked again (policy `revert`).
    pace: Pace,
    work: Work,
    /// What waits until something here has passed, and whether anything does.
    again: Option<Again>,
    waits: watch::Sender<bool>,
    session: Option<Session>,
    progressed: Instant,
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
    /// Recovers what a crash interrupted, then opens the history and scans the sets.
    pub fn open(setup: Setup) -> Result<Self, OpenError> {
        let Setup { name, paths, layout, record, events, ready, tree: shown, seen, incarnation } = setup;
        let (mut position, history) = recover(&layout, &paths, record.current().record(), &record.own_key())?;
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
            name,
            layout,
            record,
            events,
            ready,
            tree: shown,
            seen,
            incarnation,
            history,
            position,
            heard: None,
            sets,
            drift: v1::Drift::default(),
            unsaid: Vec::new(),
            given: Vec::new(),
            waiting: Waiting::default(),
            rescans,
            found: Some((found, files)),
            pace: Pace::default(),
            work: Work::Idle,
            again: None,
            waits: watch::Sender::new(false),
            session: None,
            progressed: Instant::now(),
        };
        member.tell(Observation::Reached {
            program: Program::own(),
            at: member.position.at.as_ref().map(SignedHeader::number),
            fault: member.position.fault.as_ref().map(|fault| fault.reason.clone()),
        });
        member.observe_drift();
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
        let waking = again::wake(self.waits.subscribe(), inputs.clone(), stop.clone());
        let feeding = drift::watch((dirty, known), self.record.follow(), inputs, stop.clone());
        async move {
            tokio::join!(arming, feeding, waking);
        }
    }

    /// Serves inputs until the role ends; then saves the index.
    pub fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        self.catch_up();
        while let Some(input) = inputs.blocking_recv() {
            match input {
                Input::Open { session, key, ticket, up, held } => {
                    self.opened(Session { number: session, key, ticket, up, _held: held });
                }
                Input::Down { session, message } if self.is_current(session) => self.down(message),
                Input::Closed { session } if self.is_current(session) => self.closed(),
                Input::Down { .. } | Input::Closed { .. } => {}
                Input::Changed(look) => self.waiting.look(look),
                Input::Rescan => self.waiting.rescan(),
                Input::LookForObstacle => self.look_for_obstacle(),
                Input::Asked(asked) => self.asked(asked),
                Input::Account(answer) => drop(answer.send(self.account())),
                Input::End => break,
            }
            self.catch_up();
        }
        self.closed();
        self.sets.save_index(&self.layout);
    }

    /// What the sets hold, looked at now.
    fn account(&mut self) -> Account {
        if matches!(self.work, Work::Idle) {
            self.dirty(&Look::Stats);
        }
        Account {
            at: self.position.at.clone(),
            fault: self.position.fault.as_ref().map(|fault| fault.reason.clone()).or_else(|| self.away()),
            drift: (self.drift.entries, self.drift.paths.clone()),
        }
    }

    fn is_current(&self, session: u64) -> bool {
        self.session.as_ref().is_some_and(|current| current.number == session)
    }

    fn opened(&mut self, mut session: Session) {
        self.closed();
        self.ask_anew();
        let ticket = session.ticket.take();
        self.session = Some(session);
        let partial = self.history.partial();
        let kept = std::mem::take(&mut self.unsaid);
        let Program { version, levels } = Program::own();
        let (protocol_min, protocol) = protocol::SPOKEN;
        self.send(up::Message::Hello(v1::UpHello {
            protocol,
            protocol_min,
            server: self.name.to_string(),
            version,
            level_oldest: levels.oldest.0,
            level_newest: levels.newest.0,
            at: self.position.at.as_ref().map(SignedHeader::to_wire),
            epoch: self.record.current().record().version.epoch.0,
            fault: self.position.fault.as_ref().map(Fault::to_wire),
            partial: partial.map(|(pack, _)| pack.into()).unwrap_or_default(),
            partial_bytes: partial.map_or(0, |(_, bytes)| bytes),
            drift: Some(v1::Drift { kept, ..self.drift.clone() }),
            incarnation: self.incarnation,
            ticket,
            seen: self.seen.newest().iter().map(SignedHeader::to_wire).collect(),
        }));
    }

    fn closed(&mut self) {
        self.session = None;
        self.interrupt();
    }

    /// Drops what is under way; what has arrived of a pack is kept.
    fn interrupt(&mut self) {
        if let Work::Receiving(receiving) = std::mem::replace(&mut self.work, Work::Idle) {
            receiving.keep();
        }
        self.tell_ready();
    }

    fn down(&mut self, message: down::Message) {
        let packed = self.packed(&message);
        let revision = match message {
            down::Message::Sync(_) => self.position.at.as_ref().map(SignedHeader::number),
            _ => packed,
        };
        let _span = revision.map(|number| tracing::error_span!("apply", revision = %number).entered());
        let _dealing = Dealing::with(self.suspect(packed));
        match message {
            down::Message::Head(head) => self.head(head),
            down::Message::Offer(offer) => self.offer(&offer),
            down::Message::Slice(slice) => self.slice(&slice),
            down::Message::Supply(supply) => self.supply(&supply),
            down::Message::Verify(verify) => self.verify(verify.full),
            down::Message::Sync(_) => self.sync(),
            down::Message::Fence(fence) => self.fenced(fence.reason),
            // The session's: it answers without waiting for this thread.
            down::Message::Hello(_)
            | down::Message::Record(_)
            | down::Message::Keepalive(_)
            | down::Message::Procedures(_) => {}
        }
    }

    /// The revision whose pack a message brings.
    fn packed(&self, message: &down::Message) -> Option<Number> {
        match (message, &self.work) {
            (down::Message::Offer(offer), _) => offer.header.clone().and_then(|header| {
                let header = SignedHeader::from_wire(header).ok()?;
                Some(header.number())
            }),
            (down::Message::Slice(_) | down::Message::Supply(_), Work::Receiving(receiving)) => {
                Some(receiving.header.number())
            }
            (down::Message::Slice(_) | down::Message::Supply(_), Work::Filling(filling)) => Some(filling.number()),
            (_, Work::Idle | Work::Receiving(_) | Work::Filling(_)) => None,
        }
    }

    /// The cause to name if this agent ends while it handles a message: the pack of that revision, otherwise the manager.
    fn suspect(&self, packed: Option<Number>) -> Suspect {
        match packed {
            Some(revision) => Suspect::Pack(revision.to_string()),
            None => Suspect::Peer(self.record.current().record().manager().name.to_string()),
        }
    }

    fn head(&mut self, head: v1::SignedHeader) {
        let Ok(head) = SignedHeader::from_wire(head) else { return };
        if self.heard == Some((head.number(), head.id())) {
            return;
        }
        if head.signed_by(&self.record.current().record().manager().key) {
            self.heard(head);
        }
    }

    /// The head as its manager signed it.
    fn heard(&mut self, head: SignedHeader) {
        let header = head.header();
        let (number, time_ms, message) = (header.number, header.time_ms, header.message.clone());
        self.heard = Some((number, head.id()));
        self.seen.note(head);
        let _ = self.events.send(Event::Head { number, time_ms, message });
        self.tell_ready();
    }

    fn offer(&mut self, offer: &v1::Offer) {
        self.interrupt();
        let header = match self.admitted(offer) {
            Ok(header) => header,
            Err(reason) => {
                tracing::debug!(reason, "an offer is not admitted");
                return self.report_refusal(offer_id(offer), reason, None);
            }
        };
        tracing::debug!(base = offer.base, from = offer.from, to = offer.to, size = offer.size, "an offer is admitted");
        // An offer may come before the word of the head that it makes.
        if self.heard.is_none_or(|(newest, _)| newest < header.number()) {
            self.heard(header.clone());
        }
        self.tell(Observation::Started { sync: offer.base, to: header.number() });
        self.sets.forked = self.position.at.as_ref().map(SignedHeader::number).filter(|_| offer.base && offer.forked);
        let held = self.holds().then_some(&self.given);
        let sets = &mut self.sets;
        let mut planner = |head: &_, changes| sets.plan_over(head, changes, held.map(Vec::as_slice));
        match Receiving::new(&self.history, offer, header.clone(), &mut planner) {
            Ok(receiving) => self.arrived(Box::new(receiving)),
            Err(error) => self.not_taken(&header, &error),
        }
    }

    fn admitted(&self, offer: &v1::Offer) -> Result<SignedHeader, String> {
        let wire = offer.header.clone().ok_or("an offer without a header")?;
        let header = SignedHeader::from_wire(wire).map_err(|e| e.to_string())?;
        if let Some(fault) = &self.position.fault {
            return Err(format!("in error: {}", fault.reason));
        }
        if self.drift.held {
            return Err(self.held_reason());
        }
        if let Some(away) = self.away() {
            return Err(format!("{away}; nothing was changed"));
        }
        let pack = Suspect::Pack(header.number().to_string());
        if quarantine::holds(&pack) {
            return Err(format!(
                "{pack} is quarantined: this agent ended three times while it dealt with it; let it in there: \
                 bellwether quarantine lift '{pack}', then here: bellwether sync {}",
                self.name
            ));
        }
        failpoint::hit("member.offer");
        let record = self.record.current();
        let record = record.record();
        if self.session.as_ref().is_none_or(|session| session.key != record.manager().key) {
            return Err(format!(
                "offered by a server that is not the manager any more; that is {}",
                record.manager().name
            ));
        }
        let (group, epoch) = (record.group, record.version.epoch);
        let manager = self.record.manager_of(header.number().epoch);
        admit(&Authority { group, epoch, manager }, self.position.at.as_ref(), &header, offer.base)?;
        Ok(header)
    }

    fn slice(&mut self, slice: &v1::Slice) {
        let Work::Receiving(mut receiving) = std::mem::replace(&mut self.work, Work::Idle) else { return };
        let held = self.holds().then_some(&self.given);
        let sets = &mut self.sets;
        let mut planner = |head: &_, changes| sets.plan_over(head, changes, held.map(Vec::as_slice));
        match receiving.slice(slice, &mut planner) {
            Ok(_) => self.arrived(receiving),
            Err(error) => self.not_taken(&receiving.header, &error),
        }
    }

    /// Goes on with what has arrived: finishes, asks for more, or waits.
    fn arrived(&mut self, mut receiving: Box<Receiving>) {
        let step = receiving.step();
        if step != Step::More
            && let Err(error) = receiving.look_elsewhere(&self.sets.live)
        {
            return self.refused(&receiving.header, &error);
        }
        match step {
            Step::More => {
                self.progress("receiving", receiving.plan(), receiving.received(), receiving.size);
                self.work = Work::Receiving(receiving);
            }
            Step::Whole => match receiving.make_rest(&self.history) {
                Ok(()) => self.whole(*receiving),
                Err(error) => self.refused(&receiving.header, &error),
            },
            Step::Paused => match receiving.plan().map(Plan::missing) {
                None => self.refused(&receiving.header, &ReceiveError::Offer("it stops before all changes".into())),
                Some(missing) if few(&missing, receiving.chunk_bytes()) => {
                    tracing::debug!(chunks = missing.len(), "little is missing: these chunks are asked for");
                    self.fill(*receiving, &missing);
                }
                Some(missing) => {
                    tracing::debug!(chunks = missing.len(), "much is missing: the rest of the pack is asked for");
                    let range = receiving.want_rest();
                    self.work = Work::Receiving(receiving);
                    self.send(up::Message::Want(v1::Want { want: Some(v1::want::Want::Range(range)) }));
                }
            },
        }
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
    fn send(&mut self, message: up::Message) {
        let up = v1::Up { message: Some(message) };
        if self.session.as_ref().is_some_and(|session| session.up.try_send(Ok(up)).is_err()) {
            self.closed();
        }
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
                let stale = self.heard != Some((at.number(), at.id()));
                Ready { stale, ..Ready::yes(format!("at revision {}", at.number())) }
            }
        });
    }
}

/// Whether asking for single chunks is worth it: they are less than half of what the pack would bring.
fn few(missing: &[Chunk], in_pack: u64) -> bool {
    let bytes: u64 = missing.iter().map(|chunk| u64::from(chunk.length)).sum();
    bytes * 2 < in_pack && missing.len() <= limits::WANT
}

fn offer_id(offer: &v1::Offer) -> bytes::Bytes {
    let header = offer.header.as_ref().map(|header| header.header.as_ref()).unwrap_or_default();
    Hash::of(header).into()
}
