//! Procedures: maintenance, recovery and every way back into service as lists of steps (W12, W18–W27). A step has a
//! check of the observed state and an action, both repeatable, so a procedure continues after a crash, or elsewhere.
//!
//! [`plan()`] makes the steps, [`settle`] passes those that are done, and [`next()`] returns the next action: plain
//! functions over a [`World`]. The manager saves the progress before each action (`manager/src/procedures`).

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

use bellwether_proto::{level::Level, name::ServerName};
use serde::{Deserialize, Serialize};

pub use crate::takeover::Insists;
pub use begin::{AskRefused, Request, again, begun, propose, takes_the_place};
pub use document::{CONTEXT, Document, DocumentRefused, SignedDocument};
pub use engine::{ActError, Next, acted, next, settle};
pub use held::held;
pub use plan::{PlanRefused, may_hand_over, plan};
pub use steps::{Action, Step};
pub use stop::{Failure, NotChanged, abort, go_on_again, resume};
pub use survey::{Survey, Surveyed};
pub use task::{Fact, Question, Task};
pub use world::{Holds, ObservedServer, Removed, Traffic, World};

/// The name of a procedure, unique among the kept ones: `p7`.
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

/// The kind of a procedure, with its servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// Maintenance of the manager (W18) or a member (W21) begins.
    MaintenanceStart {
        /// The server to work on.
        server: ServerName,
        /// The new manager, if the server is the manager.
        promote: Option<ServerName>,
        /// Whether it is removed instead of disabled.
        remove: bool,
    },
    /// Maintenance ends (W19, W21, W25): back into the group, synced, back at the balancers.
    MaintenanceFinish {
        /// The server that was worked on.
        server: ServerName,
    },
    /// A removed or disabled server is added again (W25).
    ServerAdd {
        /// The server.
        server: ServerName,
    },
    /// A disabled server is enabled (W21).
    ServerEnable {
        /// The server.
        server: ServerName,
    },
    /// W25: new hardware takes the place and the name of a server.
    ServerReplace {
        /// The name of the server.
        server: ServerName,
        /// The lifetime of its token, in milliseconds.
        ttl_ms: u64,
    },
    /// An operator's `sync` brings servers with another state to the manager's state (W12).
    Sync {
        /// The servers; none: all members.
        servers: Vec<ServerName>,
    },
    /// The group recovers from the loss of a member (W27).
    RecoverMember {
        /// The lost server.
        server: ServerName,
        /// Whether it is removed instead of disabled.
        remove: bool,
    },
    /// The candidate that takes over begins the recovery from the loss of the manager (W22–W24).
    RecoverManager {
        /// The lost manager.
        lost: ServerName,
        /// The candidate.
        new: ServerName,
        /// Whether the lost manager is removed instead of disabled.
        remove: bool,
        /// The options on which the person insists.
        insists: Insists,
    },
}

impl Kind {
    /// The command that begins the procedure.
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

    /// The oldest level whose programs read the kind, as [`task::TaskKind::level`] of a task.
    fn level(&self) -> Level {
        match self {
            Self::MaintenanceStart { .. }
            | Self::MaintenanceFinish { .. }
            | Self::ServerAdd { .. }
            | Self::ServerEnable { .. }
            | Self::ServerReplace { .. }
            | Self::Sync { .. }
            | Self::RecoverMember { .. }
            | Self::RecoverManager { .. } => Level::FIRST,
        }
    }

    /// The server that the procedure brings back into service, whichever command began it.
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

    /// The operator's next action when the procedure is done.
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
            Self::Sync { .. } => "the drained servers are in sync and serve again".to_owned(),
            Self::RecoverMember { server, .. } => format!("{server} is recovered and serves again"),
            Self::RecoverManager { lost, .. } => {
                format!(
                    "when {lost} is repaired and its agent runs, at the manager: bellwether maintenance finish {lost}"
                )
            }
        }
    }
}

/// A person's statement, and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The attested fact.
    pub fact: Fact,
    /// The person's words.
    pub text: String,
    /// The person.
    pub by: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

/// The state of a procedure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Standing {
    /// The procedure continues by itself, or when its question is answered.
    Running,
    /// The procedure stops for this reason, and brings its drained servers back into service first.
    Stopping(String),
    /// The procedure has stopped at its step, until its command is repeated or `abort` ends it.
    Failed(Failure),
    /// The procedure was aborted; its finished steps stay done.
    Aborted {
        /// The person that aborted it.
        by: String,
        /// The state that is left.
        left: String,
    },
    /// Every step is done.
    Done,
}

/// A procedure and its progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Procedure {
    /// Its name.
    pub id: Id,
    /// The kind of the procedure.
    pub kind: Kind,
    /// The person that began it.
    pub by: String,
    /// The start, in milliseconds since 1970.
    pub started_ms: u64,
    /// The findings before it began, for people.
    pub findings: Vec<String>,
    /// Lost revisions of a lost manager that no server has, unless they are taken back; for people.
    pub lost: Vec<String>,
    /// The attestations so far.
    pub attestations: Vec<Attestation>,
    /// All steps.
    pub steps: Vec<Step>,
    /// The index of the current step; the number of steps when all are done.
    pub at: usize,
    /// The start of that step, in milliseconds since 1970.
    pub began_ms: u64,
    /// The last start of the step's action, in milliseconds since 1970.
    pub tried_ms: Option<u64>,
    /// The error of the last attempt.
    pub trouble: Option<String>,
    /// Whether it has drained its server, which was in service.
    pub took_out: bool,
    /// The number of times that a person resumed it after it had stopped.
    pub resumed: u32,
    /// Its state.
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

    /// What of it came after `level`, with its level; none: programs of `level` read it. A field that comes with a later
    /// level is left out of the document while it has its default, and its use is told here.
    pub(super) fn beyond(&self, level: Level) -> Option<(String, Level)> {
        let kind = (self.kind.level() > level).then(|| (format!("'{}'", self.kind.command()), self.kind.level()));
        let steps = || self.steps.iter().map(|step| &step.task).find(|task| task.level() > level);
        kind.or_else(|| steps().map(|task| (format!("the step '{}'", task.about().what), task.level())))
    }

    /// The current step; none: all are done.
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

    /// Whether it has stopped, and waits for a person to resume or end it.
    pub fn has_stopped(&self) -> bool {
        matches!(self.standing, Standing::Failed(_))
    }

    /// The server that drives it: the manager; before its promotion, the candidate that recovers a manager, whichever
    /// server leads, because only the candidate knows of it.
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

    /// The servers on which it still works: if it has stopped, from the step on at which it would continue.
    pub fn has_to_do_with(&self) -> impl Iterator<Item = &ServerName> {
        let from = if self.has_stopped() { self.goes_on_at() } else { self.at };
        self.steps.iter().skip(from).flat_map(|step| step.task.about().servers)
    }

    /// All servers that it touches.
    pub fn servers(&self) -> impl Iterator<Item = &ServerName> {
        self.steps.iter().flat_map(|step| step.task.about().servers)
    }
}

/// A procedure with its present activity: the document behind `procedure show --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The procedure.
    pub procedure: Procedure,
    /// The present action or wait, if it is driven here.
    pub doing: Option<String>,
    /// The deadline of its step, in milliseconds since 1970; none: a person is asked.
    pub until_ms: Option<u64>,
    /// The server that drives it.
    pub driver: ServerName,
}
