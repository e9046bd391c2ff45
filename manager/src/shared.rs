//! The shared state of the manager's tasks. Only the publisher moves the head, and only [`Shared::edit`] changes the record.

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
    rollout::{self, Hold},
};
use bellwether_local::{prove::Commands, secret::Secrets};
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
    tree::Change,
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, Notify, Semaphore, mpsc, watch},
};

use crate::{
    balancer::Locals,
    begin::known,
    failpoints,
    forget::Reports,
    lane::{reached::ReachedServers, sessions::Sessions, stall::Deadlines, view::Views},
    procedures::store::ProcedureStore,
    publish::{batch::Batches, head::Head, live::Lives, safety::Guard},
    rollout::Rollouts,
    tasks::{Alarm, stopped},
};

/// Opens a connection to a server, by mutual TLS with the key in the record.
pub trait Dial: Send + Sync + 'static {
    /// A connected channel.
    ///
    /// # Errors
    /// The reason that the server cannot be reached, for people.
    fn dial(&self, server: &Server) -> Dialling;
}

/// A connection that is being opened.
pub type Dialling = Pin<Box<dyn Future<Output = Result<tonic::transport::Channel, String>> + Send>>;

/// Called when a server has proved that this manager's state went back; see [`bellwether_group::halt`].
pub type HaltFn = Box<dyn Fn(Halt) + Send + Sync>;

/// The number of lanes that may read chunks for their members at the same time.
const READS: usize = 2;

/// The manager's intervals and time limits. The defaults are for a farm, and tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// The interval of scans of every entry, with jitter.
    pub rescan: Duration,
    /// The interval of those scans if only they notice changes.
    pub rescan_unwatched: Duration,
    /// The interval of reading every byte.
    pub full_hash: Duration,
    /// The pause before a young file is scanned again.
    pub young: Duration,
    /// The interval of keepalives on a connection.
    pub keepalive: Duration,
    /// The time limit for a server's answer when it is dialled.
    pub dial: Duration,
    /// The time limit for the new manager to have everything at a handover.
    pub hand_over: Duration,
    /// The time limits of the waits for a member.
    pub deadlines: Deadlines,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            rescan: Duration::from_secs(60),
            rescan_unwatched: Duration::from_secs(3),
            full_hash: Duration::from_secs(24 * 3600),
            // This is late enough not to disturb the members' work on the same change; an event comes at any time.
            young: Duration::from_millis(100),
            keepalive: Duration::from_secs(5),
            dial: Duration::from_secs(10),
            hand_over: Duration::from_secs(30),
            deadlines: Deadlines::default(),
        }
    }
}

/// The record is not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A rule refuses the change.
    #[error(transparent)]
    Refused(#[from] GroupRefused),
    /// The record cannot be signed.
    #[error(transparent)]
    Malformed(#[from] bellwether_proto::Malformed),
    /// The record could not be made durable; nothing was changed.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The tokens could not be made durable; nothing was changed.
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
    /// Where each set is edited.
    pub(crate) sets: Vec<(SetName, PathBuf)>,
    /// The commands of those that have any on this server.
    pub(crate) commands: Commands,
    pub(crate) state: PathBuf,
    pub(crate) incarnation: u64,
    pub(crate) group: Arc<GroupRecord>,
    /// The record by which this manager leads.
    pub(crate) record: watch::Receiver<Arc<SignedRecord>>,
    pub(crate) chain: Vec<v1::SignedRecord>,
    /// The keys of the known managers, by epoch.
    managers: BTreeMap<Epoch, PublicKey>,
    /// The known revisions of earlier epochs, loaded at the first question.
    before: OnceLock<Known>,
    pub(crate) head: watch::Sender<Arc<Head>>,
    pub(crate) history: Arc<RwLock<History>>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) timings: Timings,
    /// The procedures.
    pub(crate) procedure_store: Arc<ProcedureStore>,
    /// The rollout of the head in waves.
    pub(crate) rollouts: Rollouts,
    /// The batch that holds publishing.
    pub(crate) batch: Batches,
    /// The live paths of sets that are edited elsewhere.
    pub(crate) live: Lives,
    /// The servers' reports about forgotten contents.
    pub(crate) forgets: Reports,
    /// The cache for patches; without it, changed chunks are sent whole.
    pub(crate) outlines: Option<Outlines>,
    pub(crate) reads: Semaphore,
    /// The servers that can be reached.
    pub(crate) reached: watch::Sender<ReachedServers>,
    /// The programs of the servers that have been reached since this manager started.
    programs: std::sync::Mutex<Programs>,
    /// The identities of the sets' directories.
    pub(crate) roots: Roots,
    /// The trees of the last hour.
    guard: std::sync::Mutex<Guard>,
    /// Notified if a lane needs a base of the head.
    pub(crate) base_wanted: Notify,
    /// The state of each lane.
    pub(crate) lanes: Views,
    /// Servers that refused this manager because they have seen a newer record.
    newer: mpsc::Sender<ServerName>,
    halt: HaltFn,
    /// The tickets that servers were given.
    pub(crate) sessions: Sessions,
    /// The server to which the role is being handed over.
    handing: std::sync::Mutex<Option<ServerName>>,
    /// True when the role ends.
    stop: watch::Receiver<bool>,
    /// Held while the record is changed.
    pub(crate) editing: Arc<Mutex<()>>,
}

/// The input for starting a manager.
pub struct Setup {
    /// This server.
    pub name: ServerName,
    /// Its key, which is the manager's in the record.
    pub key: Arc<KeyPair>,
    /// The path of each set on this server.
    pub sets: Vec<(SetName, PathBuf)>,
    /// The directories in which sets are edited, where these are not their paths.
    pub edited: BTreeMap<SetName, PathBuf>,
    /// The commands of those that have any on this server.
    pub commands: Commands,
    /// The group record, with the state directory.
    pub group: Arc<GroupRecord>,
    /// The revision that the sets hold, if this server was a member until now.
    pub at: Option<RevisionId>,
    /// The manager's incarnation.
    pub incarnation: u64,
    /// Opens connections.
    pub dial: Arc<dyn Dial>,
    /// Receives the observations.
    pub events: mpsc::UnboundedSender<Event>,
    /// Gets the names of servers that have seen a newer record than this manager's.
    pub newer: mpsc::Sender<ServerName>,
    /// Called when this manager's state went back; the manager is to be stopped then.
    pub halt: HaltFn,
    /// The revisions that other servers have seen, by the survey before this manager leads.
    pub seen: Vec<(ServerName, Vec<SignedHeader>)>,
    /// The intervals and time limits.
    pub timings: Timings,
    /// The procedures.
    pub procedure_store: Arc<ProcedureStore>,
    /// The balancers in this machine's agent.toml.
    pub balancers: Locals,
    /// Raised by a task that ends too early.
    pub alarm: Alarm,
}

impl Shared {
    /// `record`: the record by which this manager leads.
    pub(crate) fn new(
        setup: Setup,
        roots: Roots,
        record: watch::Receiver<Arc<SignedRecord>>,
        (head, history, guard): (Head, History, Guard),
        (rollouts, batch, live): (Rollouts, Batches, Lives),
        stop: watch::Receiver<bool>,
    ) -> Self {
        let Setup {
            name,
            key,
            sets,
            commands,
            group,
            incarnation,
            events,
            dial,
            timings,
            procedure_store,
            newer,
            halt,
            ..
        } = setup;
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
            commands,
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
            rollouts,
            batch,
            live,
            forgets: Reports::default(),
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
            stop,
            editing: Arc::default(),
        }
    }

    /// What holds publishing back: nothing is published then without a person.
    pub(crate) fn held(&self) -> Option<Hold> {
        self.rollouts.holds(&self.head.borrow().stored.header)
    }

    /// Whether a rollback holds watching: no edit becomes a revision by itself.
    pub(crate) fn holds_watching(&self) -> bool {
        rollout::holds_watching(&self.head.borrow().stored.header, &self.record.borrow().record().policy)
    }

    /// Whether edits become revisions by themselves.
    pub(crate) fn publishes_by_itself(&self) -> bool {
        self.record.borrow().record().policy.publish == Publish::Auto
            && !self.holds_watching()
            && self.held().is_none()
            && !self.batch.holds()
            && !self.live.holds()
    }

    /// The commands of the sets in which these changes are, and whose files are there already: not of those with a live path.
    pub(crate) fn commands_for(&self, changes: &[Change]) -> Commands {
        let changed = |set: &SetName| !self.live.has(set) && changes.iter().any(|change| change.set == *set);
        let some = self.commands.iter().filter(|(set, _)| changed(set));
        some.map(|(set, commands)| (set.clone(), commands.clone())).collect()
    }

    /// Waits for commands of the sets, on a blocking thread. None: the role ends, and the commands are killed.
    pub(crate) fn wait_for_commands<T>(&self, commands: impl Future<Output = T>) -> Option<T> {
        let mut stop = self.stop.clone();
        Handle::current().block_on(async {
            tokio::select! {
                done = commands => Some(done),
                () = stopped(&mut stop) => None,
            }
        })
    }

    /// The secret files that commands of the sets may see.
    pub(crate) fn secrets(&self) -> Secrets {
        Secrets::new(self.record.borrow().record(), self.sets.iter().cloned().chain(self.live.paths()))
    }

    /// Tells the monitor. Where nobody listens any more, this process is stopping.
    pub(crate) fn see(&self, event: Event) {
        if let Event::Server(server, observation) = &event {
            self.reached.send_if_modified(|reached| reached.observe(server, observation));
            self.rollouts.observe(server, observation);
            self.forgets.observe(server, observation);
        }
        let _ = self.events.send(event);
    }

    /// The trees of the last hour. Only the publisher changes them.
    pub(crate) fn guard(&self) -> MutexGuard<'_, Guard> {
        locked(&self.guard)
    }

    /// The programs of this server and of those that have been reached since this manager started.
    pub(crate) fn programs(&self) -> MutexGuard<'_, Programs> {
        locked(&self.programs)
    }

    /// The server to which the role is being handed over, if there is one.
    pub(crate) fn handing(&self) -> MutexGuard<'_, Option<ServerName>> {
        locked(&self.handing)
    }

    /// Checks that this manager may change anything.
    ///
    /// # Errors
    /// The reason and the next step: another server leads in the same epoch.
    pub(crate) fn undisputed(&self) -> Result<(), Arc<str>> {
        self.group.disputes().borrow().clone().map_or(Ok(()), Err)
    }

    /// Reports a server that has seen a newer record, so that the agent asks it. One hint is enough.
    pub(crate) fn is_behind(&self, server: &ServerName) {
        let _ = self.newer.try_send(server.clone());
    }

    /// Reports the proof that this manager's state went back, so that the agent stops this manager.
    pub(crate) fn halt(&self, halt: Halt) {
        (self.halt)(halt);
    }

    /// The revisions in `seen` that an earlier manager made and no history on this server has. Blocks.
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

    /// The sets of the record on this server where they are edited, under its rules.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.guard_roots(sources(self.record.borrow().record(), &self.sets))
    }

    /// The sources, which are trusted only if their roots are the known ones. The known root of a set is at its path, so a
    /// directory in which the set is edited has none.
    pub(crate) fn guard_roots(&self, sources: Vec<Source>) -> Vec<Source> {
        let mut sources = self.roots.guard(sources);
        sources.iter_mut().filter(|source| self.live.has(&source.rules.name)).for_each(|source| source.root = None);
        sources
    }

    /// Changes the record, one change at a time. It is signed and durable before any server sees it or this returns.
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
        // The guard goes with the save: no other record of this version is signed before, even if the caller is gone.
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
