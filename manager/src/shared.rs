//! What the manager's tasks share. The publisher alone moves the head, [`Shared::edit`] alone the record, which the store holds.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, MutexGuard, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use bellwether_group::{
    edits::{
        GroupRefused,
        level::{self, Programs},
    },
    halt::Halt,
    lost::Known,
    rollout::{self, Order, Target},
};
use bellwether_proto::{
    advice::{Advice, Advise},
    key::{KeyPair, PublicKey},
    level::Program,
    name::{ServerName, SetName},
    record::{Publish, Record, Server, SignedRecord},
    revision::{Epoch, RevisionId, SignedHeader},
    status::Event,
    v1,
};
use bellwether_store::{
    history::{History, HistoryError},
    mutex::locked,
    pack::Outlines,
    root::Roots,
    scan::{Source, sources},
    state::{
        file::StateFileError,
        record::{GroupRecord, SaveError, decide},
    },
};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, watch};

use crate::{
    balancer::Locals,
    begin::known,
    failpoints,
    lane::{reached::ReachedServers, sessions::Sessions, stall::Deadlines, view::Views},
    procedures::store::ProcedureStore,
    publish::{head::Head, safety::Guard},
    tasks::Alarm,
};

/// Opens a connection to a server: mutual TLS with the key that the record pins.
pub trait Dial: Send + Sync + 'static {
    /// A connected channel.
    ///
    /// # Errors
    /// Why the server is out of reach, for people.
    fn dial(&self, server: &Server) -> Dialling;
}

/// A connection in the making.
pub type Dialling = Pin<Box<dyn Future<Output = Result<tonic::transport::Channel, String>> + Send>>;

/// Told when a server has proved that this manager's state went back; see [`bellwether_group::halt`].
pub type HaltFn = Box<dyn Fn(Halt) + Send + Sync>;

/// How many lanes read chunks for their members at a time.
const READS: usize = 2;

/// Intervals and patience. The defaults are for a farm; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Between two looks at every entry, with jitter.
    pub rescan: Duration,
    /// The same where changes are noticed only by rescanning.
    pub rescan_unwatched: Duration,
    /// Between two readings of every byte.
    pub full_hash: Duration,
    /// Until a young file is looked at again.
    pub young: Duration,
    /// Between two signs of life on a connection.
    pub keepalive: Duration,
    /// For a server to answer when it is dialled.
    pub dial: Duration,
    /// For the new manager to have everything at a handover.
    pub hand_over: Duration,
    /// How long a member is waited for.
    pub deadlines: Deadlines,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            rescan: Duration::from_secs(60),
            rescan_unwatched: Duration::from_secs(3),
            full_hash: Duration::from_secs(24 * 3600),
            // Not among the members' work on the change that made it young: its events are heard all the same.
            young: Duration::from_millis(100),
            keepalive: Duration::from_secs(5),
            dial: Duration::from_secs(10),
            hand_over: Duration::from_secs(30),
            deadlines: Deadlines::default(),
        }
    }
}

/// Why the record is not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A rule says no.
    #[error(transparent)]
    Refused(#[from] GroupRefused),
    /// A record that cannot be signed.
    #[error(transparent)]
    Malformed(#[from] bellwether_proto::Malformed),
    /// It could not be made durable: nothing was changed.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// What the tokens admit could not be made durable: nothing was changed.
    #[error("the tokens could not be saved; nothing was changed")]
    Tokens(#[source] StateFileError),
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(Arc<str>),
    /// The manager stops.
    #[error("the manager is stopping")]
    Stopping,
}

impl Advise for EditError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Refused(refused) => refused.advice(),
            Self::Save(save) => save.advice(),
            Self::Disputed(_) => Some(decide()),
            Self::Malformed(_) | Self::Tokens(_) | Self::Stopping => None,
        }
    }
}

pub(crate) struct Shared {
    pub(crate) name: ServerName,
    pub(crate) key: Arc<KeyPair>,
    pub(crate) sets: Vec<(SetName, PathBuf)>,
    pub(crate) state: PathBuf,
    pub(crate) incarnation: u64,
    pub(crate) group: Arc<GroupRecord>,
    /// By which this manager leads.
    pub(crate) record: watch::Receiver<Arc<SignedRecord>>,
    pub(crate) chain: Vec<v1::SignedRecord>,
    /// The key of the manager of each epoch that is known.
    managers: BTreeMap<Epoch, PublicKey>,
    /// What is known of the epochs before this one; found out when it is first asked for.
    before: OnceLock<Known>,
    pub(crate) head: watch::Sender<Arc<Head>>,
    pub(crate) history: Arc<RwLock<History>>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) timings: Timings,
    /// The procedures.
    pub(crate) procedure_store: Arc<ProcedureStore>,
    /// Tells changes by what differs; none: they are sent whole.
    pub(crate) outlines: Option<Outlines>,
    pub(crate) reads: Semaphore,
    /// The servers that are reached.
    pub(crate) reached: watch::Sender<ReachedServers>,
    /// The programs of the servers that have been reached since this manager started.
    programs: std::sync::Mutex<Programs>,
    /// What is known of the sets' directories.
    pub(crate) roots: Roots,
    /// What was published within the last hour.
    guard: std::sync::Mutex<Guard>,
    /// A lane needs a base of the head.
    pub(crate) base_wanted: Notify,
    /// What each lane is at.
    pub(crate) lanes: Views,
    /// Servers that refused us because they have seen a newer record.
    newer: mpsc::Sender<ServerName>,
    halt: HaltFn,
    /// The tickets that servers were given.
    pub(crate) sessions: Sessions,
    /// To whom the role is being handed over.
    handing: std::sync::Mutex<Option<ServerName>>,
    /// Held while the record is changed.
    pub(crate) editing: Arc<Mutex<()>>,
}

/// What a manager is started from.
pub struct Setup {
    /// This server.
    pub name: ServerName,
    /// Its key: the record's manager.
    pub key: Arc<KeyPair>,
    /// Where each set is here.
    pub sets: Vec<(SetName, PathBuf)>,
    /// The record, where it is held, with the state directory.
    pub group: Arc<GroupRecord>,
    /// The revision that the sets hold, where this server was a member until now.
    pub at: Option<RevisionId>,
    /// The manager's incarnation.
    pub incarnation: u64,
    /// Opens connections.
    pub dial: Arc<dyn Dial>,
    /// Where what is seen goes.
    pub events: mpsc::UnboundedSender<Event>,
    /// Gets the names of servers that have seen a newer record than this manager's.
    pub newer: mpsc::Sender<ServerName>,
    /// Told when this manager's state is found to have gone back; the manager is to be stopped then.
    pub halt: HaltFn,
    /// What other servers have said to have seen, each with its name: asked before this manager leads.
    pub seen: Vec<(ServerName, Vec<SignedHeader>)>,
    /// Intervals and patience.
    pub timings: Timings,
    /// The procedures.
    pub procedure_store: Arc<ProcedureStore>,
    /// What this machine's agent.toml says of balancers.
    pub balancers: Locals,
    /// Raised by a task that ends before it is told to.
    pub alarm: Alarm,
}

impl Shared {
    /// `record`: by which this manager leads.
    pub(crate) fn new(
        setup: Setup,
        roots: Roots,
        record: watch::Receiver<Arc<SignedRecord>>,
        (head, history, guard): (Head, History, Guard),
    ) -> Self {
        let Setup { name, key, sets, group, incarnation, events, dial, timings, procedure_store, newer, halt, .. } =
            setup;
        let (chain, state) = (group.chain(), group.layout().state().to_owned());
        let manager = |link: &SignedRecord| (link.record().version.epoch, link.record().manager().key);
        let managers = chain.iter().map(manager).collect();
        let sessions = Sessions::new(&state);
        let programs = std::sync::Mutex::new(BTreeMap::from([(key.public(), Program::own())]));
        let outlines = Outlines::of_tree(&group.layout().outlines(), &head.tree);
        Self {
            name,
            key,
            sets,
            state,
            incarnation,
            group,
            record,
            chain: chain.iter().map(SignedRecord::to_wire).collect(),
            managers,
            before: OnceLock::new(),
            head: watch::Sender::new(Arc::new(head)),
            history: Arc::new(RwLock::new(history)),
            events,
            dial,
            timings,
            procedure_store,
            outlines,
            reads: Semaphore::new(READS),
            reached: watch::Sender::default(),
            programs,
            roots,
            guard: std::sync::Mutex::new(guard),
            base_wanted: Notify::new(),
            lanes: Views::default(),
            newer,
            halt,
            sessions,
            handing: std::sync::Mutex::default(),
            editing: Arc::default(),
        }
    }

    /// What that server is to hold now.
    pub(crate) fn target(&self, server: &ServerName) -> Target {
        let order = if self.procedure_store.holds(server) { Order::Later } else { Order::Now };
        rollout::target(&self.head.borrow().stored.header, order, &self.record.borrow().record().policy)
    }

    /// Whether a rollback holds watching: no edit becomes a revision by itself.
    pub(crate) fn holds_watching(&self) -> bool {
        rollout::holds_watching(&self.head.borrow().stored.header, &self.record.borrow().record().policy)
    }

    /// Whether edits become revisions by themselves.
    pub(crate) fn publishes_by_itself(&self) -> bool {
        self.record.borrow().record().policy.publish == Publish::Auto && !self.holds_watching()
    }

    /// Tells the monitor. Where nobody listens any more, this process is stopping.
    pub(crate) fn see(&self, event: Event) {
        if let Event::Server(server, observation) = &event {
            self.reached.send_if_modified(|reached| reached.observe(server, observation));
        }
        let _ = self.events.send(event);
    }

    /// What was published within the last hour. The publisher alone changes it.
    pub(crate) fn guard(&self) -> MutexGuard<'_, Guard> {
        locked(&self.guard)
    }

    /// The programs of this server and of those that have been reached since this manager started.
    pub(crate) fn programs(&self) -> MutexGuard<'_, Programs> {
        locked(&self.programs)
    }

    /// To whom the role is being handed over; none: to nobody.
    pub(crate) fn handing(&self) -> MutexGuard<'_, Option<ServerName>> {
        locked(&self.handing)
    }

    /// Whether this manager may change anything.
    ///
    /// # Errors
    /// Another server leads in the same epoch: why, and what to do.
    pub(crate) fn undisputed(&self) -> Result<(), Arc<str>> {
        self.group.disputes().borrow().clone().map_or(Ok(()), Err)
    }

    /// A server has seen a newer record: whoever runs this manager asks it. One hint is enough.
    pub(crate) fn is_behind(&self, server: &ServerName) {
        let _ = self.newer.try_send(server.clone());
    }

    /// A server has proved that this manager's state went back: whoever runs this manager stops it.
    pub(crate) fn halt(&self, halt: Halt) {
        (self.halt)(halt);
    }

    /// Those of `seen` that a manager before this one made, and that no history here has. Blocks.
    ///
    /// # Errors
    /// The histories cannot be read.
    pub(crate) fn lost(&self, seen: &[SignedHeader]) -> Result<Vec<SignedHeader>, HistoryError> {
        let before = match self.before.get() {
            Some(before) => before,
            None => {
                let headers = {
                    let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
                    history.all().map(|stored| stored.header.clone()).collect()
                };
                let found = known::known(&self.state, headers)?;
                self.before.get_or_init(|| found)
            }
        };
        let record = self.record.borrow().clone();
        let lost = before.lost(record.record(), |epoch| self.managers.get(&epoch).copied(), seen);
        Ok(lost.into_iter().cloned().collect())
    }

    /// The sets of the record on this server, under its rules.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.roots.guard(sources(self.record.borrow().record(), &self.sets))
    }

    /// Changes the record: one at a time; signed and durable before any server sees it or this returns.
    pub(crate) async fn edit(
        self: &Arc<Self>,
        change: impl FnOnce(&SignedRecord) -> Result<Option<Record>, GroupRefused>,
    ) -> Result<Arc<SignedRecord>, EditError> {
        let one = self.editing.clone().lock_owned().await;
        self.undisputed().map_err(EditError::Disputed)?;
        let held = self.record.borrow().clone();
        let Some(next) = change(&held)? else { return Ok(held) };
        level::may_be_written(&next, &self.programs())?;
        let next = Arc::new(SignedRecord::sign(next, &self.key)?);
        let (group, saved) = (self.group.clone(), next.clone());
        // No other record of this version is signed before this one is in force, even where nobody waits for it any more.
        let save = move || {
            let _one = one;
            group.save_next(&held, &saved)?;
            failpoints::hit("record.saved");
            Ok::<_, EditError>(())
        };
        tokio::task::spawn_blocking(save).await.map_err(|_| EditError::Stopping)??;
        Ok(next)
    }
}
