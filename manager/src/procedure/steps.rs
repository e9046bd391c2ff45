//! What a step is: a task, why, and for which requirement.

use bellwether_proto::{key::PublicKey, name::ServerName};
use serde::{Deserialize, Serialize};

use super::Insists;

/// What a person can answer for; the program cannot see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fact {
    /// The machine is off the network and out of the balancer, or forgot its group (`leave`).
    Isolated(ServerName),
    /// The machine is repaired, its agent runs.
    Repaired(ServerName),
}

/// What is asked of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// In one sentence.
    pub asks: String,
    /// What to do before it is answered.
    pub first: String,
}

impl Fact {
    /// The question whose answer it is.
    pub fn question(&self) -> Question {
        match self {
            Self::Isolated(server) => Question {
                asks: format!("is {server} off the network and out of the load balancer?"),
                first: format!(
                    "switch {server} off or pull its cable; where it still runs, there: bellwether leave --force. Your word is \
                     recorded, for nothing here can see that it is so"
                ),
            },
            Self::Repaired(server) => Question {
                asks: format!("is {server} repaired?"),
                // A disabled server does not enter with a token, and an old key is not taken back where a new one has the name.
                first: format!(
                    "start its agent first. Where {server} forgot the group: answer, then a token from `bellwether token \
                     create --names {server}`, and there `bellwether join`. New hardware: first `bellwether server remove \
                     {server}`, the token and `join`, then answer"
                ),
            },
        }
    }

    /// The server.
    pub fn server(&self) -> &ServerName {
        match self {
            Self::Isolated(server) | Self::Repaired(server) => server,
        }
    }
}

/// What a step brings about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// A person answers for it.
    Attest(Fact),
    /// They get no new requests.
    Drain(Vec<ServerName>),
    /// Their last sessions end.
    Quiet(Vec<ServerName>),
    /// In one record: `to` is manager, `from` is disabled or removed.
    HandOver {
        /// The manager.
        from: ServerName,
        /// Who becomes manager.
        to: ServerName,
        /// Removed instead of disabled.
        remove: bool,
    },
    /// The candidate `new` makes itself manager; `lost` is disabled or removed.
    Promote {
        /// The manager that is lost.
        lost: ServerName,
        /// The candidate.
        new: ServerName,
        /// Removed instead of disabled.
        remove: bool,
        /// What the person who asked insists on.
        insists: Insists,
    },
    /// Sent nothing, and refused.
    Disable(ServerName),
    /// Out of the group.
    Remove(ServerName),
    /// A member again.
    Add(ServerName),
    /// New hardware has taken the name.
    Replace {
        /// The name.
        server: ServerName,
        /// The key that has it until then.
        old: PublicKey,
        /// For how long its token admits it, in milliseconds.
        ttl_ms: u64,
    },
    /// At the manager's state.
    Sync(Vec<ServerName>),
    /// Every byte on their disks was hashed and is the manager's.
    Complete(Vec<ServerName>),
    /// They get requests again.
    Undrain(Vec<ServerName>),
}

impl Task {
    /// What is done, in a few words.
    pub fn what(&self) -> String {
        let out = |remove: &bool| if *remove { "removed" } else { "disabled" };
        match self {
            Self::Attest(Fact::Isolated(server)) => format!("attest that {server} is isolated"),
            Self::Attest(Fact::Repaired(server)) => format!("attest that {server} is repaired"),
            Self::Drain(servers) => format!("drain {}", list(servers)),
            Self::Quiet(servers) => format!("wait until the sessions of {} end", list(servers)),
            Self::HandOver { from, to, remove } => format!("make {to} manager; {from} becomes {}", out(remove)),
            Self::Promote { lost, new, remove, .. } => {
                format!("make {new} manager by itself; {lost} becomes {}", out(remove))
            }
            Self::Disable(server) => format!("disable {server}"),
            Self::Remove(server) => format!("remove {server}"),
            Self::Add(server) => format!("add {server} as a member"),
            Self::Replace { server, .. } => format!("wait until new hardware has joined as {server}"),
            Self::Sync(servers) => format!("sync {}", list(servers)),
            Self::Complete(servers) => {
                format!("wait until {} {} complete", list(servers), if servers.len() == 1 { "is" } else { "are" })
            }
            Self::Undrain(servers) => format!("undrain {}", list(servers)),
        }
    }

    /// Where it is done.
    pub fn place(&self) -> String {
        match self {
            Self::Attest(_) => "a person".to_owned(),
            Self::Drain(_) | Self::Quiet(_) | Self::Undrain(_) => "at the balancers, and /ready".to_owned(),
            Self::HandOver { .. } | Self::Promote { .. } | Self::Disable(_) | Self::Remove(_) | Self::Add(_) => {
                "in the group record".to_owned()
            }
            Self::Replace { .. } => "on the new machine".to_owned(),
            Self::Sync(servers) | Self::Complete(servers) => format!("on {}", list(servers)),
        }
    }

    /// Whom it touches.
    pub fn servers(&self) -> Vec<&ServerName> {
        match self {
            Self::Attest(fact) => vec![fact.server()],
            Self::Drain(servers)
            | Self::Quiet(servers)
            | Self::Sync(servers)
            | Self::Complete(servers)
            | Self::Undrain(servers) => servers.iter().collect(),
            Self::HandOver { from, to, .. } => vec![from, to],
            Self::Promote { lost, new, .. } => vec![lost, new],
            Self::Disable(server) | Self::Remove(server) | Self::Add(server) | Self::Replace { server, .. } => {
                vec![server]
            }
        }
    }
}

fn list(servers: &[ServerName]) -> String {
    servers.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ")
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is brought about.
    pub task: Task,
    /// Why, in one clause.
    pub why: String,
    /// The requirement's id.
    pub requirement: String,
    /// How it ended, where there is something to say.
    pub noted: Option<String>,
}

impl Step {
    pub(super) fn new(task: Task, requirement: &str, why: impl Into<String>) -> Self {
        Self { task, why: why.into(), requirement: requirement.to_owned(), noted: None }
    }
}

/// What is done to the world; safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take them out of service: in the record (their `/ready` answers 503) and at the balancers.
    Drain(Vec<ServerName>),
    /// Back into service.
    Undrain(Vec<ServerName>),
    /// At the manager: hand the role to `to`; this server becomes disabled or is removed, in the same record.
    HandOver {
        /// Who becomes manager.
        to: ServerName,
        /// Removed instead of disabled.
        remove: bool,
    },
    /// At the candidate: take the role; the manager that is lost becomes disabled or is removed.
    Promote {
        /// Removed instead of disabled.
        remove: bool,
        /// What the person who asked insists on.
        insists: Insists,
    },
    /// Disable in the record.
    Disable(ServerName),
    /// Remove from the record.
    Remove(ServerName),
    /// A member again.
    Add(ServerName),
    /// Bring to the manager's state.
    Sync(Vec<ServerName>),
    /// Hash every byte.
    Verify(Vec<ServerName>),
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Isolated(server) => write!(f, "{server} is isolated"),
            Self::Repaired(server) => write!(f, "{server} is repaired"),
        }
    }
}
