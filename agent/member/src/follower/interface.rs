//! What goes into the member's machine, and what comes out of it.

use std::time::Instant;

pub use bellwether_local::prove::Complaint;
use bellwether_proto::{
    entry::Chunk,
    hash::Hash,
    key::PublicKey,
    record::{OnDrift, Record},
    revision::{Epoch, Number, RevisionId, SignedHeader},
    status::{Cause, Observation},
    v1::{self, down, up},
};
use bellwether_store::scan::Look;

/// What holds at the moment of an input.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The clock that never goes back.
    pub now: Instant,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// The group record in force.
    pub record: &'a Record,
    /// The manager of an epoch, as far as the chain of records tells.
    pub manager_of: &'a dyn Fn(Epoch) -> Option<PublicKey>,
    /// Why the pack of a revision is not to be touched, in a sentence for people.
    pub quarantined: &'a dyn Fn(Number) -> Option<String>,
    /// The revision that the sets hold, by the position on the disk.
    pub at: Option<&'a SignedHeader>,
    /// The error that a sync has to clear, by the same (W8).
    pub fault: Option<&'a v1::Fault>,
    /// The revision before, while the commands of the one that the sets hold have not ended well.
    pub proven: Proven<'a>,
    /// The header of a revision, if it is the one that the sets hold, or a later one whose tree the history has.
    pub kept: &'a dyn Fn(RevisionId) -> Option<SignedHeader>,
}

/// What becomes of an offered revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is staged, validated and switched to.
    Switch,
    /// It is staged and validated, and waits for the manager.
    Stage,
    /// Its pack goes into the history: a later revision is switched to instead.
    Keep,
}

impl Purpose {
    /// By an offer.
    pub fn from_wire(wire: v1::Use) -> Self {
        match wire {
            v1::Use::Unspecified => Self::Switch,
            v1::Use::Stage => Self::Stage,
            v1::Use::Keep => Self::Keep,
        }
    }
}

/// Whether the commands of the revision that the sets hold have ended well.
#[derive(Debug, Clone, Copy)]
pub enum Proven<'a> {
    /// They have, or there are none.
    Yes,
    /// Not yet. With the revision before, where there was one.
    NotYet(Option<&'a SignedHeader>),
}

/// Whether edits of the sets hold updates back, where the revision `at` is held (none: none is).
pub fn holds(record: &Record, at: Option<&SignedHeader>) -> bool {
    at.is_some() && record.policy.drift == OnDrift::Hold
}

/// What happens, and what the disk answers.
#[derive(Debug)]
pub enum Input {
    /// A manager's stream has begun. The hello says what only the disk knows: the ticket, the interrupted pack, the
    /// incarnation, the revisions that were heard of.
    Opened {
        /// The stream's number.
        session: u64,
        /// The manager's key.
        key: PublicKey,
        /// The beginnings of the answer.
        hello: Box<v1::UpHello>,
    },
    /// That stream has brought a message.
    Said(u64, down::Message),
    /// That stream has ended.
    Closed(u64),
    /// Something has changed in the sets.
    Changed(Look),
    /// Everything is to be looked at, though nothing says that something has changed.
    Rescan,
    /// Everything else is done: what has waited for that may be done.
    CatchUp,
    /// A person asks about the sets, who does not wait for a staged revision.
    Asked,
    /// The policy may want edits to be put back.
    Revert,
    /// The time has come to look whether the obstacle of a refused revision is gone.
    LookForObstacle,
    /// The answer to [`Output::LookForObstacle`]; none: it cannot be told.
    Obstacle(Option<bool>),
    /// The answer to [`Output::Receive`] and [`Output::Slice`].
    Arrived(Result<Arrived, Trouble>),
    /// The answer to [`Output::Keep`]: the chunks that this server lacks, if the revision is to be staged.
    Kept(Result<Vec<Chunk>, Trouble>),
    /// The answer to [`Output::Supply`]: the chunks that came.
    Supplied(Result<Vec<Hash>, Trouble>),
    /// The answer to [`Output::Finish`].
    Finished(Result<(), String>),
    /// The answer to [`Output::Back`]: the chunks that this server lacks.
    Planned(Result<Vec<Chunk>, Trouble>),
    /// The answer to [`Output::Stage`].
    Staged(Result<Validation, Trouble>),
    /// Commands are still running; what they do, in a word. After [`Output::Validate`] and [`Output::Prove`].
    Working(&'static str),
    /// The commands of [`Output::Validate`] have ended.
    Validated(Validated),
    /// The answer to [`Output::Switch`].
    Switched(Switched),
    /// Nobody has confirmed the revision that the sets hold in time: they go back.
    Unconfirmed(Complaint),
    /// The commands of [`Output::Prove`] have ended.
    Proved(Result<(), Complaint>),
    /// The answer to [`Output::Return`].
    Returned(Result<Returned, String>),
    /// The role begins, and the commands of the revision that the sets hold had not ended.
    Owed(Box<Owed>),
    /// The sets were compared with the revision.
    Compared(Edits),
    /// The answer to [`Output::Verify`].
    Verified(v1::Verified, Edits),
    /// Edits were put back.
    PutBack {
        /// The kept copies.
        kept: Vec<String>,
        /// The edits that are there now.
        edits: Edits,
        /// Commands are to show that the services work with what is back.
        owed: bool,
    },
    /// Putting edits back has failed in the middle of the switch.
    Failed(String),
}

/// How far a pack is.
#[derive(Debug)]
pub enum Arrived {
    /// More bytes are on their way.
    More,
    /// The whole pack.
    Whole,
    /// All bytes that were promised, among them all changes, but not the pack.
    Paused {
        /// The chunks that are neither here nor have come.
        missing: Vec<Chunk>,
        /// Bytes of all chunks that the pack would bring, before compression.
        in_pack: u64,
        /// The bytes of the pack that have not come.
        rest: v1::Range,
    },
}

/// Why a revision is not taken. Nothing live was touched.
#[derive(Debug)]
pub struct Trouble {
    /// For people.
    pub reason: String,
    /// What stands in the way and may pass; none: the pack, or how this server is set up.
    pub cause: Option<Cause>,
    /// What is to be looked at, for it is not as it was known.
    pub look: Option<Look>,
    /// The end of the output of the command that refuses it; empty: none does.
    pub output: String,
}

/// When the commands that validate run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// There are none.
    Nothing,
    /// Before the switch: they see what is staged at the sets' own paths.
    Before,
    /// After it, and before any reload: what is staged cannot be shown here.
    After,
}

/// How the commands that validate have ended.
#[derive(Debug)]
pub enum Validated {
    /// Well.
    Good,
    /// One refuses the revision.
    Bad(Complaint),
    /// They cannot run before the switch.
    Unable,
}

/// What was owed as the agent ended.
#[derive(Debug)]
pub struct Owed {
    /// The revision that the sets hold.
    pub held: SignedHeader,
    /// What they make.
    pub root: Hash,
    /// Where the sets go, or have come from, for that reason; none: the commands of `held` are owed.
    pub back: Option<Back>,
}

/// On the way back.
#[derive(Debug)]
pub enum Back {
    /// The sets still hold the revision that is refused.
    Goes(Complaint),
    /// The sets hold the one before it; its commands are owed.
    Came(Box<SignedHeader>, Complaint),
}

/// The sets hold the revision before.
#[derive(Debug)]
pub struct Returned {
    /// That revision.
    pub header: SignedHeader,
    /// Kept copies that were made.
    pub kept: Vec<String>,
    /// The edits that are there now.
    pub edits: Edits,
}

/// How a switch has ended.
#[derive(Debug)]
pub enum Switched {
    /// Before its first exchange: the sets are as they were.
    Refused(Trouble),
    /// Later: the server is in error.
    Failed(String),
    /// The position names the new revision, durably.
    Done {
        /// What was read back makes this root.
        root: Hash,
        /// Microseconds of staging.
        stage_us: u64,
        /// Microseconds of the switch.
        switch_us: u64,
        /// Kept copies that were made.
        kept: Vec<String>,
        /// The edits that are there now.
        edits: Edits,
        /// Commands are to show that the services work with it.
        owed: bool,
    },
}

/// What the sets hold beside the revision.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    /// How many entries.
    pub entries: u64,
    /// The first of them, as `SET:PATH`.
    pub paths: Vec<String>,
    /// Some are in no revision.
    pub ungiven: bool,
    /// Why sets cannot be compared; empty: all were.
    pub away: String,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Output {
    /// The manager is told. If that is not possible at once, its stream has ended.
    Send(up::Message),
    /// The monitor is told.
    See(Observation),
    /// A head that was not known is noted.
    Head(SignedHeader),
    /// What this server holds is shown anew: its readiness, its tree.
    Show,
    /// The error, or that there is none, goes to the position, durably.
    Fault(Option<String>),
    /// In one durable step no revision is held any more, and this is the error. The sets stay.
    Fence(String),
    /// What is under way is dropped; what has arrived of a pack is kept.
    Drop,
    /// The pack of that revision is begun; the answer is the next input. `forked`: all that it replaces is kept, for it does
    /// not descend from this revision, which is held.
    Receive {
        /// The offer.
        offer: v1::Offer,
        /// Its header.
        header: SignedHeader,
        /// What is held.
        forked: Option<Number>,
        /// Its changes are planned as they come; otherwise they only go into the history.
        plan: bool,
    },
    /// These bytes are added to the pack; the answer is the next input.
    Slice(v1::Slice),
    /// The rest of the pack's bytes will come.
    Rest,
    /// The pack's changes stay, its bytes are dropped: chunks will come.
    Fill,
    /// The whole pack that has arrived goes into the history. If `stage`, the way from the revision that is held to this one is
    /// then staged from what is here. The answer is the next input.
    Keep {
        /// It is staged.
        stage: bool,
    },
    /// The pack of what is staged goes into the history, although it is not switched to. A failure changes nothing.
    Shelve,
    /// These chunks are staged; the answer is the next input.
    Supply(v1::Supply),
    /// Everything is staged, and verified; the answer is the next input.
    Stage {
        /// Its pack goes into the history now, and not with the switch.
        keep: bool,
    },
    /// The commands that validate are begun, and see what is staged.
    Validate,
    /// What is staged is switched to, read back and noted; the answer is the next input. The commands that validate have run
    /// (or there are none), or run afterwards.
    Switch(Validation),
    /// The commands of what the sets hold now are begun.
    Prove,
    /// They have ended well, which is noted durably.
    Proved,
    /// The sets go back to the revision before, for that reason, which is noted first; the answer is the next input.
    Return(Complaint),
    /// The report is sent: what a switch leaves to be tidied up is tidied up.
    Tidy(SignedHeader),
    /// An interrupted switch is completed or taken back; the answer is the next input.
    Finish,
    /// The way back to the revision that is held is staged, from what is here; the answer is the next input.
    Back {
        /// The revision.
        header: SignedHeader,
        /// Every byte is read first.
        bytes: bool,
    },
    /// The sets are looked at there, and compared; the answer is the next input. `plain`: only because it is time.
    Look {
        /// Where.
        look: Look,
        /// Nothing is known to have changed.
        plain: bool,
    },
    /// Everything is looked at, every byte where it says so; the answer is the next input.
    Verify {
        /// Every byte.
        full: bool,
    },
    /// All edits are put back, as the policy says.
    PutBack,
    /// Whether the obstacle of the last refusal is still there; the answer is the next input.
    LookForObstacle,
}
