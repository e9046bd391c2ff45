//! What a procedure sees of the farm: roles in the record, states in the monitor, traffic at the balancers.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_proto::{key::PublicKey, name::ServerName, record::Role, status::State};

/// What the balancers say of one server, taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traffic {
    /// No balancer is configured, or by the record it takes no traffic.
    Unknown,
    /// There are balancers, and none has it: a mistake in a name, perhaps. What is wrong, for people.
    Absent(String),
    /// All answered.
    Known {
        /// It gets no new requests anywhere, by order.
        out: bool,
        /// Its checks pass everywhere.
        up: bool,
        /// Requests or connections that it has, at all of them.
        sessions: u64,
    },
    /// Out by order at some of its places, and not at others: what was asked last was not done everywhere.
    Partly {
        /// Requests or connections that it has, at all balancers.
        sessions: u64,
    },
    /// One does not answer, or says what cannot be understood: nothing is known.
    Silent(String),
}

/// What is seen of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its key in the record.
    pub key: PublicKey,
    /// Its role in the record.
    pub role: Role,
    /// Whether it may become manager.
    pub candidate: bool,
    /// The record has it out of service.
    pub drained: bool,
    /// Its state in the monitor.
    pub state: State,
    /// Why, where the state is not a good one.
    pub reason: Option<String>,
    /// It holds the head revision.
    pub current: bool,
    /// What it lacks of the head comes to it by increments in order, over no edits of its own.
    pub in_order: bool,
    /// The newest recovery point that it made, and when that was heard of, milliseconds since 1970.
    pub kept: Option<(u64, String)>,
    /// When every byte on its disk was last hashed and found to be the head's, milliseconds since 1970.
    pub equal_ms: Option<u64>,
    /// At the balancers.
    pub traffic: Traffic,
    /// It has the newest document of procedures.
    pub informed: bool,
}

/// What is seen of a server that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The record has it out of service, for when it is added again.
    pub drained: bool,
    /// At the balancers, which may have it still.
    pub traffic: Traffic,
}

/// The farm at one moment, as this server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// Who looks.
    pub me: ServerName,
    /// The record's manager.
    pub manager: ServerName,
    /// The servers of the record.
    pub servers: BTreeMap<ServerName, Seen>,
    /// Those that were removed, and whose names nobody has.
    pub removed: BTreeMap<ServerName, Removed>,
    /// Whether any balancer is configured.
    pub balancers: bool,
    /// How many servers are to serve at any time.
    pub min_serving: usize,
    /// How long sessions are waited for, in milliseconds.
    pub drain_timeout_ms: u64,
}

/// Servers that are not to be synced before they are drained (W23).
pub type Holds = BTreeSet<ServerName>;

impl World {
    /// Whether this server is the manager.
    pub fn is_manager(&self) -> bool {
        self.me == self.manager
    }

    /// That server, where it is in the record.
    pub fn server(&self, name: &ServerName) -> Option<&Seen> {
        self.servers.get(name)
    }

    /// The servers that take requests now.
    pub fn serving(&self) -> BTreeSet<&ServerName> {
        self.servers.iter().filter(|(_, seen)| self.serves(seen)).map(|(name, _)| name).collect()
    }

    /// Whether a server takes requests now.
    pub fn serves(&self, seen: &Seen) -> bool {
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
            // Awaiting: it serves what it has, if it has anything. Unknown: a candidate has heard nothing of the others.
            // Their balancer knows.
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

    /// What the balancers say of it, where it is in the record or was removed.
    pub fn traffic(&self, name: &ServerName) -> Option<&Traffic> {
        let removed = || self.removed.get(name).map(|removed| &removed.traffic);
        self.server(name).map(|seen| &seen.traffic).or_else(removed)
    }

    /// Whether the record has it out of service, removed or not.
    pub fn is_drained(&self, name: &ServerName) -> bool {
        let removed = || self.removed.get(name).is_some_and(|removed| removed.drained);
        self.server(name).map_or_else(removed, |seen| seen.drained)
    }

    /// Whether it is out of service: by the record (where this server can change that) and at every balancer that has it.
    pub fn is_out(&self, name: &ServerName) -> bool {
        let by_balancers = match self.traffic(name) {
            Some(Traffic::Known { out, .. }) => *out,
            Some(Traffic::Unknown) => true,
            // A mistake in a name, unless it was taken out there, too.
            Some(Traffic::Absent(_)) => self.removed.contains_key(name),
            Some(Traffic::Silent(_) | Traffic::Partly { .. }) => false,
            None => return true,
        };
        by_balancers && (self.is_drained(name) || !self.is_manager())
    }
}
