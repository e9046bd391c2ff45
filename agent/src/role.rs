//! What this server is in its group, and how that changes while it runs (W18, W24, W26).
//!
//! One task, [`Roles::run`], follows the group record and runs the role that it gives this server: the manager's tasks
//! ([`bellwether_manager`]), or the member's thread with the watch that feeds it ([`crate::member`]); a disabled server is
//! a member that is sent nothing. When the record changes the role, or the manager's epoch, the old one's tasks end, then
//! the new one's begin. Ports, sockets and services stay: they look at the `standing` watch, which this task alone
//! writes. Readiness stays as it was in between: a role says nothing of what the sets hold.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bellwether_manager::{Dial, Dialling, Manager};
use bellwether_monitor::http::Ready;
use bellwether_proto::{
    key::{KeyPair, PublicKey},
    name::{ServerName, SetName},
    record::{Record, Server},
    revision::Epoch,
    status::{Event, Observation},
};
use bellwether_store::tree::Tree;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    config::Config,
    error::chain,
    group::GroupRecord,
    incarnation,
    layout::Layout,
    member::{self, Input},
    seen::Seen,
    services::link::ManagerLink,
    tls,
};

/// Inputs that may wait for the member's thread.
const INPUTS: usize = 4;
/// Until a role that could not begin is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the member's thread may take to end when the agent stops.
const STRAGGLER: Duration = Duration::from_secs(20);

/// What this server is now, with what the services need for it.
#[derive(Clone)]
pub(crate) enum Standing {
    /// Between two roles.
    Changing,
    /// It owns the configuration.
    Manager(Manager),
    /// It follows; changes asked of it go to the manager.
    Member(Arc<Following>),
}

/// A member, as the services see it.
pub(crate) struct Following {
    /// To its manager.
    pub(crate) link: ManagerLink,
    /// To its thread.
    pub(crate) inputs: mpsc::Sender<Input>,
    /// The role ends.
    pub(crate) stop: watch::Receiver<bool>,
    sessions: watch::Sender<usize>,
}

impl Following {
    /// A manager's stream is open, until what is returned is dropped.
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

/// What a role is begun with.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) key: Arc<KeyPair>,
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) ready: watch::Sender<Ready>,
    pub(crate) seen: Arc<Seen>,
    /// Manager's streams that are open at this member.
    pub(crate) sessions: watch::Sender<usize>,
    /// Servers that have seen a newer record.
    pub(crate) newer: mpsc::Sender<ServerName>,
}

/// Why a role does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    #[error(transparent)]
    Start(#[from] bellwether_manager::StartError),
    #[error(transparent)]
    Open(#[from] member::OpenError),
    #[error(transparent)]
    State(#[from] bellwether_store::state_file::StateFileError),
    #[error(transparent)]
    Stopping(#[from] tokio::task::JoinError),
}

/// What the record makes of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Lead(Epoch),
    Follow,
}

impl Duty {
    fn of(record: &Record, own: &PublicKey) -> Self {
        if record.manager().key == *own { Self::Lead(record.version.epoch) } else { Self::Follow }
    }
}

/// The tasks of a role.
enum Running {
    Manager(Manager),
    Member { inputs: mpsc::Sender<Input>, watching: JoinHandle<()>, thread: JoinHandle<()> },
}

/// Runs the roles of this server, one after the other.
pub(crate) struct Roles {
    parts: Parts,
    standing: watch::Sender<Standing>,
    duty: Duty,
    running: Option<(watch::Sender<bool>, Running)>,
}

impl Roles {
    /// Begins the role that the record gives this server now.
    ///
    /// # Errors
    /// It cannot begin.
    pub(crate) async fn begin(parts: Parts, standing: watch::Sender<Standing>) -> Result<Self, BeginError> {
        let duty = Duty::of(parts.record.current().record(), &parts.key.public());
        let mut roles = Self { parts, standing, duty, running: None };
        roles.take_up().await?;
        Ok(roles)
    }

    /// Follows the record until `stop`; then the role has ended.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut record = self.parts.record.follow();
        loop {
            let duty = Duty::of(record.borrow_and_update().record(), &self.parts.key.public());
            if duty != self.duty || self.running.is_none() {
                self.change(duty).await;
            }
            // Every branch may be cancelled: nothing is taken from a channel.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = record.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(RETRY), if self.running.is_none() => {}
            }
        }
        self.standing.send_replace(Standing::Changing);
        self.lay_down(Some(STRAGGLER)).await;
    }

    /// Not to be cancelled: the old role has ended completely before the new one touches the sets or the history.
    async fn change(&mut self, duty: Duty) {
        self.standing.send_replace(Standing::Changing);
        self.lay_down(None).await;
        self.duty = duty;
        tracing::info!(role = ?duty, "this server's role changes");
        if let Err(error) = self.take_up().await {
            let reason = chain(&error);
            tracing::error!(reason, "the role cannot begin; it is tried again");
            let failed = Observation::Failed(format!("its role cannot begin: {reason}"));
            let _ = self.parts.events.send(Event::Server(self.parts.config.name.clone(), failed));
        }
    }

    async fn take_up(&mut self) -> Result<(), BeginError> {
        let (stop, stopped) = watch::channel(false);
        let (standing, running) = match self.duty {
            Duty::Lead(_) => self.lead(stopped).await?,
            Duty::Follow => self.follow(stopped).await?,
        };
        self.running = Some((stop, running));
        self.standing.send_replace(standing);
        Ok(())
    }

    async fn lead(&self, stop: watch::Receiver<bool>) -> Result<(Standing, Running), BeginError> {
        let Parts { config, layout, key, record, events, ready, newer, .. } = &self.parts;
        let saving = record.clone();
        let setup = bellwether_manager::Setup {
            name: config.name.clone(),
            key: key.clone(),
            sets: config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect(),
            state: layout.state().to_owned(),
            record: record.current().as_ref().clone(),
            chain: record.chain(),
            at: member::held_before(layout)?,
            incarnation: incarnation::next(layout)?,
            dial: Arc::new(TlsDial(key.clone())),
            events: events.clone(),
            newer: newer.clone(),
            save_record: Box::new(move |new| saving.save(new)),
            timings: bellwether_manager::Timings::default(),
            balancers: bellwether_manager::balancer::Locals::new(config.balancers.iter().cloned()),
        };
        let manager = Manager::start(setup, stop).await?;
        // From here on the history's newest revision is what the sets hold.
        member::note_leading(layout)?;
        ready.send_replace(Ready::yes("the manager"));
        Ok((Standing::Manager(manager.clone()), Running::Manager(manager)))
    }

    async fn follow(&self, stop: watch::Receiver<bool>) -> Result<(Standing, Running), BeginError> {
        let Parts { config, layout, key, record, events, ready, seen, sessions, .. } = &self.parts;
        let (inputs, received) = mpsc::channel(INPUTS);
        let tree = Arc::<arc_swap::ArcSwap<Tree>>::default();
        let setup = member::Setup {
            name: config.name.clone(),
            paths: paths(config),
            layout: layout.clone(),
            record: record.clone(),
            events: events.clone(),
            ready: ready.clone(),
            tree: tree.clone(),
            seen: seen.clone(),
        };
        let member = tokio::task::spawn_blocking(|| member::Member::open(setup)).await??;
        self.tell_superseded();
        let watching = tokio::spawn(member.watch(inputs.clone(), &stop));
        let thread = tokio::task::spawn_blocking(move || member.run(received));
        let link = ManagerLink::new(key.clone(), record.clone(), tree, member::Hand::new(&inputs));
        let following = Following { link, inputs: inputs.clone(), stop, sessions: sessions.clone() };
        Ok((Standing::Member(Arc::new(following)), Running::Member { inputs, watching, thread }))
    }

    /// Says here, too, that this server led and another one took over without it (W26).
    fn tell_superseded(&self) {
        let Parts { config, key, record, events, seen, .. } = &self.parts;
        let Some(at) = seen.at() else { return };
        let (epoch, own) = (at.number().epoch, key.public());
        if !at.signed_by(&own) || record.ended_by(epoch).is_none_or(|signer| signer == own) {
            return;
        }
        let current = record.current();
        let manager = &current.record().manager().name;
        let reason = format!(
            "this server was the manager of epoch {epoch}, {manager} is that of {} now; what is here and {manager} lacks is \
             kept as a recovery point when it takes this server back (there: bellwether server enable {}, or add)",
            current.record().version.epoch,
            config.name
        );
        let _ = events.send(Event::Fenced { server: config.name.clone(), conflict: false, reason });
    }

    /// Ends the role; waits for its tasks, for the member's thread at most so long.
    async fn lay_down(&mut self, patience: Option<Duration>) {
        let Some((stop, running)) = self.running.take() else { return };
        stop.send_replace(true);
        match running {
            Running::Manager(manager) => manager.stopped().await,
            Running::Member { inputs, watching, thread } => {
                // An error: the thread has ended.
                let ended = async {
                    let _ = inputs.send(Input::End).await;
                    let _ = watching.await;
                    let _ = thread.await;
                };
                match patience {
                    None => ended.await,
                    Some(patience) if timeout(patience, ended).await.is_err() => {
                        tracing::warn!(
                            "the member's thread is still busy; what it does is completed at the next start"
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Where each set is here.
pub(crate) fn paths(config: &Config) -> BTreeMap<SetName, PathBuf> {
    config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect()
}

struct TlsDial(Arc<KeyPair>);

impl Dial for TlsDial {
    fn dial(&self, server: &Server) -> Dialling {
        let (key, address, expected) = (self.0.clone(), server.address.clone(), server.key);
        Box::pin(async move { tls::connect(&key, &address, expected).await.map_err(|e| chain(&e)) })
    }
}
