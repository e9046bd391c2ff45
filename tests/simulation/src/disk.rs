//! A machine's model disk: only saved state survives a crash. A crash can be armed to strike right before or right after any
//! save; after it the server sends nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bellwether_group::{halt::Halt, procedure::SignedDocument, rollout::Kept};
use bellwether_proto::{
    key::PublicKey,
    name::ServerName,
    record::SignedRecord,
    revision::{RevisionId, SignedHeader},
    ticket::{Given, Ticket},
};

use crate::{changes::Changes, keys, world::World};

/// A server's state of its group: the record in force, and the chain that leads to it.
#[derive(Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) current: SignedRecord,
    pub(crate) chain: Vec<SignedRecord>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.current.record().version)
    }
}

/// The sets: one revision, and the edits on top of it (invariant 1).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sets {
    pub(crate) revision: Option<RevisionId>,
    pub(crate) edits: Changes,
}

/// All durable state of one machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Disk {
    /// The server of this machine, by its configuration.
    pub(crate) name: ServerName,
    /// The number of its key.
    pub(crate) key: usize,
    /// `group.json`; none: it belongs to no group.
    pub(crate) held: Option<Held>,
    /// `position.json`.
    pub(crate) at: Option<SignedHeader>,
    /// Also there: whether this server leads, or has led since, so that its sets hold the newest revision of its history.
    pub(crate) leads: bool,
    /// Also there: the revision before and the time at which this member goes back to it, unless its revision is confirmed.
    pub(crate) unconfirmed: Option<(SignedHeader, u64)>,
    /// Also there: the reason that this member takes nothing until a sync (W8).
    pub(crate) fault: Option<String>,
    /// `halted.json`: this manager's state went back, so it does not lead until the group is rebuilt (W14).
    pub(crate) halted: Option<Halt>,
    /// `ticket.json`: the ticket of the last session with a manager.
    pub(crate) ticket: Option<Ticket>,
    /// `sessions/`: the tickets that this manager gave.
    pub(crate) sessions: BTreeMap<PublicKey, Given>,
    /// `procedures.json`.
    pub(crate) procedures: Option<Arc<SignedDocument>>,
    /// `rollout.json`.
    pub(crate) rollout: Kept,
    /// `history.new`: the base of a group that is being rebuilt.
    pub(crate) fresh: Option<RevisionId>,
    /// The revisions of earlier histories, which a rebuilt group has kept.
    pub(crate) before: BTreeSet<RevisionId>,
    /// The packs in the history.
    pub(crate) history: BTreeSet<RevisionId>,
    /// The revisions with a base in the history.
    pub(crate) bases: BTreeSet<RevisionId>,
    pub(crate) sets: Sets,
    /// The content of the kept copies.
    pub(crate) kept: Changes,
    /// The number of times that the state was opened.
    pub(crate) incarnation: u64,
}

impl Disk {
    /// A machine with only its name and its key.
    pub(crate) fn new(name: ServerName, key: usize) -> Self {
        Self {
            name,
            key,
            held: None,
            at: None,
            leads: false,
            unconfirmed: None,
            fault: None,
            halted: None,
            ticket: None,
            sessions: BTreeMap::new(),
            procedures: None,
            rollout: Kept::default(),
            fresh: None,
            before: BTreeSet::new(),
            history: BTreeSet::new(),
            bases: BTreeSet::new(),
            sets: Sets::default(),
            kept: Changes::default(),
            incarnation: 0,
        }
    }

    /// The record in force, if there is a group.
    pub(crate) fn record(&self) -> Option<&SignedRecord> {
        self.held.as_ref().map(|held| &held.current)
    }

    /// Whether a member's sets hold the revision of its position (invariant 1); a manager's sets are the truth.
    pub(crate) fn is_whole(&self) -> bool {
        let own = keys::public(self.key);
        let leads = self.leads || self.record().is_none_or(|record| record.record().manager().key == own);
        leads || self.at.is_none() || self.position() == self.sets.revision
    }

    /// The revision of the position.
    pub(crate) fn position(&self) -> Option<RevisionId> {
        self.at.as_ref().map(SignedHeader::id)
    }
}

/// The moment of a crash: the save, counted from now, and whether it strikes after that save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arm {
    pub(crate) saves: usize,
    pub(crate) after: bool,
}

/// One machine's disk for its server.
#[derive(Clone)]
pub(crate) struct Drive {
    pub(crate) world: World,
    pub(crate) machine: usize,
}

impl Drive {
    /// Reads the disk.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Disk) -> T) -> T {
        read(&self.world.borrow().disks[self.machine])
    }

    /// Saves durably, or never returns because the machine crashes.
    pub(crate) async fn save(&self, what: &str, change: impl FnOnce(&mut Disk)) {
        let strikes = self.world.borrow_mut().strikes(self.machine);
        if strikes == Some(false) {
            self.die(&format!("before it saved {what}")).await;
        }
        self.world.borrow_mut().write(self.machine, what, change);
        if strikes == Some(true) {
            self.die(&format!("after it saved {what}")).await;
        }
    }

    async fn die(&self, when: &str) {
        self.world.borrow_mut().dies(self.machine, when);
        std::future::pending().await
    }
}
