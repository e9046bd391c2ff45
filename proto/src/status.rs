//! The known state of the farm: the document behind `status --json`, the monitor and the page.

mod batch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    level::{Levels, Program},
    name::{BalancerName, ServerName, SetName},
    record::Role,
    revision::{Epoch, Number},
};

pub use self::batch::{Batch, BatchState};

/// A server's state as the sync monitor shows it (W15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was reached, but holds no revision of this group yet.
    AwaitingSync,
    /// The bytes on its disk were hashed after the switch and give the head's root (invariant 5).
    InSync,
    /// It is being brought from any state to the head.
    Syncing,
    /// It takes one change.
    Updating,
    /// It is known, and gets no updates.
    Disabled,
    /// The group is being changed: it has not taken the newest group record yet.
    GroupChange,
    /// It left the group on its own machine (W22).
    Left,
    /// It is in sync at an older revision, and refused the newest before the switch.
    Refused,
    /// It is in sync at an older revision: an obstacle to the newest may pass, and the revision is tried again.
    Waiting,
    /// It holds the revision with edits of its own on top (drift).
    Drifted,
    /// A switch, rollback, disk or hash failed: it takes nothing until a sync (W8).
    Error,
    /// It does not answer.
    Unreachable,
    /// It was the manager, has come back, and is refused (W26).
    Superseded,
    /// Two managers in one epoch: it is the other one, or follows it.
    Conflict,
    /// It has not been asked yet.
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

/// An obstacle to a revision on one server before the switch, which may pass (W8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Too little is free on a file system (W4).
    Space,
    /// A quota is used up.
    Quota,
    /// A file system is mounted for reading only.
    ReadOnly,
    /// A mount point, a link or a special file is in the place of an entry.
    InTheWay,
    /// An account is missing.
    Account,
    /// An entry is immutable, or may only be appended to (chattr(1)).
    Flag,
    /// A process uses the entry to be replaced.
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

    /// The next action for people, or that none is needed.
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
    /// The obstacle in a report; none: the revision itself.
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

/// The progress of a running sync or update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `receiving`, `staging`, `switching` or `verifying`; `validating`, `reloading` or `checking` while commands run.
    pub phase: String,
    /// Files done.
    pub files: u64,
    /// Files in all.
    pub files_total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes per second since its start, as the monitor observes it; 0: not known.
    pub bytes_per_s: u64,
}

impl Progress {
    /// A phase without figures.
    pub fn phase(phase: &str) -> Self {
        Self { phase: phase.to_owned(), files: 0, files_total: 0, bytes: 0, bytes_total: 0, bytes_per_s: 0 }
    }
}

/// A server's finding after it looked at all its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The time at which the manager heard of it, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whether every byte was hashed; otherwise every entry's stat was compared.
    pub full: bool,
    /// The number of entries.
    pub entries: u64,
    /// The duration, in microseconds.
    pub micros: u64,
    /// Whether they give the root hash of the head revision.
    pub equal: bool,
    /// The first entry that cannot be read, and why; empty: all were read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unread: String,
}

/// The observed state of one server.
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
    /// The number of revisions that it is behind the head.
    pub lag_revisions: u64,
    /// The time for which it has been behind, in milliseconds; 0 when it is not.
    pub lag_ms: u64,
    /// The reason of a bad state, and the next action.
    pub reason: Option<String>,
    /// The obstacle to the newest revision, in state [`State::Waiting`].
    pub waits_for: Option<Cause>,
    /// In state [`State::Refused`] the end of the output of the command that refused the newest revision; empty: none did.
    #[serde(default)]
    pub output: String,
    /// The first few entries that differ from the revision.
    pub drift: Vec<String>,
    /// The number of entries that differ.
    pub drift_entries: u64,
    /// Whether it takes no updates until they are kept or reverted (policy `hold`).
    pub held: bool,
    /// Present while syncing or updating.
    pub progress: Option<Progress>,
    /// The time at which it was last heard of, in milliseconds since 1970; none: never.
    pub seen_ms: Option<u64>,
    /// The time from the publish to this server's report, of the last update, in microseconds.
    pub last_update_us: Option<u64>,
    /// Its program's version.
    pub version: Option<String>,
    /// The format levels that its program reads; none: it was not heard of, or the observer is too old to report them.
    #[serde(default)]
    pub levels: Option<Levels>,
    /// The newest kept copies it made.
    pub kept: Vec<String>,
    /// The time at which the newest of them was reported, in milliseconds since 1970.
    pub kept_ms: Option<u64>,
    /// Whether the group record has it out of service.
    pub drained: bool,
    /// The last `verify` of it.
    pub verified: Option<Verified>,
    /// Whether it could drive the group's balancers: of the manager and of candidates.
    pub balancers: Vec<Reach>,
    /// Requests to it from outside the group, until a person acknowledges them, or for a day.
    pub warning: Option<Warning>,
}

/// Requests from outside the group (W15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The last request: its key, its origin and its method.
    pub what: String,
    /// The time at which it was heard of, in milliseconds since 1970.
    pub time_ms: u64,
    /// The number of requests that the monitor was told of.
    pub requests: u64,
}

/// Whether one server can drive one balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The balancer.
    pub balancer: BalancerName,
    /// The reason why it cannot; none: it can.
    pub fault: Option<String>,
    /// The time of this report, in milliseconds since 1970.
    pub time_ms: u64,
}

/// One set at the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStatus {
    /// Its name.
    pub name: SetName,
    /// Entries in the head revision.
    pub entries: u64,
    /// The way in which changes are noticed at the manager: `events`, or the reason for rescanning (too).
    pub watching: String,
    /// The entries that were left out, with reasons, reported once: sockets, setuid bits …
    pub notices: Vec<String>,
    /// Entries that cannot be published as they are now: they stay as in the last revision and are tried again.
    pub unread_entries: u64,
    /// The first of them.
    pub unread: Vec<UnreadEntry>,
    /// The first files of the head revision that a program had open for writing when they were published.
    pub open: Vec<String>,
    /// The way in which open files are detected; none: no file has changed since the manager was started.
    pub writers: Option<Writers>,
}

/// An entry that cannot be published as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadEntry {
    /// The path in its set; empty for the set's root.
    pub path: String,
    /// The kind of reason.
    pub cause: UnreadCause,
    /// For people: "cannot be read: Permission denied", …
    pub reason: String,
    /// Since this time, in milliseconds since 1970.
    pub since_ms: u64,
}

/// The reason why an entry cannot be published now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnreadCause {
    /// A program has it open for writing: it is waited for up to the group's `open_max`.
    Open,
    /// It changed while it was read.
    Changing,
    /// The system's error: no permission, a bad sector, …
    Unreadable,
    /// A mount or a symbolic link is in its place.
    Held,
    /// It is over the limits.
    Large,
}

/// The way in which files that are open for writing are detected, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writers {
    /// By a lease: every writer of that machine is seen.
    Lease,
    /// By the open files of the processes of that machine.
    Descriptors,
    /// The state is not known: a file may be published while it is written.
    Unknown,
}

/// The farm, as one server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmStatus {
    /// The observing server.
    pub observer: ServerName,
    /// The time of the observation, in milliseconds since 1970.
    pub time_ms: u64,
    /// The group record's version.
    pub record: String,
    /// The manager.
    pub manager: ServerName,
    /// The head revision.
    pub head: Option<Number>,
    /// The time of its publishing, in milliseconds since 1970.
    pub head_time_ms: Option<u64>,
    /// Its message.
    pub head_message: String,
    /// Propagation is held (W6).
    pub paused: bool,
    /// `auto` or `manual`.
    pub publish: String,
    /// The way in which changes are noticed: `events`, or the sets with their reasons for rescanning (too).
    pub watching: String,
    /// Edits at the manager that are not a revision (yet): the reason, or their number.
    pub unpublished: Option<String>,
    /// Whether those edits go on at this moment, and are published by themselves when they pause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// The observer's quarantines: each with its reason and the way to lift it.
    pub quarantined: Vec<String>,
    /// The sets.
    pub sets: Vec<SetStatus>,
    /// Problems of the observer's own configuration, with the next actions.
    pub warnings: Vec<String>,
    /// The servers, sorted by name.
    pub servers: Vec<ServerStatus>,
    /// The time (milliseconds since 1970) of the manager's report that a member shows; none: the rows are its own.
    pub told_ms: Option<u64>,
    /// The procedures that are not over, oldest first.
    pub procedures: Vec<ProcedureStatus>,
    /// The reason why the observer is no server of the group any more, with the next action; none: it is one.
    pub expelled: Option<String>,
    /// The rollout of the head in waves; none: it goes to all members at once, or the observer does not know.
    #[serde(default)]
    pub rollout: Option<RolloutStatus>,
    /// The batch at the manager; none: there is none.
    #[serde(default)]
    pub batch: Option<Batch>,
    /// Forgotten contents that some servers still hold.
    #[serde(default)]
    pub forgets: Vec<ForgetStatus>,
}

/// A forgotten content that some servers still hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetStatus {
    /// The number of the note in the group record.
    pub id: u64,
    /// The place that had the content, as `SET:PATH`.
    pub place: String,
    /// The servers that hold it, or may hold it, each with the reason.
    pub holders: Vec<(ServerName, String)>,
}

/// The state of a procedure that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcedureState {
    /// It does its step.
    Running,
    /// It waits for an automatic event, until its step's deadline.
    Waiting,
    /// Its action fails, and is tried again until its step's deadline.
    Blocked,
    /// It waits for a person's answer.
    Asks,
    /// It has stopped, and does nothing until a person resumes or ends it.
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
    /// Its name, such as p7.
    pub id: String,
    /// The command that began it.
    pub command: String,
    /// The server that drives it.
    pub driver: ServerName,
    /// Its state.
    pub state: ProcedureState,
    /// The current step, from 1.
    pub step: usize,
    /// The number of steps.
    pub steps: usize,
    /// Its action, wait or question, or the reason of its stop.
    pub what: String,
    /// The servers on which it still works.
    pub servers: Vec<ServerName>,
}

/// The state of the rollout of the head revision in waves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// The members whose sets have commands that validate stage the revision and validate it. No member switches to it.
    Staging,
    /// The members of the present wave take the revision.
    Running,
    /// The present wave has it, and the next one begins when the soak time is over.
    Soaking,
    /// It goes to no further member: too many failed, or a person stopped it.
    Stopped,
    /// All waves have it; members that were late get it when they answer.
    Done,
    /// The head has the content from before a revision whose rollout had stopped.
    TakenBack,
}

impl RolloutState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Staging, Self::Running, Self::Soaking, Self::Stopped, Self::Done, Self::TakenBack];

    /// The word in JSON and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Running => "running",
            Self::Soaking => "soaking",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::TakenBack => "taken_back",
        }
    }
}

/// The rollout of the head revision in waves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The head.
    pub revision: Number,
    /// Its state.
    pub state: RolloutState,
    /// The present wave, from 1; at the end, the last one.
    pub wave: usize,
    /// The number of waves.
    pub waves: usize,
    /// The number of members that are not disabled.
    pub members: usize,
    /// The number of them that hold the revision and are well.
    pub holding: usize,
    /// The members that are not waited for.
    pub late: Vec<ServerName>,
    /// The members that failed with it.
    pub failed: Vec<ServerName>,
    /// The members that can validate only after their switch. They take the revision first, one at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<ServerName>,
    /// The time until which somebody has to confirm it, in milliseconds since 1970; none: nobody has to (any more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_until_ms: Option<u64>,
    /// A member has refused it before any member switched to it: the next revision takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untouched: bool,
    /// The end of the soak time, in state [`RolloutState::Soaking`], in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// The reason of a stop, or of a revision that was taken back.
    pub reason: Option<String>,
    /// The revision whose content was taken back, in state [`RolloutState::TakenBack`].
    pub taken_back: Option<Number>,
    /// The next command.
    pub next: Option<String>,
}

/// An observation, to be folded into a [`FarmStatus`]. The manager's tasks send these; the monitor folds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The group record is now this one.
    Record(std::sync::Arc<crate::record::Record>),
    /// The head revision is now this one.
    Head {
        /// Its number.
        number: Number,
        /// The time of its publishing, in milliseconds since 1970.
        time_ms: u64,
        /// Its message.
        message: String,
    },
    /// The way in which changes are noticed here, by set: by events (none), or the reason for rescanning (too).
    Watching(BTreeMap<SetName, Option<String>>),
    /// Edits at the manager that are not a revision (yet), with the reason; none: there are none.
    Unpublished(Option<String>),
    /// Whether edits at the manager go on, and are published when they pause.
    Pending(bool),
    /// The observer's quarantines, one line each.
    Quarantined(Vec<String>),
    /// The sets as last scanned at the manager.
    Sets(Vec<SetStatus>),
    /// The procedures that are not over.
    Procedures(Vec<ProcedureStatus>),
    /// The rollout of the head in waves; none: it goes to all members at once.
    Rollout(Option<Box<RolloutStatus>>),
    /// The batch at the manager; none: there is none (any more).
    Batch(Option<Box<Batch>>),
    /// A server refuses this manager, or came back as one: shown until it is reached again.
    Fenced {
        /// The server.
        server: ServerName,
        /// Two managers in one epoch; otherwise it was superseded.
        conflict: bool,
        /// The event, and the next action.
        reason: String,
    },
    /// A person acknowledged the warnings of these servers.
    Acknowledged(Vec<ServerName>),
    /// A server led that epoch, and another one took over without it: shown until it is reached again.
    Led {
        /// The server.
        server: ServerName,
        /// The epoch.
        epoch: Epoch,
    },
    /// An observation of one server.
    Server(ServerName, Observation),
}

/// An observation of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It answered and reported its position.
    Reached {
        /// Its program.
        program: Program,
        /// The revision that it holds; none: no revision of this group.
        at: Option<Number>,
        /// Its error, if it is in error.
        fault: Option<String>,
    },
    /// It does not answer (any more), for this reason.
    Lost(String),
    /// It begins to go to this revision.
    Started {
        /// Whether this is a sync; otherwise one change.
        sync: bool,
        /// The revision.
        to: Number,
    },
    /// Its progress to that revision.
    Progress(Progress),
    /// Whether one of its sets has a command that validates. Said right before [`Observation::Reached`].
    Validates(bool),
    /// It holds this earlier revision again: nobody confirmed the one after it, or a command refused that.
    Returned(Number),
    /// It has staged this revision, none of its commands refuses the revision, and it waits for the other members.
    Staged {
        /// The revision.
        revision: Number,
        /// Its commands can validate only after the switch.
        later: bool,
    },
    /// It holds this revision: the files were hashed after the switch and give the revision's root.
    Done {
        /// The revision.
        revision: Number,
        /// The time from the publish (update) or the start (sync) to its report, in microseconds.
        micros: u64,
        /// Kept copies that it made.
        kept: Vec<String>,
    },
    /// It refused this revision, before the switch or by a command after it, and holds the one before.
    Refused {
        /// The revision.
        revision: Number,
        /// The event, the unchanged state and the next action.
        reason: String,
        /// The obstacle, which may pass; none: the revision itself.
        cause: Option<Cause>,
        /// The end of the output of the command that refused it; empty: none did.
        output: String,
    },
    /// Its switch, rollback, disk or hash failed: it takes nothing until a sync (W8).
    Failed(String),
    /// Entries that differ from its revision; 0: none (any more).
    Drift {
        /// The number of entries.
        entries: u64,
        /// The first few, as SET:PATH.
        paths: Vec<String>,
        /// Whether it takes no updates because of them.
        held: bool,
        /// Kept copies of edits that it put back just now.
        kept: Vec<String>,
    },
    /// The reason why one of its sets cannot be compared (its directory is in another place, or unreadable): it takes
    /// nothing meanwhile. None: all sets can (again).
    Away(Option<String>),
    /// It looked at all its entries.
    Verified(Verified),
    /// It holds this group record.
    Record(crate::record::Version),
    /// A request from outside the group: its key, its origin and its method.
    Knocked(String),
    /// It left the group on its own machine.
    Left,
    /// It tried the group's balancers; for each the reason why it cannot drive it; none: it can.
    Balancers(Vec<(BalancerName, Option<String>)>),
    /// That balancer had forgotten that the server is drained, and was told again.
    DrainedAgain(BalancerName),
    /// For each forgotten content, by its number in the record, the reason why it still holds the content; none: it does not.
    Forgets(BTreeMap<u64, Option<String>>),
    /// It has seen these lost revisions.
    SawLost(String),
    /// It is alive.
    Alive,
}
