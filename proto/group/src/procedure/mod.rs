//! Procedures: maintenance, recovery and every way back into service as lists of steps (W12, W18–W27). Each step has a check ("already so?") against what is
//! observed and an action, both safe to repeat; so a procedure goes on after a crash, and at a new manager.
//!
//! [`plan()`] makes the steps, [`settle`] passes those that are so, [`next()`] says what to do: plain functions over a
//! [`World`]. The manager keeps the progress, durably before each action (`manager/src/procedures`).

mod begin;
mod document;
mod engine;
mod held;
mod plan;
mod steps;
mod stop;
mod survey;
pub mod task;
mod world;

#[cfg(test)]
mod model;

use bellwether_proto::name::ServerName;
use serde::{Deserialize, Serialize};

pub use crate::takeover::Insists;
pub use begin::{AskRefused, Request, again, begun, propose, takes_the_place};
#[cfg(fuzzing)]
pub use document::CONTEXT;
pub use document::{Document, DocumentRefused, SignedDocument};
pub use engine::{ActError, Next, acted, next, settle};
pub use held::held;
pub use plan::{PlanRefused, may_hand_over, plan};
pub use steps::{Action, Step};
pub use stop::{Failure, NotChanged, abort, go_on_again, resume};
pub use survey::{Survey, Surveyed};
pub use task::{Fact, Question, Task};
pub use world::{Holds, Removed, Seen, Traffic, World};

/// A procedure's name, unique among those that are kept: `p7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(pub u64);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl std::str::FromStr for Id {
    type Err = bellwether_proto::Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix('p').and_then(|digits| digits.parse().ok()).map(Self).ok_or_else(|| {
            let text: String = text.chars().take(40).collect();
            bellwether_proto::Malformed::new(format!("'{}' is not a procedure: p1, p2 …", text.escape_debug()))
        })
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for Id {
    type Error = bellwether_proto::Malformed;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What is to be done, to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// W18 (the manager), W21 (a member).
    MaintenanceStart {
        /// The server that is to be worked on.
        server: ServerName,
        /// Who becomes manager, where it is the manager.
        promote: Option<ServerName>,
        /// Removed instead of disabled.
        remove: bool,
    },
    /// W19, W21, W25: back into the group, synced, back at the balancers.
    MaintenanceFinish {
        /// The server that was worked on.
        server: ServerName,
    },
    /// W25: a server that was removed, or disabled, is added again.
    ServerAdd {
        /// The server.
        server: ServerName,
    },
    /// W21: a server that was disabled is enabled.
    ServerEnable {
        /// The server.
        server: ServerName,
    },
    /// W25: new hardware takes the place and the name of a server.
    ServerReplace {
        /// The name.
        server: ServerName,
        /// For how long its token admits it, in milliseconds.
        ttl_ms: u64,
    },
    /// W12: servers that hold something else are brought to the manager's state by an operator's `sync`.
    Sync {
        /// Which; none: all members.
        servers: Vec<ServerName>,
    },
    /// W27.
    RecoverMember {
        /// The server that is lost.
        server: ServerName,
        /// Removed instead of disabled.
        remove: bool,
    },
    /// W22–W24, begun at the candidate that takes over.
    RecoverManager {
        /// The manager that is lost.
        lost: ServerName,
        /// The candidate.
        new: ServerName,
        /// Removed instead of disabled.
        remove: bool,
        /// What the person who asked insists on.
        insists: Insists,
    },
}

impl Kind {
    /// The command that begins it.
    pub fn command(&self) -> String {
        let removed = |remove: &bool| if *remove { " --remove" } else { "" };
        match self {
            Self::MaintenanceStart { server, promote: None, remove } => {
                format!("maintenance start {server}{}", removed(remove))
            }
            Self::MaintenanceStart { server, promote: Some(to), remove } => {
                format!("maintenance start {server} --promote {to}{}", removed(remove))
            }
            Self::MaintenanceFinish { server } => format!("maintenance finish {server}"),
            Self::ServerAdd { server } => format!("server add {server}"),
            Self::ServerEnable { server } => format!("server enable {server}"),
            Self::ServerReplace { server, ttl_ms: _ } => format!("server replace {server}"),
            Self::Sync { servers } => {
                servers.iter().fold("sync".to_owned(), |command, name| format!("{command} {name}"))
            }
            Self::RecoverMember { server, remove } => format!("recover member {server}{}", removed(remove)),
            Self::RecoverManager { remove, insists: Insists { force, accept }, .. } => {
                let flag = |given: bool, flag| if given { flag } else { "" };
                format!("recover manager{}{}{}", removed(remove), flag(*force, " --force"), flag(*accept, " --accept"))
            }
        }
    }

    /// The server that it brings back into service, whichever command began it.
    pub(super) fn brings_back(&self) -> Option<&ServerName> {
        match self {
            Self::MaintenanceFinish { server } | Self::ServerAdd { server } | Self::ServerEnable { server } => {
                Some(server)
            }
            Self::MaintenanceStart { .. }
            | Self::ServerReplace { .. }
            | Self::Sync { .. }
            | Self::RecoverMember { .. }
            | Self::RecoverManager { .. } => None,
        }
    }

    /// What an operator does when it is done.
    pub fn afterwards(&self) -> String {
        match self {
            Self::MaintenanceStart { server, .. } => {
                format!(
                    "{server} may be worked on; when it runs again, at the manager: bellwether maintenance finish {server}"
                )
            }
            Self::MaintenanceFinish { server }
            | Self::ServerAdd { server }
            | Self::ServerEnable { server }
            | Self::ServerReplace { server, .. } => format!("{server} serves again"),
            Self::Sync { .. } => "what was drained is in sync and serves again".to_owned(),
            Self::RecoverMember { server, .. } => format!("{server} is recovered and serves again"),
            Self::RecoverManager { lost, .. } => {
                format!(
                    "when {lost} is repaired and its agent runs, at the manager: bellwether maintenance finish {lost}"
                )
            }
        }
    }
}

/// What a person answered for, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// What is attested.
    pub fact: Fact,
    /// In the person's words.
    pub text: String,
    /// Who.
    pub by: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

/// Where a procedure stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Standing {
    /// It goes on by itself; where its step is a question, when that is answered.
    Running,
    /// It stops because of this, and puts back into service what it took out before.
    Stopping(String),
    /// Stopped at its step until its command is given again, or for good by `abort`.
    Failed(Failure),
    /// Stopped for good; what was done stays done.
    Aborted {
        /// Who.
        by: String,
        /// What is left as it is.
        left: String,
    },
    /// Every step is so.
    Done,
}

/// A procedure and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Procedure {
    /// Its name.
    pub id: Id,
    /// What is to be done.
    pub kind: Kind,
    /// Who began it.
    pub by: String,
    /// When, milliseconds since 1970.
    pub started_ms: u64,
    /// What was found before it began, for people.
    pub findings: Vec<String>,
    /// Revisions of a manager that is lost that nobody has any more, unless they are taken back; for people.
    pub lost: Vec<String>,
    /// What people answered for.
    pub attestations: Vec<Attestation>,
    /// All steps.
    pub steps: Vec<Step>,
    /// The step it is at; the number of steps when all are done.
    pub at: usize,
    /// When that step began, milliseconds since 1970.
    pub began_ms: u64,
    /// When its action was last begun.
    pub tried_ms: Option<u64>,
    /// What went wrong when it was last tried.
    pub trouble: Option<String>,
    /// It has taken its server, which was in service, out of it.
    pub took_out: bool,
    /// How often a person let it go on after it had stopped.
    pub resumed: u32,
    /// Whether it goes on.
    pub standing: Standing,
}

impl Procedure {
    /// A procedure at its first step.
    pub fn new(id: Id, kind: Kind, steps: Vec<Step>, by: String, now_ms: u64) -> Self {
        Self {
            id,
            kind,
            by,
            started_ms: now_ms,
            findings: Vec::new(),
            lost: Vec::new(),
            attestations: Vec::new(),
            steps,
            at: 0,
            began_ms: now_ms,
            tried_ms: None,
            trouble: None,
            took_out: false,
            resumed: 0,
            standing: Standing::Running,
        }
    }

    /// The step it is at; none: all are done.
    pub fn step(&self) -> Option<&Step> {
        self.steps.get(self.at)
    }

    /// Whether it has ended for good.
    pub fn is_over(&self) -> bool {
        match self.standing {
            Standing::Running | Standing::Stopping(_) | Standing::Failed(_) => false,
            Standing::Aborted { .. } | Standing::Done => true,
        }
    }

    /// Whether it has stopped, and waits for a person to let it go on or to end it.
    pub fn has_stopped(&self) -> bool {
        matches!(self.standing, Standing::Failed(_))
    }

    /// Who may drive it: the manager; before its promotion, the candidate that recovers a manager, whoever leads by now, for
    /// nobody else knows of it.
    pub fn driver<'a>(&'a self, manager: &'a ServerName) -> &'a ServerName {
        match &self.kind {
            Kind::RecoverManager { new, .. } if !self.is_promoted() => new,
            Kind::RecoverManager { .. }
            | Kind::MaintenanceStart { .. }
            | Kind::MaintenanceFinish { .. }
            | Kind::ServerAdd { .. }
            | Kind::ServerEnable { .. }
            | Kind::ServerReplace { .. }
            | Kind::Sync { .. }
            | Kind::RecoverMember { .. } => manager,
        }
    }

    /// Whether the candidate that recovers a manager has taken its place.
    pub(super) fn is_promoted(&self) -> bool {
        let mut done = self.steps.iter().take(self.at);
        done.any(|step| matches!(step.task, Task::Promote(_)))
    }

    /// The servers that it has something to do with still: where it stopped, from the step on at which it would go on.
    pub fn has_to_do_with(&self) -> impl Iterator<Item = &ServerName> {
        let from = if self.has_stopped() { self.goes_on_at() } else { self.at };
        self.steps.iter().skip(from).flat_map(|step| step.task.about().servers)
    }

    /// All servers that it touches.
    pub fn servers(&self) -> impl Iterator<Item = &ServerName> {
        self.steps.iter().flat_map(|step| step.task.about().servers)
    }
}

/// A procedure as it is shown: the document behind `procedure show --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The procedure.
    pub procedure: Procedure,
    /// What it does or waits for now, where it is driven here.
    pub doing: Option<String>,
    /// When its step stops at the latest, milliseconds since 1970; none: never, for a person is asked.
    pub until_ms: Option<u64>,
    /// The server that drives it.
    pub driver: ServerName,
}
