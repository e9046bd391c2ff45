//! A procedure's view of the farm: roles in the record, states in the monitor, traffic at the balancers.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_proto::{key::PublicKey, name::ServerName, record::Role, status::State};

/// The balancers' reports of one server, taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traffic {
    /// No balancer is configured, or by the record the server takes no traffic.
    Unknown,
    /// No balancer has the server, perhaps because of a wrong name. The error, for people.
    Absent(String),
    /// All balancers answered.
    Known {
        /// The server is drained everywhere.
        out: bool,
        /// The server's checks pass everywhere.
        up: bool,
        /// The number of its requests or connections at all balancers.
        sessions: u64,
    },
    /// The server is drained at some places only: the last command was not done everywhere.
    Partly {
        /// The number of its requests or connections at all balancers.
        sessions: u64,
    },
    /// A balancer does not answer, or its answer is malformed: nothing is known.
    Silent(String),
}

/// The observed state of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedServer {
    /// Its key in the record.
    pub key: PublicKey,
    /// Its role in the record.
    pub role: Role,
    /// Whether it may become manager.
    pub candidate: bool,
    /// Whether the record has it out of service.
    pub drained: bool,
    /// Its state in the monitor.
    pub state: State,
    /// The reason of a bad state.
    pub reason: Option<String>,
    /// Whether it holds the head revision.
    pub current: bool,
    /// Whether it gets the missing revisions by increments in order, and has no edits of its own.
    pub in_order: bool,
    /// The time at which its newest kept copy was reported, in milliseconds since 1970, and that copy.
    pub kept: Option<(u64, String)>,
    /// The last time at which every byte on its disk was hashed and equal to the head, in milliseconds since 1970.
    pub equal_ms: Option<u64>,
    /// Its traffic at the balancers.
    pub traffic: Traffic,
    /// Whether it has the newest document of procedures.
    pub informed: bool,
}

/// The observed state of a removed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Whether the record has it out of service, for the time when it is added again.
    pub drained: bool,
    /// Its traffic at the balancers, which may still have it.
    pub traffic: Traffic,
}

/// The farm at one moment, as this server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// The observing server.
    pub me: ServerName,
    /// The record's manager.
    pub manager: ServerName,
    /// The servers of the record.
    pub servers: BTreeMap<ServerName, ObservedServer>,
    /// Removed servers whose names are free.
    pub removed: BTreeMap<ServerName, Removed>,
    /// Whether any balancer is configured.
    pub balancers: bool,
    /// The smallest number of servers that must serve.
    pub min_serving: usize,
    /// The time for sessions of a drained server, in milliseconds.
    pub drain_timeout_ms: u64,
}

/// Servers that must be drained before their sync (W23).
pub type Holds = BTreeSet<ServerName>;

impl World {
    /// Whether this server is the manager.
    pub fn is_manager(&self) -> bool {
        self.me == self.manager
    }

    /// The server of that name in the record.
    pub fn server(&self, name: &ServerName) -> Option<&ObservedServer> {
        self.servers.get(name)
    }

    /// The servers that take requests now.
    pub fn serving(&self) -> BTreeSet<&ServerName> {
        self.servers.iter().filter(|(_, seen)| self.serves(seen)).map(|(name, _)| name).collect()
    }

    /// Whether a server takes requests now.
    pub fn serves(&self, seen: &ObservedServer) -> bool {
        let healthy = match seen.state {
            State::InSync | State::Updating | State::Refused | State::Waiting | State::Drifted | State::GroupChange => {
                true
            }
            State::Syncing
            | State::Disabled
            | State::Error
            | State::Unreachable
            | State::Left
            | State::Conflict
            | State::Superseded => false,
            // An awaiting server serves its present files, if it has any. Of an unknown one, a candidate has heard
            // nothing; the balancer knows its state.
            State::AwaitingSync | State::Unknown => {
                matches!(seen.traffic, Traffic::Known { .. } | Traffic::Partly { .. })
            }
        };
        let wanted = match seen.traffic {
            Traffic::Known { out, up, .. } => up && !out,
            Traffic::Unknown => !self.balancers,
            Traffic::Absent(_) | Traffic::Partly { .. } => false,
            Traffic::Silent(_) => true,
        };
        let enabled = match seen.role {
            Role::Manager | Role::Member => true,
            Role::Disabled => false,
        };
        enabled && healthy && wanted && !seen.drained
    }

    /// The balancers' report of a server in the record or a removed one.
    pub fn traffic(&self, name: &ServerName) -> Option<&Traffic> {
        let removed = || self.removed.get(name).map(|removed| &removed.traffic);
        self.server(name).map(|seen| &seen.traffic).or_else(removed)
    }

    /// Whether the record has a server out of service, removed or not.
    pub fn is_drained(&self, name: &ServerName) -> bool {
        let removed = || self.removed.get(name).is_some_and(|removed| removed.drained);
        self.server(name).map_or_else(removed, |seen| seen.drained)
    }

    /// Whether a server is out of service: in the record (if this server may change it) and at all its balancers.
    pub fn is_out(&self, name: &ServerName) -> bool {
        let by_balancers = match self.traffic(name) {
            Some(Traffic::Known { out, .. }) => *out,
            Some(Traffic::Unknown) => true,
            // The name is wrong, unless the server was drained there, too.
            Some(Traffic::Absent(_)) => self.removed.contains_key(name),
            Some(Traffic::Silent(_) | Traffic::Partly { .. }) => false,
            None => return true,
        };
        by_balancers && (self.is_drained(name) || !self.is_manager())
    }
}
