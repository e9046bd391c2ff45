//! Who is the manager, and how that changes: the rules that make the record of a new epoch, at a handover (W18) and at a
//! takeover by a candidate (W24).

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    key::PublicKey,
    limits,
    name::ServerName,
    record::{Record, Role, Server, SignedRecord, Version},
    revision::{Epoch, after},
};

use crate::edits::{self, By};

/// What the old manager becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It follows the new one.
    Member,
    /// It is known, and sent nothing: for its maintenance, or because it is lost.
    Disabled,
    /// It is not of the group any more.
    Removed,
}

/// Why the role does not change. The record stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleRefused {
    /// Never heard of.
    #[error("there is no server {0} in this group")]
    Unknown(ServerName),
    /// It is sent nothing.
    #[error("{0} is disabled, so it does not have what the manager has")]
    Disabled(ServerName),
    /// It may not become manager.
    #[error("{0} is not a candidate: it may not become manager")]
    NoCandidate(ServerName),
    /// No epoch that is free can be reached in one step.
    #[error(
        "epoch {seen} is in use, and from {held} one record leads to epoch {most} at most",
        most = held.0 + limits::EPOCH_STEP
    )]
    Epochs {
        /// The highest that is known anywhere.
        seen: Epoch,
        /// That of the record held here.
        held: Epoch,
    },
    /// A number that cannot be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Its key is not in the record.
    #[error("this server is not in the group record that it holds; let it join again")]
    Stranger,
}

impl Advise for RoleRefused {
    fn advice(&self) -> Option<Advice> {
        Some(match self {
            Self::Unknown(_) => Advice::run("see", "bellwether server list"),
            Self::Disabled(name) => Advice::run("first", format!("bellwether server enable {name}")),
            Self::NoCandidate(name) => {
                Advice::run("first, at the manager", format!("bellwether server set {name} --candidate yes"))
            }
            Self::Stranger => Advice::say("let it join again, with a token"),
            Self::Epochs { .. } => Advice::run(
                "if a server that cannot be trusted made that epoch, here",
                "bellwether group rebuild --refuse KEY",
            ),
            Self::Malformed(_) => return None,
        })
    }
}

/// The record with which the manager hands over to `to`, by one epoch; none: that one is the manager.
///
/// # Errors
/// `to` cannot become manager.
pub fn hand_over(held: &SignedRecord, to: &ServerName, leave: Leave, by: &By) -> Result<Option<Record>, RoleRefused> {
    let server = held.record().server(to).ok_or_else(|| RoleRefused::Unknown(to.clone()))?;
    if server.role == Role::Manager {
        return Ok(None);
    }
    eligible(server)?;
    let epoch = raised(held, Epoch(0), 1)?;
    let what = format!("promote {to}{}", told(leave));
    Ok(Some(turned(held, epoch, &server.key.clone(), leave, by, what)))
}

/// What the record's log says of a group that is rebuilt.
pub const REBUILD: &str = "group rebuild";

/// By how many epochs a server takes over.
pub const TAKEOVER: u64 = 2;

/// The epoch that is `by` above that of `held` and above `seen`, the highest that is known anywhere: what others have used
/// is skipped, as far as one step leads.
///
/// # Errors
/// It does not lead so far.
pub fn raised(held: &SignedRecord, seen: Epoch, by: u64) -> Result<Epoch, RoleRefused> {
    let own = held.record().version.epoch;
    let epoch = Epoch(after(own.max(seen).0, by, "epoch")?);
    if epoch.0 - own.0 > limits::EPOCH_STEP {
        return Err(RoleRefused::Epochs { seen, held: own });
    }
    Ok(epoch)
}

/// The record with which the server of key `own` takes over, by two epochs: a handover to it that nobody has heard of
/// never stands in its way. `seen` is the highest epoch that is known anywhere. A manager raises its own epoch.
///
/// # Errors
/// It cannot become manager.
pub fn take_over(
    held: &SignedRecord,
    own: &PublicKey,
    leave: Leave,
    seen: Epoch,
    by: &By,
) -> Result<Record, RoleRefused> {
    let server = held.record().by_key(own).ok_or(RoleRefused::Stranger)?;
    if server.role != Role::Manager {
        eligible(server)?;
    }
    let epoch = raised(held, seen, TAKEOVER)?;
    let lost = &held.record().manager().name;
    let what = if server.role == Role::Manager {
        format!("promote --self --force at {}", server.name)
    } else {
        format!("promote --self at {}, without {lost}{}", server.name, told(leave))
    };
    Ok(turned(held, epoch, own, leave, by, what))
}

/// Whether that server may become manager.
///
/// # Errors
/// It is disabled, or no candidate.
pub fn eligible(server: &Server) -> Result<(), RoleRefused> {
    match server.role {
        Role::Disabled => Err(RoleRefused::Disabled(server.name.clone())),
        Role::Member if !server.candidate => Err(RoleRefused::NoCandidate(server.name.clone())),
        Role::Member | Role::Manager => Ok(()),
    }
}

fn told(leave: Leave) -> &'static str {
    match leave {
        Leave::Member => "",
        Leave::Disabled => ", the old manager disabled",
        Leave::Removed => ", the old manager removed",
    }
}

/// The record after `held` in which the server of `key` is the manager of `epoch`.
fn turned(held: &SignedRecord, epoch: Epoch, key: &PublicKey, leave: Leave, by: &By, what: String) -> Record {
    let old = held.record().manager().clone();
    edits::next(held, by, what, |record| {
        if old.key != *key {
            match leave {
                Leave::Member => set_role(record, &old.key, Role::Member),
                Leave::Disabled => set_role(record, &old.key, Role::Disabled),
                Leave::Removed => edits::remove_from(record, &old.name),
            }
            set_role(record, key, Role::Manager);
        }
        // What `next` adds is one.
        record.version = Version { epoch, version: 0 };
    })
}

/// Gives the server of that key that role.
pub fn set_role(record: &mut Record, key: &PublicKey, role: Role) {
    record.servers.iter_mut().filter(|server| server.key == *key).for_each(|server| server.role = role);
}

#[cfg(test)]
mod tests;
