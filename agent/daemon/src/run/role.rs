//! This server's role in its group, and its changes while the agent runs (W18, W24, W26).
//!
//! One task, `Roles::run`, follows the source of leadership (`Leadership`) and runs the role that this gives: the manager's
//! tasks ([`bellwether_manager`]), or the member's thread with the watch that feeds it ([`bellwether_member`]). A disabled
//! server is a member that is sent nothing. If the role or the manager's epoch changes, the old role's tasks end, and after
//! that the new role's tasks begin. Ports, sockets and services stay: they read the `standing` watch, which only this task
//! writes. Readiness does not change in between, because the sets do not change with the role.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bellwether_group::halt::Halt;
use bellwether_local::prove::Commands;
use bellwether_manager::{
    Dial, Dialling, Manager, StartError,
    balancer::Locals,
    begin::{self, rebuild},
    procedures::store::ProcedureStore,
    tasks::Alarm,
};
use bellwether_member::{self, Input};
use bellwether_proto::{
    error::chain,
    key::{KeyPair, PublicKey},
    name::{ServerName, SetName},
    ready::Ready,
    record::{Confirmation, Server},
    revision::SignedHeader,
    status::{Event, Observation},
    v1::RebuildReply,
};
use bellwether_store::{
    state::{known_heads::KnownHeads, layout::Layout, record::GroupRecord},
    tree::Tree,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    config::Config,
    net::{peers::Peers, tls},
    run::{
        leadership::{Duty, Leadership},
        rebuild::{Ground, Refused},
    },
    services::link::ManagerLink,
};

/// The capacity of the channel to the member's thread.
const INPUTS: usize = 4;
/// The pause before a role that could not begin is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The time limit for the end of the member's thread when the agent stops.
const STRAGGLER: Duration = Duration::from_secs(20);

/// This server's present role, with the handles that the services need.
#[derive(Clone)]
pub(crate) enum Standing {
    /// Between two roles.
    Changing,
    /// This server leads.
    Manager(Manager),
    /// This server follows, and forwards changes to the manager.
    Member(Arc<Following>),
    /// The record makes this server the manager, but it cannot or must not lead (W13, W14), for this reason.
    Halted(Arc<str>),
}

/// A member, for the services.
pub(crate) struct Following {
    /// The link to the manager.
    pub(crate) link: ManagerLink,
    /// The channel to the member's thread.
    pub(crate) inputs: mpsc::Sender<Input>,
    /// True when the role ends.
    pub(crate) stop: watch::Receiver<bool>,
    sessions: watch::Sender<usize>,
}

impl Following {
    /// Counts a manager's stream as open until the result is dropped.
    pub(crate) fn enter(&self) -> Open {
        self.sessions.send_modify(|sessions| *sessions += 1);
        Open(self.sessions.clone())
    }

    /// Whether a manager's stream is open.
    pub(crate) fn is_led(&self) -> bool {
        *self.sessions.borrow() > 0
    }
}

/// One open stream of a manager.
pub(crate) struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|sessions| *sessions -= 1);
    }
}

/// Everything that a role needs.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) key: Arc<KeyPair>,
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) ready: watch::Sender<Ready>,
    pub(crate) seen: Arc<KnownHeads>,
    /// The number of manager's streams that are open at this member.
    pub(crate) sessions: watch::Sender<usize>,
    /// Servers that have seen a newer record.
    pub(crate) newer: mpsc::Sender<ServerName>,
    /// The procedures.
    pub(crate) procedure_store: Arc<ProcedureStore>,
    /// The balancers in agent.toml.
    pub(crate) balancers: Locals,
    pub(crate) peers: Arc<Peers>,
    /// This server's incarnation.
    pub(crate) incarnation: u64,
    /// The revisions that other servers have seen, from the survey before this server leads for the first time.
    pub(crate) claims: Vec<(ServerName, Vec<SignedHeader>)>,
    /// Requests to rebuild the group.
    pub(crate) rebuilds: mpsc::Receiver<Rebuilding>,
    /// Raised if a task of a role ends too early.
    pub(crate) alarm: Alarm,
}

/// The kind of a rebuild.
pub(crate) enum Order {
    /// Rebuilds the group from the directories on this server (W13, W14), and refuses these keys.
    Here(Vec<PublicKey>),
    /// Follows a group that was rebuilt on another server.
    Confirm(Confirmation),
}

/// A request to rebuild the group, to follow a rebuilt one, or only to show the consequences.
pub(crate) struct Rebuilding {
    pub(crate) order: Order,
    pub(crate) author: String,
    pub(crate) dry_run: bool,
    pub(crate) answer: oneshot::Sender<Result<RebuildReply, Refused>>,
}

/// The role does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    #[error(transparent)]
    Start(#[from] bellwether_manager::StartError),
    #[error(transparent)]
    Halted(Box<Halt>),
    #[error(transparent)]
    Open(#[from] bellwether_member::OpenError),
    #[error(transparent)]
    State(#[from] bellwether_store::state::file::StateFileError),
    #[error("rebuilding the group was interrupted and cannot be completed")]
    Rebuild(#[from] rebuild::RebuildError),
    #[error(transparent)]
    Stopping(#[from] tokio::task::JoinError),
}

impl BeginError {
    /// Whether only a rebuild of the group helps, and no further try.
    fn stays(&self) -> bool {
        use bellwether_manager::StartError as S;
        match self {
            Self::Halted(_) => true,
            Self::Start(S::NoRevision(_) | S::Damaged(_) | S::LeftOut { .. } | S::WentBack(_) | S::History(_)) => true,
            Self::Start(
                S::NotManager(_)
                | S::Epoch { .. }
                | S::Tokens(_)
                | S::Roots(_)
                | S::Rollout(_)
                | S::Batch(_)
                | S::Sources(_)
                | S::Path { .. }
                | S::Recovery(_)
                | S::Stopping,
            ) => false,
            Self::Open(_) | Self::State(_) | Self::Rebuild(_) | Self::Stopping(_) => false,
        }
    }
}

/// The tasks of a role.
enum Running {
    Manager(Manager),
    Member { inputs: mpsc::Sender<Input>, watching: JoinHandle<()>, thread: JoinHandle<()> },
}

/// Runs this server's roles, one after the other.
pub(crate) struct Roles<L> {
    parts: Parts,
    leadership: L,
    standing: watch::Sender<Standing>,
    duty: Duty,
    running: Option<(watch::Sender<bool>, Running)>,
    /// This server cannot lead, and does not try again by itself.
    halted: bool,
    /// Whether the monitor was told that this server cannot lead.
    told: bool,
}

impl<L: Leadership> Roles<L> {
    /// Begins this server's present role.
    ///
    /// # Errors
    /// The role cannot begin.
    pub(crate) async fn begin(
        parts: Parts,
        mut leadership: L,
        standing: watch::Sender<Standing>,
    ) -> Result<Self, BeginError> {
        let duty = leadership.duty();
        let mut roles = Self { parts, leadership, standing, duty, running: None, halted: false, told: false };
        match (roles.take_up().await, duty) {
            (Ok(()), _) => {}
            // A manager that cannot lead says so, and waits for a person (W13).
            (Err(error), Duty::Lead(_)) => roles.not_begun(error).await,
            (Err(error), Duty::Follow) => return Err(error),
        }
        Ok(roles)
    }

    /// Follows the leadership until `stop`, and ends the role before it returns.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut halts = self.parts.peers.halts();
        loop {
            let duty = self.leadership.duty();
            if duty != self.duty || (self.running.is_none() && !self.halted) {
                self.change(duty).await;
            }
            let halt = halts.borrow_and_update().clone();
            if let Some(halt) = halt.filter(|_| !self.halted && matches!(duty, Duty::Lead(_))) {
                self.standing.send_replace(Standing::Changing);
                self.lay_down(None).await;
                self.not_begun(BeginError::Halted(Box::new(halt))).await;
            }
            // Every branch may be cancelled: a message from a channel is handled after the `select`.
            let asked = tokio::select! {
                () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
                there = self.leadership.changed() => match there {
                    true => None,
                    false => break,
                },
                changed = halts.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => break,
                },
                Some(asked) = self.parts.rebuilds.recv() => Some(asked),
                () = tokio::time::sleep(RETRY), if self.running.is_none() && !self.halted => None,
            };
            if let Some(asked) = asked {
                self.rebuild(asked).await;
            }
        }
        self.standing.send_replace(Standing::Changing);
        self.lay_down(Some(STRAGGLER)).await;
    }

    /// Must not be cancelled: the old role ends completely before the new one touches the sets or the history.
    async fn change(&mut self, duty: Duty) {
        self.standing.send_replace(Standing::Changing);
        self.lay_down(None).await;
        self.duty = duty;
        tracing::info!(role = ?duty, "this server's role changes");
        if let Err(error) = self.take_up().await {
            self.not_begun(error).await;
        }
    }

    /// Reports that the role cannot begin. A manager waits for a person if only a rebuild helps, and otherwise tries again.
    async fn not_begun(&mut self, error: BeginError) {
        self.halted = error.stays() && matches!(self.duty, Duty::Lead(_));
        let reason = match error {
            BeginError::Halted(halt) | BeginError::Start(StartError::WentBack(halt)) => self.halt(*halt).await,
            error if self.halted => {
                let cause = chain(&error);
                format!(
                    "this manager cannot lead: {cause}; nothing is published, changed or sent; rebuild the group: \
                     bellwether group rebuild"
                )
            }
            error => format!("this server's role cannot begin: {}; the agent tries again by itself", chain(&error)),
        };
        self.told = true;
        tracing::error!(reason, "this server has no role");
        self.parts.ready.send_replace(Ready::no(&reason));
        self.tell(Observation::Failed(reason.clone()));
        if matches!(self.duty, Duty::Lead(_)) {
            self.standing.send_replace(Standing::Halted(reason.into()));
        }
    }

    /// Finds the revisions that this manager's history lacks, and notes the halt for the next starts.
    async fn halt(&self, halt: Halt) -> String {
        let Parts { layout, record, peers, .. } = &self.parts;
        let state = layout.state().to_owned();
        let kept = tokio::task::spawn_blocking(move || rebuild::kept(&state)).await.ok().and_then(Result::ok);
        let kept = kept.unwrap_or_default();
        let mut halt = Halt { head: kept.newest.as_ref().map(SignedHeader::number), ..halt };
        let witness = peers.others().into_iter().find(|server| server.name == halt.witness);
        if let Some(witness) = witness
            && let Ok(answer) = peers.clone().answer_of(witness).await
        {
            let headers: Vec<_> = answer.seen.into_iter().chain(answer.at).collect();
            let (group, own) = (record.current().record().group, record.own_key());
            halt = halt.lacking(&headers, |header| {
                kept.lacks(header) && header.header().group == group && header.signed_by(&own)
            });
        }
        let reason = halt.to_string();
        let state = layout.state().to_owned();
        let saved = tokio::task::spawn_blocking(move || begin::halt::save(&state, &halt)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(error = chain(&error), "the halt could not be noted for the next start");
        }
        reason
    }

    /// Rebuilds the group. Must not be cancelled, since no role runs meanwhile.
    async fn rebuild(&mut self, asked: Rebuilding) {
        let Rebuilding { order, author, dry_run, answer } = asked;
        let answered = match order {
            Order::Here(refused) => self.rebuild_here(&refused, author, dry_run).await,
            Order::Confirm(token) => self.follow_rebuilt(&token, dry_run).await,
        };
        if self.running.is_none() && !self.halted {
            let duty = self.leadership.duty();
            self.change(duty).await;
        }
        // If the command has ended, the work is done nevertheless.
        let _ = answer.send(answered);
    }

    async fn rebuild_here(
        &mut self,
        keys: &[PublicKey],
        author: String,
        dry_run: bool,
    ) -> Result<RebuildReply, Refused> {
        let ground = self.ground();
        if let Some(done) = ground.refused_already(keys) {
            return Ok(done);
        }
        let found = ground.survey(keys).await?;
        if dry_run {
            return Ok(crate::run::rebuild::reply(&found, None, keys));
        }
        self.standing.send_replace(Standing::Changing);
        self.lay_down(None).await;
        self.halted = false;
        let formed = ground.form(&found, author, keys).await?;
        self.parts.peers.go_on();
        Ok(crate::run::rebuild::reply(&found, Some(&formed), keys))
    }

    async fn follow_rebuilt(&mut self, token: &Confirmation, dry_run: bool) -> Result<RebuildReply, Refused> {
        let ground = self.ground();
        let rebuilt = ground.rebuilt_elsewhere(token).await?;
        if dry_run || rebuilt.is_followed() {
            return Ok(rebuilt.reply(None));
        }
        self.standing.send_replace(Standing::Changing);
        self.lay_down(None).await;
        self.halted = false;
        let kept = ground.follow(&rebuilt).await?;
        self.parts.peers.go_on();
        Ok(rebuilt.reply(kept))
    }

    fn ground(&self) -> Ground {
        let Parts { config, layout, key, record, peers, incarnation, .. } = &self.parts;
        Ground {
            layout: layout.clone(),
            key: key.clone(),
            record: record.clone(),
            peers: peers.clone(),
            sets: config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect(),
            incarnation: *incarnation,
        }
    }

    fn tell(&self, observation: Observation) {
        let _ = self.parts.events.send(Event::Server(self.parts.config.name.clone(), observation));
    }

    async fn take_up(&mut self) -> Result<(), BeginError> {
        self.finish_rebuild().await?;
        let (stop, stopped) = watch::channel(false);
        let (standing, running) = match self.duty {
            Duty::Lead(_) => self.lead(stopped).await?,
            Duty::Follow => self.follow(stopped).await?,
        };
        self.running = Some((stop, running));
        if std::mem::take(&mut self.told)
            && let Standing::Manager(manager) = &standing
        {
            // This clears the reason for which this server could not lead.
            let revision = manager.head().number();
            self.tell(Observation::Done { revision, micros: 0, kept: Vec::new() });
        }
        self.standing.send_replace(standing);
        self.halted = false;
        Ok(())
    }

    /// Completes an interrupted `group rebuild` before this server leads, or removes its rest (W13).
    async fn finish_rebuild(&self) -> Result<(), BeginError> {
        let (state, record) = (self.parts.layout.state().to_owned(), self.parts.record.current());
        if tokio::task::spawn_blocking(move || rebuild::finish(&state, &record)).await?? {
            self.parts.peers.go_on();
        }
        Ok(())
    }

    async fn lead(&mut self, stop: watch::Receiver<bool>) -> Result<(Standing, Running), BeginError> {
        let claims = std::mem::take(&mut self.parts.claims);
        let Parts { config, layout, key, record, events, ready, newer, peers, incarnation, procedure_store, .. } =
            &self.parts;
        let halted = begin::halt::load(layout.state())?.or_else(|| peers.halts().borrow().clone());
        if let Some(halt) = halted {
            return Err(BeginError::Halted(Box::new(halt)));
        }
        let halting = peers.clone();
        let setup = bellwether_manager::Setup {
            name: config.name.clone(),
            key: key.clone(),
            sets: config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect(),
            edited: edited(config),
            commands: commands(config),
            group: record.clone(),
            at: bellwether_member::held_before(layout)?,
            incarnation: *incarnation,
            dial: Arc::new(TlsDial(key.clone())),
            events: events.clone(),
            newer: newer.clone(),
            halt: Box::new(move |halt| halting.halt(halt)),
            seen: claims,
            timings: bellwether_manager::Timings::default(),
            balancers: self.parts.balancers.clone(),
            procedure_store: procedure_store.clone(),
            alarm: self.parts.alarm.clone(),
        };
        let manager = Manager::start(setup, stop).await?;
        // From here on, the sets hold the history's newest revision.
        bellwether_member::note_leading(&manager.log())?;
        ready.send_replace(Ready::yes("the manager"));
        Ok((Standing::Manager(manager.clone()), Running::Manager(manager)))
    }

    async fn follow(&self, stop: watch::Receiver<bool>) -> Result<(Standing, Running), BeginError> {
        let Parts { config, layout, key, record, events, ready, seen, sessions, peers, incarnation, .. } = &self.parts;
        // This server follows, so a proof against it as a manager counts no more.
        peers.go_on();
        if let Err(error) = begin::halt::clear(layout.state()) {
            tracing::warn!(%error, "the note that this manager is halted cannot be removed");
        }
        let (inputs, received) = mpsc::channel(INPUTS);
        let tree = Arc::<arc_swap::ArcSwap<Tree>>::default();
        let setup = bellwether_member::Setup {
            name: config.name.clone(),
            paths: paths(config),
            edited: edited(config),
            commands: commands(config),
            layout: layout.clone(),
            record: record.clone(),
            events: events.clone(),
            ready: ready.clone(),
            tree: tree.clone(),
            seen: seen.clone(),
            incarnation: *incarnation,
        };
        let own = inputs.clone();
        let mut member = tokio::task::spawn_blocking(move || bellwether_member::Member::open(setup, &own)).await??;
        self.tell_superseded();
        let alarm = &self.parts.alarm;
        let watching = alarm.spawn("watch", &stop, member.watch(inputs.clone(), &stop));
        let thread = alarm.spawn_blocking("member", &stop, move || member.run(received));
        let link =
            ManagerLink::new(key.clone(), record.clone(), tree, bellwether_member::Hand::new(&inputs), *incarnation);
        let following = Following { link, inputs: inputs.clone(), stop, sessions: sessions.clone() };
        Ok((Standing::Member(Arc::new(following)), Running::Member { inputs, watching, thread }))
    }

    /// Tells this server's monitor, too, that this server led and another one took over without it (W26).
    fn tell_superseded(&self) {
        let Parts { config, key, record, events, seen, .. } = &self.parts;
        let Some(at) = seen.at() else { return };
        let (epoch, own) = (at.number().epoch, key.public());
        if !at.signed_by(&own) || record.ended_by(epoch).is_none_or(|signer| signer == own) {
            return;
        }
        let _ = events.send(Event::Led { server: config.name.clone(), epoch });
    }

    /// Ends the role and waits for its tasks; the wait for the member's thread is limited by `patience`.
    async fn lay_down(&mut self, patience: Option<Duration>) {
        let Some((stop, running)) = self.running.take() else { return };
        stop.send_replace(true);
        match running {
            Running::Manager(manager) => manager.stopped().await,
            Running::Member { inputs, watching, thread } => {
                // An error means that the thread has ended.
                let ended = async {
                    let _ = inputs.send(Input::End).await;
                    let _ = watching.await;
                    let _ = thread.await;
                };
                match patience {
                    None => ended.await,
                    Some(patience) if timeout(patience, ended).await.is_err() => {
                        tracing::warn!("the member's thread is still busy; the next start completes its work");
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// The commands of the sets that have any on this server.
pub(super) fn commands(config: &Config) -> Commands {
    let some = config.sets.iter().filter(|set| !set.commands.is_empty());
    some.map(|set| (set.name.clone(), set.commands.clone())).collect()
}

/// The path of each set on this server.
pub(crate) fn paths(config: &Config) -> BTreeMap<SetName, PathBuf> {
    config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect()
}

/// The directories in which sets are edited while this server is the manager, where these are not the sets' paths.
pub(crate) fn edited(config: &Config) -> BTreeMap<SetName, PathBuf> {
    config.sets.iter().filter_map(|set| Some((set.name.clone(), set.source.clone()?))).collect()
}

struct TlsDial(Arc<KeyPair>);

impl Dial for TlsDial {
    fn dial(&self, server: &Server) -> Dialling {
        let (key, address, expected) = (self.0.clone(), server.address.clone(), server.key);
        Box::pin(async move {
            tls::connect(&key, &address, expected).await.map_err(|error| match error.question() {
                Some(question) => format!("{}; {question}", chain(&error)),
                None => chain(&error),
            })
        })
    }
}
