//! The edits of the group record: one variant each, and one rule for all.

use bellwether_proto::{
    Malformed,
    name::ServerName,
    record::{Record, SignedRecord},
    revision::RevisionId,
    v1::{self, edit_record_request::Edit},
};

use super::{
    By, GroupRefused, PolicyChange, ServerChange, add_again, bring_back, confirm, disable, enable,
    level::{Programs, may_raise},
    remove, set_drained, set_paused, set_policy, set_server,
};

/// One edit of the group record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordEdit {
    /// Holds propagation, or lets it continue (W6).
    Paused(bool),
    /// Changes the group's settings.
    Policy(Box<PolicyChange>),
    /// Changes the record's fields of a server.
    Server(ServerName, ServerChange),
    /// Makes a removed or disabled server a member again (W25).
    Add(ServerName),
    /// As [`RecordEdit::Add`], and out of service until it is complete, in the same record (W19, W21).
    BringBack(ServerName),
    /// Removes a server from the group (W16, W27).
    Remove(ServerName),
    /// Disables a server: it gets no updates, and is refused (W21).
    Disable(ServerName),
    /// Makes a disabled server a member again.
    Enable(ServerName),
    /// Confirms a revision: no server takes it back any more.
    Confirmed(RevisionId),
    /// Takes servers out of service, or brings them back (W12).
    Drained(Vec<ServerName>, bool),
}

impl TryFrom<Option<Edit>> for RecordEdit {
    type Error = Malformed;

    fn try_from(wire: Option<Edit>) -> Result<Self, Malformed> {
        Ok(match wire.ok_or_else(|| Malformed::new("an edit of the group record that names none"))? {
            Edit::Paused(paused) => Self::Paused(paused),
            Edit::SetPolicy(change) => Self::Policy(Box::new(change.try_into()?)),
            Edit::SetServer(v1::SetServer { server, address, candidate, backends, replace_backends }) => {
                let backends = replace_backends.then_some(backends);
                Self::Server(server.parse()?, ServerChange { address, candidate, backends })
            }
            Edit::AddServer(name) => Self::Add(name.parse()?),
            Edit::RemoveServer(name) => Self::Remove(name.parse()?),
            Edit::DisableServer(name) => Self::Disable(name.parse()?),
            Edit::EnableServer(name) => Self::Enable(name.parse()?),
        })
    }
}

/// The record after `held` with that edit; none: it has it already. `programs` are the servers' known programs.
///
/// # Errors
/// The edit is refused; the record stays as it is.
pub fn apply(
    held: &SignedRecord,
    edit: &RecordEdit,
    programs: &Programs,
    by: &By,
) -> Result<Option<Record>, GroupRefused> {
    match edit {
        RecordEdit::Paused(paused) => Ok(set_paused(held, *paused, by)),
        RecordEdit::Policy(change) => {
            if let Some(level) = change.level {
                may_raise(held.record(), level, programs)?;
            }
            set_policy(held, change, by)
        }
        RecordEdit::Server(name, change) => set_server(held, name, change, by),
        RecordEdit::Add(name) => add_again(held, name, by),
        RecordEdit::BringBack(name) => bring_back(held, name, by),
        RecordEdit::Remove(name) => remove(held, name, by),
        RecordEdit::Disable(name) => disable(held, name, by),
        RecordEdit::Enable(name) => enable(held, name, by),
        RecordEdit::Confirmed(revision) => Ok(confirm(held, *revision, by)),
        RecordEdit::Drained(servers, drained) => Ok(set_drained(held, servers, *drained, by)),
    }
}
