//! A candidate's survey of the members before it recovers a manager (W23, W24).

use std::collections::BTreeMap;

use bellwether_proto::{name::ServerName, revision::SignedHeader};

use crate::takeover::{self, Answer, Findings, Silence};

/// The largest number of findings that a procedure keeps.
const FINDINGS: usize = 100;

/// A candidate's finding at one member before it takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Surveyed {
    /// The member holds the candidate's revision, by hash.
    Equal,
    /// The member holds an earlier revision of the candidate's history: it needs an update, no sync.
    Behind,
    /// The member holds another revision, which is named: it needs a sync.
    Differs(String),
    /// The member did not answer: it is checked when it does.
    Silent(String),
}

/// A candidate's findings at the members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// The members by name, without the candidate itself and the manager.
    pub members: BTreeMap<ServerName, Surveyed>,
    /// The findings for people, one line each.
    pub findings: Vec<String>,
    /// The possible losses, one line each.
    pub lost: Vec<String>,
}

impl Survey {
    /// Compares the members' answers with the candidate's own state; `found` is the judgement.
    pub fn of(asked: &takeover::Survey<'_>, found: Findings) -> Self {
        let lost = &asked.record.manager().name;
        let compare = |answer: &Result<Answer, Silence>| match answer {
            Err(silence) => Surveyed::Silent(silence.why.clone()),
            Ok(answer) => compared(asked.account.at.as_ref(), answer.at.as_ref(), asked.seen),
        };
        let members = asked.others.iter().filter(|(name, _)| *name != lost);
        let members = members.map(|(name, answer)| (name.clone(), compare(answer))).collect();
        let Findings { mut servers, lost, .. } = found;
        if asked.record.policy.paused {
            servers.push("propagation is paused, and stays so: bellwether resume".to_owned());
        }
        let some = |lines: Vec<String>| lines.into_iter().take(FINDINGS).collect();
        Self { members, findings: some(servers), lost: some(lost) }
    }
}

/// Compares a member's revision with this server's revision and the known ones.
fn compared(own: Option<&SignedHeader>, theirs: Option<&SignedHeader>, seen: &[SignedHeader]) -> Surveyed {
    let (Some(own), Some(theirs)) = (own, theirs) else { return Surveyed::Differs("no revision".to_owned()) };
    let known = seen.iter().any(|header| header.id() == theirs.id());
    if own.header().root == theirs.header().root && (known || own.id() == theirs.id()) {
        return Surveyed::Equal;
    }
    match known && theirs.number() < own.number() {
        true => Surveyed::Behind,
        false => Surveyed::Differs(theirs.number().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{hash::Hash, key::KeyPair, revision::Header};

    use super::*;
    use bellwether_random::headers::header;

    /// A revision of that number and content.
    fn revision(sequence: u64, content: &str) -> SignedHeader {
        let header = Header { root: Hash::of(content.as_bytes()), ..header(1, sequence) };
        SignedHeader::sign(header, &KeyPair::generate())
    }

    #[test]
    fn w23_who_holds_what_the_candidate_does_not_know_differs() {
        let (older, own, newer) = (revision(1, "a"), revision(2, "b"), revision(3, "c"));
        let empty = revision(4, "b");
        let seen = [older.clone(), own.clone(), empty.clone()];
        let found = |theirs: Option<&SignedHeader>| compared(Some(&own), theirs, &seen);
        assert_eq!(found(Some(&own)), Surveyed::Equal);
        assert_eq!(found(Some(&empty)), Surveyed::Equal, "heard of, and the same bytes");
        assert_eq!(found(Some(&older)), Surveyed::Behind);
        assert_eq!(found(Some(&newer)), Surveyed::Differs("1.3".to_owned()));
        assert_eq!(
            found(Some(&revision(5, "b"))),
            Surveyed::Differs("1.5".to_owned()),
            "nobody here knows whose that is"
        );
        assert_eq!(found(None), Surveyed::Differs("no revision".to_owned()));
    }
}
