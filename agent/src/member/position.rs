//! Where a member is: the revision its sets hold, and the error it is in. Small, durable, and the commit point of a
//! switch: what it names is what the member reports after any crash (invariant 2).

use bellwether_proto::{
    key::PublicKey,
    revision::{Epoch, GroupId, Header, RevisionId, SignedHeader},
    v1,
};
use bellwether_store::state_file::{self, StateFileError};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// The state in `position.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The revision that the sets hold; none: none of this group's.
    pub(crate) at: Option<SignedHeader>,
    /// The error that a sync has to clear (W8).
    pub(crate) fault: Option<Fault>,
    /// This server leads, or has led since: its sets hold the newest revision of its history.
    pub(crate) leads: bool,
}

/// The revision that the sets hold, as this server knew it as a member; none: it has led since, or holds none.
///
/// # Errors
/// The state file cannot be read.
pub(crate) fn held_before(layout: &Layout) -> Result<Option<RevisionId>, StateFileError> {
    let position: Position = state_file::load(&layout.position())?.unwrap_or_default();
    Ok(position.at.filter(|_| !position.leads).map(|at| at.id()))
}

/// Notes, durably, that this server leads.
///
/// # Errors
/// The state file cannot be read or written.
pub(crate) fn note_leading(layout: &Layout) -> Result<(), StateFileError> {
    let position: Position = state_file::load(&layout.position())?.unwrap_or_default();
    if position.leads {
        return Ok(());
    }
    state_file::save(&layout.position(), &Position { leads: true, ..Position::default() })
}

/// Why a member takes no updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// What happened, what was left unchanged, what to do.
    pub(crate) reason: String,
    /// Since when, milliseconds since 1970.
    pub(crate) since_ms: u64,
}

impl Fault {
    /// The message of this fault.
    pub(crate) fn to_wire(&self) -> v1::Fault {
        v1::Fault { reason: self.reason.clone(), since_ms: self.since_ms }
    }
}

/// Whose revisions a member takes, by the group record in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authority {
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
    /// The key of the manager of the epoch that the revision is of, if that is known.
    pub(crate) manager: Option<PublicKey>,
}

/// Whether a member under `authority` that is at `at` may take the revision `offered`.
///
/// # Errors
/// Why not, for the monitor; nothing is changed.
pub(crate) fn admit(
    authority: &Authority,
    at: Option<&SignedHeader>,
    offered: &SignedHeader,
    base: bool,
) -> Result<(), String> {
    let Header { number, parent, .. } = offered.header();
    let Authority { group, epoch, manager } = authority;
    if !manager.is_some_and(|manager| offered.signed_by(&manager)) {
        return Err(format!("revision {number} is not signed by the group's manager of epoch {}", number.epoch));
    }
    if offered.header().group != *group {
        return Err(format!(
            "revision {number} is of group {}, this server belongs to {group}",
            offered.header().group
        ));
    }
    if number.epoch > *epoch {
        return Err(format!(
            "revision {number} is of an epoch that has not begun: the group record is of epoch {epoch}"
        ));
    }
    let Some(at) = at else {
        return if base { Ok(()) } else { Err(format!("revision {number} is an increment, and nothing is held here")) };
    };
    // What a later epoch brings need not descend from what is held here: the base of it takes that place.
    let newer = (number.epoch, number.sequence) > (at.number().epoch, at.number().sequence);
    if !newer && at.id() != offered.id() {
        return Err(format!("revision {number} is not newer than {}, which is held here", at.number()));
    }
    if !base && (*parent != Some(at.id()) || number.sequence != at.number().sequence + 1) {
        return Err(format!("revision {number} does not follow {}, which is held here", at.number()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        hash::Hash,
        key::KeyPair,
        revision::{Number, RevisionId},
    };

    use super::*;

    fn header(key: &KeyPair, epoch: u64, sequence: u64, parent: Option<RevisionId>) -> SignedHeader {
        let header = Header {
            group: [7; 16].into(),
            number: Number { epoch: Epoch(epoch), sequence },
            parent,
            manager: "web1".parse().unwrap(),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: String::new(),
            labels: Default::default(),
            root: Hash::of(b"root"),
        };
        SignedHeader::sign(header, key)
    }

    #[test]
    fn only_the_next_revision_by_the_manager_is_admitted() {
        let (key, other) = (KeyPair::generate(), KeyPair::generate());
        let authority = Authority { group: [7; 16].into(), epoch: Epoch(2), manager: Some(key.public()) };
        let first = header(&key, 1, 1, None);
        let second = header(&key, 1, 2, Some(first.id()));
        let admit = |at: Option<&SignedHeader>, offered: &SignedHeader, base| admit(&authority, at, offered, base);
        assert!(admit(None, &first, true).is_ok());
        assert!(admit(None, &second, false).is_err(), "an increment on nothing");
        assert!(admit(Some(&first), &second, false).is_ok());
        assert!(admit(Some(&second), &first, true).is_err(), "backwards");
        assert!(admit(Some(&second), &second, true).is_ok(), "the same, whole");
        assert!(admit(Some(&first), &header(&key, 1, 3, Some(second.id())), false).is_err(), "a gap");
        assert!(admit(Some(&first), &header(&key, 1, 2, None), false).is_err(), "no descendant");
        assert!(admit(None, &header(&other, 1, 1, None), true).is_err(), "another key");
        let elsewhere = Authority { group: [8; 16].into(), ..authority };
        assert!(super::admit(&elsewhere, None, &first, true).is_err(), "another group");
        assert!(admit(None, &header(&key, 3, 1, None), true).is_err(), "an epoch that has not begun");
        assert!(admit(Some(&first), &header(&key, 1, 3, Some(first.id())), false).is_err(), "a number left out");
        assert!(admit(Some(&header(&key, 2, 5, None)), &header(&key, 1, 6, None), true).is_err(), "an older epoch");
        let (fork, turn) = (header(&key, 1, 9, None), header(&key, 2, 3, Some(second.id())));
        assert!(admit(Some(&fork), &turn, true).is_ok(), "a later epoch takes the place of what nobody else has");
        assert!(admit(Some(&fork), &turn, false).is_err(), "but it does not follow it");
        let unknown = Authority { manager: None, ..authority };
        assert!(super::admit(&unknown, Some(&first), &second, false).is_err(), "an epoch whose manager is not known");
    }

    #[test]
    fn a_position_survives_its_json() {
        let position = Position { at: Some(header(&KeyPair::generate(), 1, 1, None)), fault: None, leads: false };
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap().at, position.at);
    }
}
