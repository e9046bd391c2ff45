//! The rules under test: those of the program, each replaceable, so that a test can break one and see that the simulation
//! notices (a simulation that cannot fail shows nothing).

use bellwether_manager::{
    Leave, RoleRefused,
    group::By,
    roles::{hand_over, take_over},
};
use bellwether_proto::{
    admission::{Authority, admit},
    key::PublicKey,
    name::ServerName,
    record::{Record, RecordRefused, SignedRecord, chain},
    revision::{Epoch, SignedHeader},
};

type Walk = fn(&SignedRecord, &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused>;
type Admit = fn(&Authority, Option<&SignedHeader>, &SignedHeader, bool) -> Result<(), String>;
type TakeOver = fn(&SignedRecord, &PublicKey, Leave, Epoch, &By) -> Result<Record, RoleRefused>;
type HandOver = fn(&SignedRecord, &ServerName, Leave, &By) -> Result<Option<Record>, RoleRefused>;

/// The rules that a history runs by.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Which records a server takes that holds one and is shown others.
    pub(crate) walk: Walk,
    /// Whether a member takes a revision.
    pub(crate) admit: Admit,
    /// The record by which a candidate takes over.
    pub(crate) take_over: TakeOver,
    /// The record by which the manager hands over.
    pub(crate) hand_over: HandOver,
    /// A revision is durable before it is offered.
    pub(crate) save_first: bool,
    /// A member that the new manager's history does not know keeps what is replaced.
    pub(crate) keep_forked: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { walk: chain::walk, admit, take_over, hand_over, save_first: true, keep_forked: true }
    }
}
