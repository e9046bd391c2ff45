//! The manager's role: its config directories are the truth; every edit becomes a signed revision that all members get.
//!
//! [`form`](form()) makes a group; [`Manager::start`] runs it. Three kinds of task, all ended by the `shutdown` watch
//! and joined by [`Manager::stopped`]:
//!
//! ```text
//! watch ──Dirty──▶ publisher ──head (watch)──▶ lanes ──▶ one lane a member ──gRPC stream──▶ member
//!                     ▲   Command (mpsc)          ▲  record (watch), ToLanes (mpsc)
//!                     └────────── Manager ────────┘        all of them ──Event (mpsc)──▶ the monitor
//! ```
//!
//! Rules are in modules of their own, without I/O: [`group`], [`roles`], [`tokens`], [`quiet`], [`safety`], [`rollout`], [`plan`],
//! [`lane::Session`], [`glob`], [`recognition`], [`takeover`], [`balancer::rules`].

// People read what `agent/src/output.rs` writes, and the log.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod adopt;
mod backoff;
pub mod balancer;
mod change;
mod dial_back;
pub mod dirty;
mod entering;
pub mod epoch;
pub mod failpoints;
mod form;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod glob;
pub mod group;
pub mod halt;
mod head;
#[cfg(test)]
mod headers;
mod inside;
pub mod lane;
mod lanes;
mod links;
pub mod lost;
mod membership;
pub mod plan;
mod preview;
pub mod procedure;
mod publish;
mod publisher;
pub mod quiet;
mod reached;
mod read;
pub mod rebuild;
pub mod recognition;
pub mod roles;
pub mod rollout;
pub mod safety;
mod sessions;
mod shared;
mod start;
pub mod takeover;
pub mod tasks;
pub mod tokens;
mod waiting;
pub mod watch;

use std::{pin::Pin, sync::Arc, time::Duration};

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    entry::EntryPath,
    level::{Level, Program},
    name::ServerName,
    record::{Publish, Role, Server, SignedRecord},
    revision::{SignedHeader, check_message},
    status::{Event, Observation},
    v1,
};
use bellwether_store::{clock::now_ms, log::Log, state_file::StateFileError, tree::Tree};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

pub use adopt::{Adopt, AdoptError, Adopted};
pub use change::{ChangeError, Changed};
pub use form::{Form, FormError, Formed, form};
pub use inside::{Inside, Queue};
pub use lane::{
    Deadlines,
    view::{InFlight, LaneView, Phase},
};
pub use preview::Preview;
pub use publish::{Changes, PublishError, Request};
pub use publisher::Published;
pub use read::{FileRead, ReadError};
pub use roles::{HandOverError, Leave, RoleRefused};
pub use shared::{EditError, SaveError, Timings, decide};
pub use start::{Setup, StartError};

use crate::{
    balancer::{Balancers, Locals},
    group::{By, GroupRefused},
    lane::Control,
    lanes::ToLanes,
    publisher::Command,
    shared::Shared,
    tokens::{TokenRefused, Tokens},
};

/// How long is waited for the servers that are reached to take a new record.
const SPREAD: Duration = Duration::from_secs(1);

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

/// Makes a record durable at the manager; called before anybody sees it.
pub type SaveRecord = Box<dyn Fn(&SignedRecord) -> Result<(), SaveError> + Send + Sync>;

/// Told when a server has proved that this manager's state went back; see [`halt`].
pub type HaltFn = Box<dyn Fn(halt::Halt) + Send + Sync>;

/// Why a server does not enter.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A request that cannot be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// The record.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The server's sets are not the group's.
    #[error("this server has no path for set {0}")]
    Set(bellwether_proto::name::SetName),
    /// The server does not read the group's level, or the group's is too old for it.
    #[error("{server} cannot enter: the group is of level {level}, and bellwether on {server} is {program}")]
    Level {
        /// The server that wants to enter.
        server: ServerName,
        /// Its program.
        program: Program,
        /// The group's level.
        level: Level,
    },
    /// The manager's way to the server.
    #[error("{manager}, the manager, dialled {address} to reach {server}: {why}")]
    OutOfReach {
        /// The server that wants to enter.
        server: ServerName,
        /// The manager.
        manager: ServerName,
        /// What was dialled.
        address: String,
        /// Why it was not reached.
        why: String,
    },
    /// The manager's own address does not fit into a token.
    #[error("the manager's address, {0}, is too long for a token, and its name resolves to nothing here")]
    LongAddress(String),
    /// The use of the token could not be made durable.
    #[error("the token's use could not be saved; nothing was changed")]
    Save(#[from] StateFileError),
}

impl Advise for EnterError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Token(token) => token.advice(),
            Self::Edit(edit) => edit.advice(),
            Self::Set(set) => Some(Advice::say(format!("give it one (--set {set}=PATH) and join again"))),
            Self::LongAddress(_) => {
                Some(Advice::run("give the manager a shorter one", "bellwether server set NAME --address HOST:PORT"))
            }
            Self::OutOfReach { server, manager, .. } => Some(Advice::say(format!(
                "give the address at which {manager} reaches {server} (--advertise HOST:PORT), and open that port there"
            ))),
            Self::Level { server, program, level } if program.levels.newest < *level => {
                Some(Advice::say(format!("upgrade bellwether on {server}, then join again")))
            }
            Self::Level { program, .. } => {
                let raise = format!("bellwether group set --level {}", program.levels.oldest);
                Some(Advice::run("upgrade the group's servers first, then, at the manager", raise))
            }
            Self::Malformed(_) | Self::Save(_) => None,
        }
    }
}

/// The running manager. Clones are the same one.
#[derive(Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    lanes: mpsc::Sender<ToLanes>,
    balancers: Locals,
    tokens: Arc<Mutex<Tokens>>,
    tasks: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

impl Manager {
    /// Waits until every task has ended, after `shutdown` was given. A publish that has begun ends first.
    pub async fn stopped(&self) {
        for (name, task) in self.inner.tasks.lock().await.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(task = name, %error, "ended badly");
            }
        }
    }

    /// The record in force.
    pub fn record(&self) -> Arc<SignedRecord> {
        self.inner.shared.record.borrow().clone()
    }

    /// The head revision.
    pub fn head(&self) -> SignedHeader {
        self.inner.shared.head.borrow().stored.header.clone()
    }

    /// The newest `count` revisions, oldest first.
    pub fn newest(&self, count: usize) -> Vec<SignedHeader> {
        let history = self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all: Vec<_> = history.all().map(|stored| &stored.header).collect();
        all[all.len().saturating_sub(count)..].iter().map(|header| (*header).clone()).collect()
    }

    /// Whether the head descends from that revision, as far as the history goes back.
    pub fn leads_from(&self, at: bellwether_proto::revision::RevisionId) -> bool {
        self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner).leads_from(at)
    }

    /// Whether a server that holds the revision of that number comes to the head by what the group has published since.
    pub fn is_in_order(&self, at: bellwether_proto::revision::Number) -> bool {
        let history = self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = history.all().find(|stored| stored.header.number() == at).map(|stored| stored.header.id());
        held.is_some_and(|id| history.leads_from(id))
    }

    /// The log of the history.
    pub fn log(&self) -> Arc<Log> {
        self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner).log().clone()
    }

    /// The head revision's tree.
    pub fn tree(&self) -> Arc<Tree> {
        self.inner.shared.head.borrow().tree.clone()
    }

    /// Publishes what differs from the head, now.
    ///
    /// # Errors
    /// Nothing was published; the reason is shown as unpublished edits, too.
    pub async fn publish(&self, request: Request) -> Result<Published, PublishError> {
        check_message(&request.message)?;
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Publish(request, answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// Puts or removes one file by compare-and-swap and publishes it at once (W5).
    ///
    /// # Errors
    /// Why not, and what was left unchanged.
    pub async fn change(&self, request: v1::ChangeRequest) -> Result<Changed, ChangeError> {
        let asked = Box::new(request.try_into()?);
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Change(asked, answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// Makes a member's edits the manager's own and publishes them at once, all or none (W3).
    ///
    /// # Errors
    /// Why not, and what was left unchanged.
    pub async fn adopt(&self, adopt: Adopt) -> Result<Adopted, AdoptError> {
        check_message(&adopt.message)?;
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Adopt(Box::new(adopt), answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// Reads one file of the head revision.
    ///
    /// # Errors
    /// No such file, or it cannot be read.
    pub async fn read(&self, request: v1::ReadRequest) -> Result<FileRead, ReadError> {
        let (set, path) = (request.set.parse()?, EntryPath::new(&request.path)?);
        let shared = self.inner.shared.clone();
        let read = move || read::read(&shared, set, path);
        tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Stopping)?
    }

    /// The group's balancers, as the record in force names them and this machine reaches them.
    pub fn balancers(&self) -> Balancers {
        Balancers::new(self.record().record(), &self.inner.balancers)
    }

    /// Asks members to come to the head whatever their state (W8), or only to look at what they have.
    ///
    /// # Errors
    /// A name that no server of the group has; nobody was asked.
    pub async fn sync(
        &self,
        servers: Vec<ServerName>,
        full: bool,
        verify_only: bool,
    ) -> Result<Vec<ServerName>, GroupRefused> {
        let record = self.record();
        if let Some(unknown) = servers.iter().find(|name| record.record().server(name).is_none()) {
            return Err(GroupRefused::Unknown(unknown.clone()));
        }
        let disabled = |name: &&ServerName| record.record().server(name).is_some_and(|s| s.role == Role::Disabled);
        if let Some(disabled) = servers.iter().find(disabled) {
            return Err(GroupRefused::Disabled(disabled.clone()));
        }
        if !verify_only && record.record().policy.publish == Publish::Auto {
            // What is still in its quiet time is meant, too (W6). Refused: shown as unpublished, and the head is sent.
            if let Err(error) = self.publish(Request::default()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "not published before the sync");
            }
        }
        let control = if verify_only { Control::Verify { full } } else { Control::Sync { full } };
        let (answer, answered) = oneshot::channel();
        let _ = self.inner.lanes.send(ToLanes { servers, control, answer }).await;
        // No answer: the manager stops, and nobody was asked.
        let asked = answered.await.unwrap_or_default();
        if !verify_only {
            self.tell_syncing(&asked);
        }
        Ok(asked)
    }

    /// Whoever asked and looks at the status next must not take the state before the sync for its end.
    fn tell_syncing(&self, asked: &[ServerName]) {
        let shared = &self.inner.shared;
        let to = shared.head.borrow().stored.header.number();
        let is_reached = |server: &&ServerName| shared.reached.borrow().get(server).is_some();
        for server in asked.iter().filter(is_reached) {
            shared.see(Event::Server(server.clone(), Observation::Started { sync: true, to }));
        }
    }

    /// A member has asked for something: should it have been out of reach, it is dialled now.
    pub fn heard(&self, server: &ServerName) {
        let (answer, _) = oneshot::channel();
        // Full or gone: it is dialled again in any case, only later.
        let _ = self.inner.lanes.try_send(ToLanes { servers: vec![server.clone()], control: Control::Heard, answer });
    }

    /// The records that made each manager, oldest first, for a server that enters.
    pub fn chain(&self) -> Vec<v1::SignedRecord> {
        self.inner.shared.chain.clone()
    }
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The token, or the record.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// It cannot be made.
    #[error("the preview cannot be made")]
    Make(#[from] PublishError),
}

impl Advise for PreviewError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Enter(enter) => enter.advice(),
            Self::Make(publish) => publish.advice(),
        }
    }
}

fn by(author: &str) -> By {
    By::new(author, now_ms())
}
