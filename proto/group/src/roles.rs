//! The manager's role: the rules that make the record of a new epoch, at a handover (W18) and at a takeover (W24).

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

/// The new role of the old manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It follows the new manager.
    Member,
    /// It is known, and gets no updates: for its maintenance, or because it is lost.
    Disabled,
    /// It leaves the group.
    Removed,
}

/// The reason why the role does not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleRefused {
    /// The server is unknown.
    #[error("there is no server {0} in this group")]
    Unknown(ServerName),
    /// The server is disabled, so it gets no updates.
    #[error("{0} is disabled, so it does not have the manager's state")]
    Disabled(ServerName),
    /// The server may not become manager.
    #[error("{0} is not a candidate: it may not become manager")]
    NoCandidate(ServerName),
    /// No free epoch can be reached in one step.
    #[error(
        "epoch {seen} is in use, and from {held} one record leads to epoch {most} at most",
        most = held.0 + limits::EPOCH_STEP
    )]
    Epochs {
        /// The highest epoch that is known anywhere.
        seen: Epoch,
        /// The epoch of the record held here.
        held: Epoch,
    },
    /// A number is not possible.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The server's key is not in the record.
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

/// The record by which the manager hands over to `to`, one epoch later; none: `to` is the manager.
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

/// The log entry of a rebuilt group.
pub const REBUILD: &str = "group rebuild";

/// The number of epochs by which a takeover advances.
pub const TAKEOVER: u64 = 2;

/// The epoch `by` above that of `held` and above `seen`, the highest known one, as far as one step leads.
///
/// # Errors
/// One step does not lead so far.
pub fn raised(held: &SignedRecord, seen: Epoch, by: u64) -> Result<Epoch, RoleRefused> {
    let own = held.record().version.epoch;
    let epoch = Epoch(after(own.max(seen).0, by, "epoch")?);
    if epoch.0 - own.0 > limits::EPOCH_STEP {
        return Err(RoleRefused::Epochs { seen, held: own });
    }
    Ok(epoch)
}

/// The record by which the server of key `own` takes over, two epochs later, so that an unknown handover to it never
/// stands in its way. `seen` is the highest known epoch. A manager raises its own epoch.
///
/// # Errors
/// The server cannot become manager.
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

/// Checks whether that server may become manager.
///
/// # Errors
/// The server is disabled, or no candidate.
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
        // `next` adds one.
        record.version = Version { epoch, version: 0 };
    })
}

/// Sets the role of the server of that key.
pub fn set_role(record: &mut Record, key: &PublicKey, role: Role) {
    record.servers.iter_mut().filter(|server| server.key == *key).for_each(|server| server.role = role);
}

#[cfg(test)]
mod tests;
