//! The revisions that a member takes (invariant 3): its manager's, and newer; an increment only on top of its own.

use crate::{
    key::PublicKey,
    revision::{Epoch, GroupId, Header, SignedHeader},
};

/// The authority over a member's revisions, by the group record in force.
#[derive(Debug, Clone, Copy)]
pub struct Authority {
    /// The group.
    pub group: GroupId,
    /// The record's epoch.
    pub epoch: Epoch,
    /// The key of the manager of the revision's epoch, if that is known.
    pub manager: Option<PublicKey>,
}

/// Checks whether a member under `authority` that is at `at` may take the revision `offered`. `before`: the header of the
/// revision that an increment changes, if that revision is `at`, or a later one whose tree the history has.
///
/// # Errors
/// The reason, for the monitor; nothing is changed.
pub fn admit(
    authority: &Authority,
    at: Option<&SignedHeader>,
    before: Option<&SignedHeader>,
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
    // A revision of a later epoch need not descend from the one held here: its base replaces that one.
    let newer = (number.epoch, number.sequence) > (at.number().epoch, at.number().sequence);
    if !newer && at.id() != offered.id() {
        return Err(format!("revision {number} is not newer than {}, which is held here", at.number()));
    }
    let follows =
        |before: &SignedHeader| *parent == Some(before.id()) && before.number().next(number.epoch) == Ok(*number);
    if !base && !before.is_some_and(follows) {
        return Err(format!("revision {number} does not follow {}, which is held here", at.number()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hash::Hash,
        key::KeyPair,
        revision::{Number, RevisionId},
    };

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
        let admit = |at: Option<&SignedHeader>, offered: &SignedHeader, base| admit(&authority, at, at, offered, base);
        assert!(admit(None, &first, true).is_ok());
        assert!(admit(None, &second, false).is_err(), "an increment on nothing");
        assert!(admit(Some(&first), &second, false).is_ok());
        assert!(admit(Some(&second), &first, true).is_err(), "backwards");
        assert!(admit(Some(&second), &second, true).is_ok(), "the same, whole");
        assert!(admit(Some(&first), &header(&key, 1, 3, Some(second.id())), false).is_err(), "a gap");
        assert!(admit(Some(&first), &header(&key, 1, 2, None), false).is_err(), "no descendant");
        let third = header(&key, 1, 3, Some(second.id()));
        assert!(super::admit(&authority, Some(&first), Some(&second), &third, false).is_ok(), "its parent is kept");
        assert!(super::admit(&authority, Some(&third), Some(&first), &second, false).is_err(), "backwards");
        assert!(admit(None, &header(&other, 1, 1, None), true).is_err(), "another key");
        let elsewhere = Authority { group: [8; 16].into(), ..authority };
        assert!(super::admit(&elsewhere, None, None, &first, true).is_err(), "another group");
        assert!(admit(None, &header(&key, 3, 1, None), true).is_err(), "an epoch that has not begun");
        assert!(admit(Some(&first), &header(&key, 1, 3, Some(first.id())), false).is_err(), "a number left out");
        assert!(admit(Some(&header(&key, 2, 5, None)), &header(&key, 1, 6, None), true).is_err(), "an older epoch");
        let (fork, turn) = (header(&key, 1, 9, None), header(&key, 2, 3, Some(second.id())));
        assert!(admit(Some(&fork), &turn, true).is_ok(), "a later epoch takes the place of what nobody else has");
        assert!(admit(Some(&fork), &turn, false).is_err(), "but it does not follow it");
        let unknown = Authority { manager: None, ..authority };
        assert!(
            super::admit(&unknown, Some(&first), Some(&first), &second, false).is_err(),
            "an epoch whose manager is not known"
        );
    }
}
