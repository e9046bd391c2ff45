//! A machine's model disk: what was saved survives a crash, nothing else does. A crash can be armed to strike right before
//! or right after any save; then the server does nothing more, whatever it was about to send.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bellwether_group::{halt::Halt, procedure::SignedDocument};
use bellwether_proto::{
    key::PublicKey,
    name::ServerName,
    record::SignedRecord,
    revision::{RevisionId, SignedHeader},
    ticket::{Given, Ticket},
};

use crate::{changes::Changes, keys, world::World};

/// What a server keeps of its group: the record in force, and the chain that leads to it.
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

/// The sets: one revision, and edits of their own on top (invariant 1).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sets {
    pub(crate) revision: Option<RevisionId>,
    pub(crate) edits: Changes,
}

/// All that is durable on one machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Disk {
    /// The server that this machine is, by its configuration.
    pub(crate) name: ServerName,
    /// Which key it has.
    pub(crate) key: usize,
    /// `group.json`; none: of no group.
    pub(crate) held: Option<Held>,
    /// `position.json`.
    pub(crate) at: Option<SignedHeader>,
    /// Also there: this server leads, or has led since, so its sets hold the newest revision of its history.
    pub(crate) leads: bool,
    /// Also there: why this member takes nothing until a sync (W8).
    pub(crate) fault: Option<String>,
    /// `halted.json`: this manager's state went back, it leads nobody until the group is rebuilt (W14).
    pub(crate) halted: Option<Halt>,
    /// `ticket.json`: of the last session with a manager.
    pub(crate) ticket: Option<Ticket>,
    /// `sessions/`: the tickets that this manager gave.
    pub(crate) sessions: BTreeMap<PublicKey, Given>,
    /// `procedures.json`.
    pub(crate) procedures: Option<Arc<SignedDocument>>,
    /// `history.new`: the base of a group that is being rebuilt.
    pub(crate) fresh: Option<RevisionId>,
    /// The revisions of histories before, which a group that was rebuilt has kept.
    pub(crate) before: BTreeSet<RevisionId>,
    /// The packs in the history.
    pub(crate) history: BTreeSet<RevisionId>,
    /// Those of which it has a base.
    pub(crate) bases: BTreeSet<RevisionId>,
    pub(crate) sets: Sets,
    /// What kept copies hold.
    pub(crate) kept: Changes,
    /// How often the state was opened.
    pub(crate) incarnation: u64,
}

impl Disk {
    /// A machine that has only its name and its key.
    pub(crate) fn new(name: ServerName, key: usize) -> Self {
        Self {
            name,
            key,
            held: None,
            at: None,
            leads: false,
            fault: None,
            halted: None,
            ticket: None,
            sessions: BTreeMap::new(),
            procedures: None,
            fresh: None,
            before: BTreeSet::new(),
            history: BTreeSet::new(),
            bases: BTreeSet::new(),
            sets: Sets::default(),
            kept: Changes::default(),
            incarnation: 0,
        }
    }

    /// The record in force, where there is a group.
    pub(crate) fn record(&self) -> Option<&SignedRecord> {
        self.held.as_ref().map(|held| &held.current)
    }

    /// Whether a member's sets hold the revision of its position (invariant 1); a manager's are the truth.
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

/// When a crash strikes: at which save from now, before or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arm {
    pub(crate) saves: usize,
    pub(crate) after: bool,
}

/// One machine's disk, as its server reaches it.
#[derive(Clone)]
pub(crate) struct Drive {
    pub(crate) world: World,
    pub(crate) machine: usize,
}

impl Drive {
    /// Reads.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Disk) -> T) -> T {
        read(&self.world.borrow().disks[self.machine])
    }

    /// Saves, durably when it returns; or never returns, because the machine crashes.
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
