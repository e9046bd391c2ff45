//! The rules under test: those of the program. Each can be replaced, so that a test can break one and see that the simulation
//! notices (a simulation that cannot fail shows nothing).

use bellwether_group::{
    edits::By,
    procedure::{self, Document, Holds, Next, Procedure, World},
    roles::{Leave, RoleRefused, hand_over, take_over},
    rollback_detection::{self, Holdings, Remembered, Said, Verdict},
    takeover::{Findings, Insists, Refused, Survey},
};
use bellwether_proto::{
    incarnation,
    key::PublicKey,
    name::ServerName,
    record::{Record, RecordRefused, SignedRecord, chain},
    revision::Epoch,
    ticket::{Given, Parties},
};

type Walk = fn(&SignedRecord, &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused>;
type TakeOver = fn(&SignedRecord, &PublicKey, Leave, Epoch, &By) -> Result<Record, RoleRefused>;
type HandOver = fn(&SignedRecord, &ServerName, Leave, &By) -> Result<Option<Record>, RoleRefused>;
type Recognise = fn(&Record, &Holdings<'_>, Option<(&Given, &Parties)>, &Remembered, &Said<'_>) -> Verdict;
type Judge = fn(&Survey<'_>, Insists) -> Result<Findings, Refused>;

/// The rules of a history.
#[derive(Clone, Copy)]
pub struct Rules {
    /// The shown records that a server takes.
    pub(crate) walk: Walk,
    /// The record by which a candidate takes over.
    pub(crate) take_over: TakeOver,
    /// Whether a candidate may take over, with the losses.
    pub(crate) judge: Judge,
    /// The record by which the manager hands over.
    pub(crate) hand_over: HandOver,
    /// The verdict at the beginning of a session: whose state went back.
    pub(crate) judge_hello: Recognise,
    /// The known tickets of a server that enters, perhaps again.
    pub(crate) entered: fn(Given) -> Option<Given>,
    /// Whether the sender is another start of the connected server.
    pub(crate) is_copy: fn(u64, u64) -> bool,
    /// The next action of a procedure.
    pub(crate) next: fn(&Procedure, &World, u64) -> Next,
    /// The servers that a recovery drains before it syncs them.
    pub(crate) holds: fn(&Document) -> Holds,
    /// Whether a revision is durable before it is offered.
    pub(crate) save_first: bool,
    /// Whether a member waits for its wave.
    pub(crate) waves: bool,
    /// Whether a member whose revision is unknown to the new manager keeps the replaced content.
    pub(crate) keep_forked: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            walk: chain::walk,
            take_over,
            judge: |survey, insists| survey.judge(insists),
            hand_over,
            judge_hello: rollback_detection::judge_hello,
            entered: |given| Some(given.entered()),
            is_copy: incarnation::is_copy,
            next: procedure::next,
            holds: Document::holds,
            save_first: true,
            waves: true,
            keep_forked: true,
        }
    }
}
