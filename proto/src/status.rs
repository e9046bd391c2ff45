//! What is known of the farm: the document behind `status --json`, the monitor and the page.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    level::{Levels, Program},
    name::{BalancerName, ServerName, SetName},
    record::Role,
    revision::{Epoch, Number},
};

/// A server's state as the sync monitor shows it (W15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Reached, but holds no revision of this group that it was brought to yet.
    AwaitingSync,
    /// The bytes on its disk were hashed after the switch and give the head's root (invariant 5).
    InSync,
    /// Being brought from anything to the head.
    Syncing,
    /// Taking one change.
    Updating,
    /// Known, sent nothing.
    Disabled,
    /// The group is being changed: it has not taken the newest group record yet.
    GroupChange,
    /// It left the group on its own machine (W22).
    Left,
    /// In sync at an older revision: the newest was refused there before the switch.
    Refused,
    /// In sync at an older revision: something there stands in the way of the newest and may pass; it is tried again.
    Waiting,
    /// Holds the revision with edits of its own on top (drift).
    Drifted,
    /// A switch, rollback, disk or hash failed: takes nothing until a sync (W8).
    Error,
    /// Does not answer.
    Unreachable,
    /// It was the manager, has come back, and is refused (W26).
    Superseded,
    /// Two managers in one epoch: it is the other one, or follows it.
    Conflict,
    /// Not asked yet.
    Unknown,
}

impl State {
    /// The word in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::AwaitingSync => "awaiting sync",
            Self::InSync => "in sync",
            Self::Syncing => "syncing",
            Self::Updating => "updating",
            Self::Disabled => "disabled",
            Self::GroupChange => "group change",
            Self::Left => "left",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
            Self::Drifted => "drifted",
            Self::Error => "error",
            Self::Unreachable => "unreachable",
            Self::Superseded => "superseded",
            Self::Conflict => "conflict",
            Self::Unknown => "unknown",
        }
    }
}

/// What stands in the way of a revision on one server before the switch, and may pass (W8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Too little is free on a file system (W4).
    Space,
    /// A quota is used up.
    Quota,
    /// A file system is mounted for reading only.
    ReadOnly,
    /// A mount point, a link or a special file where the revision has something else.
    InTheWay,
    /// An account is missing.
    Account,
    /// An entry is immutable, or may only be appended to (chattr(1)).
    Flag,
    /// Somebody uses what is to be replaced.
    Busy,
    /// Another error of the system.
    System,
}

impl Cause {
    /// Every cause, with the word for it in metrics and in `status --json`.
    pub const WORDS: [(Self, &str); 8] = [
        (Self::Space, "space"),
        (Self::Quota, "quota"),
        (Self::ReadOnly, "read_only"),
        (Self::InTheWay, "in_the_way"),
        (Self::Account, "account"),
        (Self::Flag, "flag"),
        (Self::Busy, "busy"),
        (Self::System, "system"),
    ];

    /// When it passes, for people: what is to be done, or that nothing is.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Space => "make room there",
            Self::Quota => "raise that quota, or make room below it",
            Self::ReadOnly => "mount it for writing",
            Self::InTheWay => "take it away, or exclude it from the set",
            Self::Account => "create the account",
            Self::Flag => "take the flag away with chattr",
            Self::Busy => "it passes when that is done",
            Self::System => "look what the system says there",
        }
    }
}

impl From<Cause> for crate::v1::Cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Space => Self::Space,
            Cause::Quota => Self::Quota,
            Cause::ReadOnly => Self::ReadOnly,
            Cause::InTheWay => Self::InTheWay,
            Cause::Account => Self::Account,
            Cause::Flag => Self::Flag,
            Cause::Busy => Self::Busy,
            Cause::System => Self::System,
        }
    }
}

impl Cause {
    /// The cause of a report; none: the revision itself.
    pub fn from_wire(cause: crate::v1::Cause) -> Option<Self> {
        use crate::v1::Cause as Wire;
        match cause {
            Wire::Unspecified => None,
            Wire::Space => Some(Self::Space),
            Wire::Quota => Some(Self::Quota),
            Wire::ReadOnly => Some(Self::ReadOnly),
            Wire::InTheWay => Some(Self::InTheWay),
            Wire::Account => Some(Self::Account),
            Wire::Flag => Some(Self::Flag),
            Wire::Busy => Some(Self::Busy),
            Wire::System => Some(Self::System),
        }
    }
}

/// How far a running sync or update is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// receiving, staging, switching or verifying.
    pub phase: String,
    /// Files done.
    pub files: u64,
    /// Files in all.
    pub files_total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes a second since it was started, as the monitor sees it; 0: not known.
    pub bytes_per_s: u64,
}

/// What a server found when it looked at all that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When the manager heard of it, milliseconds since 1970.
    pub time_ms: u64,
    /// Every byte was hashed; otherwise every entry's stat was compared.
    pub full: bool,
    /// How many entries there are.
    pub entries: u64,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// They give the root hash of the head revision.
    pub equal: bool,
}

/// One server, as observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: ServerName,
    /// Its address.
    pub address: String,
    /// Its role in the record.
    pub role: Role,
    /// Its state.
    pub state: State,
    /// The revision it holds.
    pub revision: Option<Number>,
    /// How many revisions it is behind the head.
    pub lag_revisions: u64,
    /// For how long it has been behind, in milliseconds; 0 when it is not.
    pub lag_ms: u64,
    /// Why, and what to do, where the state is not a good one.
    pub reason: Option<String>,
    /// What it waits for before it takes the newest revision, in state [`State::Waiting`].
    pub waits_for: Option<Cause>,
    /// Entries that differ from the revision, and the first few of them.
    pub drift: Vec<String>,
    /// How many differ.
    pub drift_entries: u64,
    /// It takes no updates until they are kept or reverted (policy `hold`).
    pub held: bool,
    /// Present while syncing or updating.
    pub progress: Option<Progress>,
    /// When it was last heard of, milliseconds since 1970; none: never.
    pub seen_ms: Option<u64>,
    /// From the publish to this server's report, of the last update, in microseconds.
    pub last_update_us: Option<u64>,
    /// Its program's version.
    pub version: Option<String>,
    /// The format levels that its program reads; none: it was not heard of, or the observer is too old to say.
    #[serde(default)]
    pub levels: Option<Levels>,
    /// The newest kept copies it made.
    pub kept: Vec<String>,
    /// When the newest of them was heard of, milliseconds since 1970.
    pub kept_ms: Option<u64>,
    /// The group record has it out of service.
    pub drained: bool,
    /// The last `verify` of it.
    pub verified: Option<Verified>,
    /// Whether it could drive the group's balancers: of the manager and of candidates.
    pub balancers: Vec<Reach>,
    /// Requests came to it from outside the group: until somebody acknowledges that, or for a day.
    pub warning: Option<Warning>,
}

/// Requests from outside the group (W15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Who asked last, from where, and what.
    pub what: String,
    /// When that was heard of, milliseconds since 1970.
    pub time_ms: u64,
    /// How many there were, of those that the monitor is told of.
    pub requests: u64,
}

/// Whether one server can drive one balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The balancer.
    pub balancer: BalancerName,
    /// Why not; none: it can.
    pub fault: Option<String>,
    /// When that was heard of, milliseconds since 1970.
    pub time_ms: u64,
}

/// One set at the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStatus {
    /// Its name.
    pub name: SetName,
    /// Entries in the head revision.
    pub entries: u64,
    /// How changes are noticed at the manager: `events`, or why (also) by rescanning.
    pub watching: String,
    /// What was left out and why, said once: sockets, setuid bits …
    pub notices: Vec<String>,
    /// Entries that cannot be published as they are now: they stay as in the last revision and are tried again.
    pub unread_entries: u64,
    /// The first of them.
    pub unread: Vec<UnreadEntry>,
    /// The first files of the head revision that somebody had open for writing when they were published.
    pub open: Vec<String>,
    /// How it is found out who has a file open; none: no file has changed since the manager was started.
    pub writers: Option<Writers>,
}

/// An entry that cannot be published as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadEntry {
    /// Where in its set; empty for the set's root.
    pub path: String,
    /// Which kind of reason.
    pub cause: UnreadCause,
    /// For people: "cannot be read: Permission denied", …
    pub reason: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
}

/// Why an entry cannot be published as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnreadCause {
    /// Somebody has it open for writing: waited for up to the group's `open_max`.
    Open,
    /// It changed while it was read.
    Changing,
    /// The system's error: no permission, a bad sector, …
    Unreadable,
    /// A mount or a symbolic link is in its place.
    Held,
    /// Over the limits.
    Large,
}

/// How it is found out who has a file open for writing, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writers {
    /// By a lease: every writer of that machine is seen.
    Lease,
    /// By what the processes of that machine have open.
    Descriptors,
    /// It cannot be told: a file may be published while it is written.
    Unknown,
}

/// The farm, as one server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmStatus {
    /// Who says so.
    pub observer: ServerName,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// The group record's version.
    pub record: String,
    /// The manager.
    pub manager: ServerName,
    /// The head revision.
    pub head: Option<Number>,
    /// When it was published, milliseconds since 1970.
    pub head_time_ms: Option<u64>,
    /// Its message.
    pub head_message: String,
    /// Propagation is held (W6).
    pub paused: bool,
    /// `auto` or `manual`.
    pub publish: String,
    /// How changes are noticed: `events`, or in which sets why (also) by rescanning.
    pub watching: String,
    /// Edits at the manager that are not a revision (yet): why, or how many.
    pub unpublished: Option<String>,
    /// What the observer deals with no more, because it ended while it did: each with why and how it is let in again.
    pub quarantined: Vec<String>,
    /// The sets.
    pub sets: Vec<SetStatus>,
    /// What is to be mended in the observer's own configuration: what, and what to do.
    pub warnings: Vec<String>,
    /// The servers, sorted by name.
    pub servers: Vec<ServerStatus>,
    /// The observer is a member, and shows of the other servers what the manager said then, milliseconds since 1970; none:
    /// what is here is the observer's own word.
    pub told_ms: Option<u64>,
    /// The procedures that are not over, oldest first.
    pub procedures: Vec<ProcedureStatus>,
    /// Why the observer is no server of the group any more, and what to do; none: it is one.
    pub expelled: Option<String>,
}

/// Where a procedure stands that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcedureState {
    /// It does its step.
    Running,
    /// It waits for something that comes by itself, until its step's deadline.
    Waiting,
    /// What it tries fails, and is tried again until its step's deadline.
    Blocked,
    /// It waits for a person's answer.
    Asks,
    /// It has stopped, and does nothing until a person lets it go on or ends it.
    Stopped,
}

impl ProcedureState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Running, Self::Waiting, Self::Blocked, Self::Asks, Self::Stopped];

    /// The word in tables, and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Asks => "asks",
            Self::Stopped => "stopped",
        }
    }
}

/// A procedure that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcedureStatus {
    /// Its name, as p7.
    pub id: String,
    /// How it was begun.
    pub command: String,
    /// The server that drives it.
    pub driver: ServerName,
    /// Where it stands.
    pub state: ProcedureState,
    /// The step it is at, from 1.
    pub step: usize,
    /// How many there are.
    pub steps: usize,
    /// What it does, waits for or asks, or why it has stopped.
    pub what: String,
    /// The servers that it has something to do with still.
    pub servers: Vec<ServerName>,
}

/// Something that was seen, to be folded into a [`FarmStatus`]. The manager's tasks send these; the monitor folds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The group record is now this one.
    Record(std::sync::Arc<crate::record::Record>),
    /// The head revision is now this one.
    Head {
        /// Its number.
        number: Number,
        /// When it was published, milliseconds since 1970.
        time_ms: u64,
        /// Its message.
        message: String,
    },
    /// How changes are noticed on this server, by set: by events (none), or why (also) by rescanning.
    Watching(BTreeMap<SetName, Option<String>>),
    /// Edits at the manager that are not a revision (yet), and why; none: there are none.
    Unpublished(Option<String>),
    /// What the observer deals with no more, a line each.
    Quarantined(Vec<String>),
    /// The sets as last scanned at the manager.
    Sets(Vec<SetStatus>),
    /// The procedures that are not over.
    Procedures(Vec<ProcedureStatus>),
    /// A server does not take this manager, or came back as one: shown until it is reached again.
    Fenced {
        /// Which.
        server: ServerName,
        /// Two managers in one epoch; otherwise it was superseded.
        conflict: bool,
        /// What happened, and what to do.
        reason: String,
    },
    /// The warnings of these servers were looked at.
    Acknowledged(Vec<ServerName>),
    /// A server led that epoch, and another one took over without it: shown until it is reached again.
    Led {
        /// Which.
        server: ServerName,
        /// The epoch.
        epoch: Epoch,
    },
    /// One server.
    Server(ServerName, Observation),
}

/// What was seen of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It answered and said where it is.
    Reached {
        /// Its program.
        program: Program,
        /// The revision it holds; none: none of this group's.
        at: Option<Number>,
        /// Its error, where it is in one.
        fault: Option<String>,
    },
    /// It does not answer (any more), and why.
    Lost(String),
    /// Began to bring it to this revision.
    Started {
        /// From anything to the manager's state; otherwise one change.
        sync: bool,
        /// To which revision.
        to: Number,
    },
    /// How far that is.
    Progress(Progress),
    /// It holds this revision: hashed after the switch, the root is the revision's.
    Done {
        /// The revision.
        revision: Number,
        /// From the publish (update) or the start (sync) to its report, in microseconds.
        micros: u64,
        /// Kept copies that it made.
        kept: Vec<String>,
    },
    /// It refused this revision before the switch and stays at the old one.
    Refused {
        /// The revision.
        revision: Number,
        /// What happened, what was left unchanged, what to do.
        reason: String,
        /// What stands in the way there and may pass; none: the revision itself.
        cause: Option<Cause>,
    },
    /// Its switch, rollback, disk or hash failed: it takes nothing until a sync (W8).
    Failed(String),
    /// Entries that differ from its revision; 0: none (any more).
    Drift {
        /// How many.
        entries: u64,
        /// The first few, as SET:PATH.
        paths: Vec<String>,
        /// It takes no updates because of them.
        held: bool,
        /// Kept copies of edits that it put back just now.
        kept: Vec<String>,
    },
    /// Why a set of its cannot be compared (its directory is another place, or not there to be read): it takes nothing
    /// meanwhile. None: all can (again).
    Away(Option<String>),
    /// It looked at all that it has.
    Verified(Verified),
    /// It holds this group record.
    Record(crate::record::Version),
    /// Somebody from outside the group asked it for something: who, from where, and what.
    Knocked(String),
    /// It left the group on its own machine.
    Left,
    /// It tried the group's balancers: why it cannot drive one; none: it can.
    Balancers(Vec<(BalancerName, Option<String>)>),
    /// That balancer had forgotten that it is drained, and was told again.
    DrainedAgain(BalancerName),
    /// It has seen revisions that are lost: which.
    SawLost(String),
    /// It is alive.
    Alive,
}
