//! Where a member is: the revision its sets hold, and the error it is in. Small, durable, and the commit point of a
//! switch: what it names is what the member reports after any crash (invariant 2).

use bellwether_proto::{
    level::{Level, State},
    name::SetName,
    revision::{RevisionId, SignedHeader},
    v1,
};
use bellwether_store::{
    boot,
    log::{self, Log},
    state::{file::StateFileError, layout::Layout},
};
use serde::{Deserialize, Serialize};

use crate::follower::{Complaint, Proven};

/// The position that the log has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Position {
    /// The revision that the sets hold; none: none of this group's.
    pub at: Option<SignedHeader>,
    /// The error that a sync has to clear (W8).
    pub fault: Option<Fault>,
    /// This server leads, or has led since: its sets hold the newest revision of its history.
    pub leads: bool,
    /// Nobody has confirmed the revision that the sets hold: this server takes it back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
    /// What the commands of the sets have yet to say of the revision that the sets hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<Owed>,
}

impl State for Position {
    fn level(&self) -> Level {
        // A program of level 1 would not run what is owed, and not take a revision back.
        if self.owed.is_some() || self.unconfirmed.is_some() { Level(2) } else { Level::FIRST }
    }
}

/// A revision that somebody has to confirm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// The revision before, to which the sets go back.
    pub before: SignedHeader,
    /// The time at which they do, in milliseconds since the boot.
    pub until_ms: u64,
    /// That boot. After another one they go back at once.
    pub boot: String,
}

impl Unconfirmed {
    /// From now on for that time, in milliseconds.
    pub(crate) fn begin(before: SignedHeader, within_ms: u64) -> Self {
        Self { before, until_ms: boot::elapsed_ms().saturating_add(within_ms), boot: boot::id() }
    }

    /// The time that is left, in milliseconds.
    pub(crate) fn left_ms(&self) -> u64 {
        if self.boot == boot::id() { self.until_ms.saturating_sub(boot::elapsed_ms()) } else { 0 }
    }
}

/// The commands of a revision that have not ended well.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Owed {
    /// The sets in which something has changed.
    pub sets: Vec<SetName>,
    /// The commands that validate are owed, too.
    pub validate: bool,
    /// The revision before; none: there was none.
    pub before: Option<SignedHeader>,
    /// A command has refused the new revision: the sets go back to the one before, or hold it again.
    pub refused: Option<Refused>,
}

/// A revision that a command has refused after the switch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused {
    /// The revision.
    pub header: SignedHeader,
    /// The command's complaint.
    pub complaint: Complaint,
}

impl Position {
    /// Whether the commands of the revision that the sets hold have ended well. Those of a revision that is in force again say
    /// nothing about it.
    pub(crate) fn proven(&self) -> Proven<'_> {
        match (&self.owed, &self.at) {
            (Some(owed), Some(at)) if owed.before.as_ref().is_none_or(|before| before.id() != at.id()) => {
                Proven::NotYet(owed.before.as_ref())
            }
            _ => Proven::Yes,
        }
    }
}

/// The revision that the sets hold, as this server knew it as a member; none: it has led since, or holds none.
///
/// # Errors
/// The log cannot be read.
pub fn held_before(layout: &Layout) -> Result<Option<RevisionId>, StateFileError> {
    let position: Position = log::read(&layout.history())?.position()?.unwrap_or_default();
    Ok(position.at.filter(|_| !position.leads).map(|at| at.id()))
}

/// Notes, durably, that this server leads.
///
/// # Errors
/// The log cannot be read or written.
pub fn note_leading(log: &Log) -> Result<(), StateFileError> {
    let position: Position = log.position()?.unwrap_or_default();
    if position.leads {
        return Ok(());
    }
    log.note(&Position { leads: true, ..Position::default() })
}

/// Why a member takes no updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What happened, what was left unchanged, what to do.
    pub reason: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
}

impl Fault {
    /// The message of this fault.
    pub fn to_wire(&self) -> v1::Fault {
        v1::Fault { reason: self.reason.clone(), since_ms: self.since_ms }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        hash::Hash,
        key::KeyPair,
        revision::{Epoch, Header, Number},
    };

    use super::*;

    #[test]
    fn a_position_survives_its_json() {
        let header = Header {
            group: [7; 16].into(),
            number: Number { epoch: Epoch(1), sequence: 1 },
            parent: None,
            manager: "web1".parse().unwrap(),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: String::new(),
            labels: Default::default(),
            root: Hash::of(b"root"),
        };
        let at = Some(SignedHeader::sign(header, &KeyPair::generate()));
        let position = Position { at, ..Position::default() };
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap().at, position.at);
    }
}
