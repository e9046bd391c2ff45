//! Starts the manager: opens its history, index and tokens, then runs its tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_group::{
    halt::{Halt, Proof},
    rollback_detection::Holdings,
    tokens::Tokens,
};
use bellwether_proto::{
    clock::now_ms,
    name::{ServerName, SetName},
    record::SignedRecord,
    revision::{ACCEPTED, Epoch, Number, RevisionId, SignedHeader},
    status::Event,
};
use bellwether_store::{
    apply::{Failed, Site},
    history::{History, HistoryError, LeftOut, Stored},
    index,
    root::Roots,
    scan::{Source, sources},
    state::file::{self, StateFileError},
    tree::Tree,
    watch::{self as watching, Modes, Rescans, Watched, pending::PendingChanges},
};
use tokio::sync::{Mutex, mpsc, watch};

use crate::{
    Manager,
    balancer::Locals,
    begin::epoch,
    forget,
    lane::lanes,
    manager::Inner,
    publish::{
        adopt,
        batch::Batches,
        head::Head,
        live::{LiveLook, Lives},
        publisher::{Publisher, Times},
        round::PublishError,
        safety::{Guard, WINDOW},
        waiting::Waiting,
    },
    rollout::{self, Rollouts},
    shared::{Setup, Shared},
    tasks::Alarm,
};

/// The tokens' file in the state directory.
pub(crate) const TOKENS: &str = "tokens.json";
/// The most commands that wait for the publisher or for the lanes.
const WAITING: usize = 16;

/// The manager does not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The record names another manager.
    #[error("the manager of this group is {0}, not this server")]
    NotManager(ServerName),
    /// There is no revision.
    #[error("{0} holds no revision of this group")]
    NoRevision(PathBuf),
    /// The kept content differs from the signed one.
    #[error("revision {0} in the history is damaged: its entries do not give its root")]
    Damaged(Number),
    /// A revision that is newer than the usable ones cannot be used.
    #[error("{path}, a revision in the history, cannot be used ({why})")]
    LeftOut {
        /// Its file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// Other servers have seen revisions of this manager that it does not know.
    #[error(transparent)]
    WentBack(Box<Halt>),
    /// The history cannot be used.
    #[error("the history cannot be opened")]
    History(#[from] HistoryError),
    /// The first revision of its epoch cannot be made.
    #[error("the first revision of epoch {epoch} cannot be made")]
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// The cause.
        source: PublishError,
    },
    /// A switch was interrupted.
    #[error("an interrupted switch of the sets can be neither completed nor taken back")]
    Recovery(#[from] Failed),
    /// A state file cannot be used.
    #[error("the tokens cannot be read, or not be updated to the group record")]
    Tokens(#[from] StateFileError),
    /// The saved roots of the sets cannot be read.
    #[error("the saved roots of the sets cannot be read")]
    Roots(#[source] StateFileError),
    /// The state of the rollout cannot be read.
    #[error("the state of the rollout cannot be read")]
    Rollout(#[source] StateFileError),
    /// The note of the directories in which the sets are edited cannot be read.
    #[error("the note of the sources of the sets cannot be read")]
    Sources(#[source] StateFileError),
    /// The state of the batch cannot be read, or not be written.
    #[error("the state of the batch cannot be read, or not be written")]
    Batch(#[source] StateFileError),
    /// A set's path cannot be used.
    #[error("the path of set {set} cannot be used")]
    Path {
        /// The set.
        set: SetName,
        /// The cause.
        source: std::io::Error,
    },
    /// The runtime stops.
    #[error("the manager is stopping")]
    Stopping,
}

/// Where the sets are on this server.
struct Places {
    /// Where each is edited.
    edited: Vec<(SetName, PathBuf)>,
    /// Their own paths.
    own: Vec<(SetName, PathBuf)>,
    roots: Roots,
}

impl Places {
    /// All of them: either may have been switched.
    fn all(&self, record: &SignedRecord) -> Vec<Source> {
        let mut all = self.roots.guard(sources(record.record(), &self.own));
        let is_own = |source: &Source| self.own.iter().any(|(_, path)| *path == source.path);
        all.extend(sources(record.record(), &self.edited).into_iter().filter(|source| !is_own(source)));
        all
    }
}

struct Opened {
    history: History,
    head: Head,
    guard: Guard,
    tokens: Tokens,
    known: Tree,
    /// Whether the known entries may be trusted if a file's stat is the same.
    believed: bool,
}

impl Manager {
    /// Opens the state and runs the tasks until `shutdown` is true. Earlier edits are published once the watches are
    /// armed.
    ///
    /// # Errors
    /// No task runs.
    pub async fn start(setup: Setup, shutdown: watch::Receiver<bool>) -> Result<Manager, StartError> {
        let (led, state) = (setup.group.lead(), setup.group.layout().state().to_owned());
        let record = led.borrow().clone();
        if record.record().manager().key != setup.key.public() {
            return Err(StartError::NotManager(record.record().manager().name.clone()));
        }
        let setup = Setup { sets: absolute(setup.sets)?, ..setup };
        let epoch = record.record().version.epoch;
        let live = Lives::open(&state, &setup.sets, setup.edited.clone(), epoch).map_err(StartError::Sources)?;
        let (own, edited) = (setup.sets.clone(), live.edited(setup.sets));
        let setup = Setup { sets: edited.clone(), ..setup };
        let roots = Roots::open(&state, setup.sets.iter().map(|(set, _)| set.clone())).map_err(StartError::Roots)?;
        let rollouts = Rollouts::open(&state).map_err(StartError::Rollout)?;
        let batch = Batches::open(&state).map_err(StartError::Batch)?;
        let places = Places { edited, own, roots: roots.clone() };
        let (here, at) = (record.clone(), setup.at);
        let opened = tokio::task::spawn_blocking(move || open(&state, &places, &here, at)).await;
        let Opened { history, head, guard, tokens, known, believed } = opened.map_err(|_| StartError::Stopping)??;
        went_back(&record, &history, &head, &setup.seen)?;
        let (balancers, alarm) = (setup.balancers.clone(), setup.alarm.clone());
        let shared =
            Arc::new(Shared::new(setup, roots, led, (head, history, guard), (rollouts, batch, live), shutdown.clone()));
        let begun = shared.clone();
        let begin = move || {
            if let Err(error) = begun.sessions.tidy(begun.record.borrow().record()) {
                tracing::warn!(%error, "tickets of servers that are gone are still kept");
            }
            epoch::begin(&begun)
        };
        tokio::task::spawn_blocking(begin).await.map_err(|_| StartError::Stopping)??;
        shared.batch.begin(&shared.head.borrow().stored.header).map_err(StartError::Batch)?;
        shared.rollouts.begin(shared.record.borrow().record(), &shared.head.borrow().stored.header);
        tell(&shared);
        Ok(run(shared, tokens, balancers, (known, believed), &alarm, &shutdown))
    }
}

fn absolute(sets: Vec<(SetName, PathBuf)>) -> Result<Vec<(SetName, PathBuf)>, StartError> {
    let absolute = |(set, path): (SetName, PathBuf)| match std::path::absolute(&path) {
        Ok(path) => Ok((set, path)),
        Err(source) => Err(StartError::Path { set, source }),
    };
    sets.into_iter().map(absolute).collect()
}

/// Whether others have seen a revision of this epoch, signed by this manager, that the history lacks.
fn went_back(
    record: &SignedRecord,
    history: &History,
    head: &Head,
    seen: &[(ServerName, Vec<SignedHeader>)],
) -> Result<(), StartError> {
    let has = |id| history.get(id).is_some();
    let holdings = holdings(history, head.stored.header.number(), &has);
    for (witness, headers) in seen {
        if let Some(lost) = headers.iter().rfind(|header| holdings.lack(record.record(), header)) {
            return Err(StartError::WentBack(Box::new(Halt::new(witness.clone(), Proof::Revision(lost.number())))));
        }
    }
    Ok(())
}

/// The revisions of its epoch in `history`, up to its newest, `head`; `has` tells whether it has one. If damaged packs
/// were left out, revisions older than the head may be among them.
pub(crate) fn holdings<'a>(history: &History, head: Number, has: &'a dyn Fn(RevisionId) -> bool) -> Holdings<'a> {
    let of_epoch = history.all().map(|stored| stored.header.number()).filter(|number| number.epoch == head.epoch);
    let oldest = of_epoch.min().filter(|_| history.left_out().is_empty()).unwrap_or(head);
    Holdings { head, oldest, has }
}

fn open(
    state: &std::path::Path,
    places: &Places,
    record: &SignedRecord,
    at: Option<RevisionId>,
) -> Result<Opened, StartError> {
    let mut tokens: Tokens = file::load(&state.join(TOKENS))?.unwrap_or_default();
    if tokens.settle(record.record()) {
        file::save(&state.join(TOKENS), &tokens)?;
    }
    let mut history = History::open(&state.join("history"))?;
    let server = record.record().manager().key;
    let sources_here = places.all(record);
    let (log, idle) = (history.log().clone(), Arc::default());
    let site = Site { sources: sources_here, state: state.to_owned(), log, idle, server };
    let at = adopt::recover(&site, at, &history)?.or(at);
    if let Err(error) = history.settle(true) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the newest revisions stay in the log");
    }
    let newest = history.head().filter(|head| head.header.number().epoch == record.record().version.epoch);
    // A pack newer than the sets' revision was refused here, or not switched to.
    let stored = newest.or_else(|| history.get(at?)).or_else(|| history.head()).cloned();
    let stored = stored.ok_or_else(|| StartError::NoRevision(state.join("history")))?;
    let newer = |left: &&LeftOut| left.sequence > stored.header.number().sequence;
    if let Some(LeftOut { path, why, .. }) = history.left_out().iter().find(newer) {
        return Err(StartError::LeftOut { path: path.clone(), why: why.clone() });
    }
    let rules: Vec<_> = sources(record.record(), &places.edited).into_iter().map(|source| source.rules).collect();
    let loaded = index::load(&state.join("index"), &rules);
    let root = stored.header.header().root;
    let (tree, known, believed) = match loaded {
        // One tree in memory: the sets hold the head.
        Some(loaded) if loaded.tree.root() == root => (loaded.tree.clone(), loaded.tree, loaded.same_boot),
        Some(loaded) => (head_tree(&history, &stored)?, loaded.tree, loaded.same_boot),
        None => {
            let tree = head_tree(&history, &stored)?;
            // Its stats are unknown, so every file is read anyway.
            (tree.clone(), tree, true)
        }
    };
    let guard = guard(&history, &stored, Arc::new(tree.clone()));
    Ok(Opened { head: Head::new(stored, Arc::new(tree), Instant::now()), guard, history, tokens, known, believed })
}

/// The guard for the revisions of the last hour in the history: from the newest older one, or from one that a person
/// accepted, as far as the history goes back.
fn guard(history: &History, head: &Arc<Stored>, tree: Arc<Tree>) -> Guard {
    let (now, now_ms) = (Instant::now(), now_ms());
    let age = |stored: &Stored| Duration::from_millis(now_ms.saturating_sub(stored.header.header().time_ms));
    let from = |stored: &Stored| now.checked_sub(age(stored)).unwrap_or(now);
    let over = |stored: &Stored| age(stored) >= WINDOW || stored.header.header().labels.contains_key(ACCEPTED);
    let mut before = head;
    while !over(before)
        && let Some(parent) = before.header.header().parent.and_then(|parent| history.get(parent))
    {
        before = parent;
    }
    if before.header.id() == head.header.id() {
        return Guard::new(tree, from(head));
    }
    match history.tree(before.header.id()) {
        Ok(old) => Guard::resumed((old, from(before)), tree, from(head)),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the revisions of the last hour cannot be read: removals count from now on");
            Guard::new(tree, from(head))
        }
    }
}

fn head_tree(history: &History, head: &Stored) -> Result<Tree, StartError> {
    let tree = history.tree(head.header.id())?;
    if tree.root() == head.header.header().root { Ok(tree) } else { Err(StartError::Damaged(head.header.number())) }
}

fn tell(shared: &Shared) {
    let head = shared.head.borrow();
    let header = head.stored.header.header();
    let message = header.message.clone();
    shared.see(Event::Head { number: header.number, time_ms: header.time_ms, message });
}

fn run(
    shared: Arc<Shared>,
    tokens: Tokens,
    balancers: Locals,
    (known, believed): (Tree, bool),
    alarm: &Alarm,
    shutdown: &watch::Receiver<bool>,
) -> Manager {
    let (commands, to_publisher) = mpsc::channel(WAITING);
    let (lanes, to_lanes) = mpsc::channel(WAITING);
    let (modes, watched) = watch::channel(Modes::default());
    let (rescans, found, files) = Rescans::new();
    let dirty = Arc::new(PendingChanges::default());
    let full: Duration = shared.timings.full_hash;
    let publisher = Publisher {
        shared: shared.clone(),
        dirty: dirty.clone(),
        known,
        modes: watched,
        rescans,
        notices: BTreeSet::new(),
        waiting: Waiting::default(),
        means: BTreeMap::new(),
        links: BTreeSet::new(),
        told: Vec::new(),
        unpublished: None,
        failures: 0,
        proving: Default::default(),
        pending: false,
        early: None,
        batch: Default::default(),
        live: LiveLook::new(Instant::now()),
        searched: Default::default(),
        times: Times::new(Instant::now(), !believed, full),
    };
    let (record, sets, events) = (shared.record.clone(), shared.sets.clone(), shared.events.clone());
    let to_watch = Watched { record, sets, events, found, files };
    let tasks = vec![
        ("watch", alarm.spawn("watch", shutdown, watching::run(to_watch, dirty, modes, shutdown.clone()))),
        ("publisher", alarm.spawn("publisher", shutdown, publisher.run(to_publisher, shutdown.clone()))),
        ("forget", alarm.spawn("forget", shutdown, forget::run(shared.clone(), commands.clone(), shutdown.clone()))),
        ("rollout", alarm.spawn("rollout", shutdown, rollout::run(shared.clone(), commands.clone(), shutdown.clone()))),
        ("lanes", alarm.spawn("lanes", shutdown, lanes::run(shared.clone(), to_lanes, shutdown.clone()))),
    ];
    let (tokens, tasks) = (Arc::new(Mutex::new(tokens)), Mutex::new(tasks));
    Manager { inner: Arc::new(Inner { shared, commands, lanes, balancers, previews: Arc::default(), tokens, tasks }) }
}
