//! How a manager's stream begins and who may push, as rules without I/O. The push service and the simulation call the same
//! ones: [`links`], then the records that follow are taken and durable, then [`check`], [`Leader::is_copied_by`] and
//! [`ticket()`].

use bellwether_proto::{
    Malformed, incarnation,
    key::PublicKey,
    level::Program,
    limits,
    protocol::{self, Side},
    record::{Record, RecordRefused, Role, SignedRecord, stale_session},
    revision::SignedHeader,
    ticket::{self, Parties, Ticket},
    v1,
};
use bytes::Bytes;
use tonic::{Code, Status};

/// Why a stream does not begin, or ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refused {
    /// Which kind of refusal it is.
    pub why: Why,
    /// For people.
    pub what: String,
    /// What the manager reads from it, as [`bellwether_proto::record::refusal`] does; empty: nothing.
    pub details: Bytes,
}

/// The kind of a refusal: what a status of gRPC calls its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A message breaks the contract.
    Malformed,
    /// This server does not obey the one that speaks.
    Denied,
    /// What is held here does not allow it.
    Unfit,
}

impl Refused {
    fn new(why: Why, what: impl Into<String>) -> Self {
        Self { why, what: what.into(), details: Bytes::new() }
    }

    /// A message breaks the contract.
    pub fn malformed(what: impl Into<String>) -> Self {
        Self::new(Why::Malformed, what)
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self::malformed(malformed.to_string())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = match refused.why {
            Why::Malformed => Code::InvalidArgument,
            Why::Denied => Code::PermissionDenied,
            Why::Unfit => Code::FailedPrecondition,
        };
        Self::with_details(code, refused.what, refused.details)
    }
}

/// This server: its key and the group record that it holds.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// The server's key.
    pub own: &'a PublicKey,
    /// The record in force.
    pub record: &'a Record,
}

/// The records that a hello shows, oldest first, after the protocol is agreed. `read` checks one record of the wire.
///
/// # Errors
/// The programs have no protocol in common, or the records are missing, malformed or too many.
pub fn links(
    here: Here<'_>,
    hello: &v1::DownHello,
    mut read: impl FnMut(&v1::SignedRecord) -> Result<SignedRecord, Malformed>,
) -> Result<Vec<SignedRecord>, Refused> {
    let program = Program::own();
    let name = here.record.by_key(here.own).map_or("this server", |own| own.name.as_str());
    let ours = Side { server: name, program: &program.version, speaks: protocol::SPOKEN };
    let speaks = (hello.protocol_min, hello.protocol_max);
    let theirs = Side { server: here.record.manager().name.as_str(), program: &hello.version, speaks };
    protocol::negotiate(&ours, &theirs).map_err(|e| Refused::new(Why::Unfit, e.to_string()))?;
    let current = hello.record.as_ref().ok_or_else(|| Refused::malformed("a hello without a group record"))?;
    if hello.chain.len() > limits::CHAIN {
        let what = format!("a chain of {} records; the limit is {}", hello.chain.len(), limits::CHAIN);
        return Err(Refused::malformed(what));
    }
    Ok(hello.chain.iter().chain([current]).map(&mut read).collect::<Result<_, _>>()?)
}

/// Whether the server with the key `from` may begin a stream with that hello, by the record that is held after it.
///
/// # Errors
/// It may not push, or the head in the hello is not its own.
pub fn check(here: Here<'_>, from: &PublicKey, hello: &v1::DownHello) -> Result<(), Refused> {
    may_push(here, from)?;
    hello.head.as_ref().map_or(Ok(()), |head| check_head(here.record, head))
}

/// Only the manager of the record pushes, and only to a member that the record names.
///
/// # Errors
/// The server with the key `from` does not push, or not to this server.
pub fn may_push(here: Here<'_>, from: &PublicKey) -> Result<(), Refused> {
    let manager = here.record.manager();
    if manager.key != *from {
        let (theirs, ours) = (here.record.version, here.record.version);
        let what = format!("{from} is not the group's manager; that is {}", manager.name);
        let details = RecordRefused::Older { theirs, ours }.details();
        return Err(Refused { details, ..Refused::new(Why::Denied, what) });
    }
    match here.record.by_key(here.own).map(|server| server.role) {
        Some(Role::Member) => Ok(()),
        Some(Role::Manager) => Err(Refused::new(Why::Unfit, "this server is the group's manager")),
        Some(Role::Disabled) => Err(Refused::new(Why::Denied, "this server is disabled in the group")),
        None => Err(Refused::new(Why::Denied, "this server was removed from the group")),
    }
}

/// Only the manager announces revisions, and only its group's.
///
/// # Errors
/// The header is malformed, of another group, or not signed by the manager of `record`.
pub fn check_head(record: &Record, wire: &v1::SignedHeader) -> Result<(), Refused> {
    let head = SignedHeader::from_wire(wire.clone())?;
    let number = head.number();
    if !head.signed_by(&record.manager().key) {
        return Err(Refused::new(Why::Denied, format!("revision {number} is not signed by the group's manager")));
    }
    if head.header().group != record.group {
        return Err(Refused::new(Why::Denied, format!("revision {number} is of group {}", head.header().group)));
    }
    Ok(())
}

/// The manager whose stream is followed, as another hello has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Its key.
    pub key: PublicKey,
    /// Its incarnation.
    pub incarnation: u64,
}

impl Leader {
    /// Whether a hello of that key and start comes from another start of this manager (W14). If the followed stream says
    /// something after that, one of the two machines is a copy, and the hello is refused by [`Leader::copied`].
    pub fn is_copied_by(&self, from: &PublicKey, incarnation: u64) -> bool {
        self.key == *from && incarnation::is_copy(self.incarnation, incarnation)
    }

    /// The refusal of a hello of another start of this manager, which lives.
    pub fn copied(&self, incarnation: u64) -> Refused {
        let what = format!(
            "another start of this manager (number {}) leads this server and lives, this is number {}: one is a copy of the \
             other's machine; nothing was changed\nstop the copy, and on it: bellwether leave --force",
            incarnation::opened(self.incarnation),
            incarnation::opened(incarnation)
        );
        Refused::new(Why::Unfit, what)
    }
}

/// The ticket that is to be on the disk before the manager is answered; none: `held` is that one. `offered`: the hello's.
///
/// # Errors
/// It is not the manager's for this server, or the manager's state went back: then the details carry the proof.
pub fn ticket(here: Here<'_>, held: Option<&Ticket>, offered: Ticket) -> Result<Option<Ticket>, Refused> {
    let record = here.record;
    let parties = Parties { group: record.group, server: *here.own, manager: record.manager().key };
    if !offered.is_current(&parties, record.version.epoch) {
        return Err(Refused::new(Why::Denied, "the session's ticket is not the manager's for this server"));
    }
    match ticket::accept(held, &offered) {
        Ok(newer) => Ok(newer.then_some(offered)),
        Err(back) => {
            let details = stale_session(record.version, held.map(Ticket::to_wire));
            Err(Refused { details, ..Refused::new(Why::Unfit, back.to_string()) })
        }
    }
}
