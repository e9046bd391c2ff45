//! The record by which a server rebuilds the group without untrusted keys, after a candidate took the role and used the
//! epochs up, say. Records by these keys, and all that follow them, do not count.

use bellwether_proto::{
    advice::{Advice, Advise},
    key::PublicKey,
    name::ServerName,
    record::{Record, Role, SignedRecord, Version},
    revision::Epoch,
};

use crate::{
    edits::{self, By},
    roles::{self, RoleRefused},
};

/// The reason why the keys are not refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusalError {
    /// The key is the server's own.
    #[error("{0} is the key of this server")]
    Own(PublicKey),
    /// No record is left.
    #[error("all records that this server knows have managers whose keys are to be refused")]
    NoRecord,
    /// This server joined after the last record that counts.
    #[error("group record {0}, the last that counts without those keys, does not have this server")]
    Stranger(Version),
    /// This server may not lead.
    #[error(transparent)]
    Role(#[from] RoleRefused),
}

impl Advise for RefusalError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Own(_) => Some(Advice::say("give the command at a server that is to be trusted")),
            Self::Stranger(_) => Some(Advice::say("give the command at another candidate")),
            Self::NoRecord => {
                let new =
                    "where no server knows another record, form a new group: bellwether leave, then init, and join";
                Some(Advice::say("give the command at another candidate").or(&Advice::say(new)))
            }
            Self::Role(role) => role.advice(),
        }
    }
}

/// The last record that counts: no refused key leads in it, and all records are left out from the one on by which a
/// refused key last took the role by itself. A reign that was handed to or by a refused key stays.
///
/// # Errors
/// There is no such record.
pub fn base<'a>(
    held: &'a SignedRecord,
    chain: &'a [SignedRecord],
    refused: &[PublicKey],
) -> Result<&'a SignedRecord, RefusalError> {
    let led_by_them = |record: &SignedRecord| refused.contains(&record.record().manager().key);
    let records: Vec<&SignedRecord> = chain.iter().filter(|link| *link != held).chain([held]).collect();
    let takes = |pair: &[&SignedRecord]| {
        let (before, after) = (pair[0].record().manager().key, pair[1].record().manager().key);
        before != after && pair[1].is_self_signed() && refused.contains(&after)
    };
    let counted = match records.windows(2).rposition(takes) {
        Some(before) => &records[..=before],
        None => &records[..],
    };
    counted.iter().rfind(|record| !led_by_them(record)).copied().ok_or(RefusalError::NoRecord)
}

/// The successor of that record, in which the server of key `own` leads and these keys are refused for ever. Its epoch
/// is above that of `held` and above `seen`, so that this server itself never goes back.
///
/// # Errors
/// The error names the reason.
pub fn next_record(
    held: &SignedRecord,
    chain: &[SignedRecord],
    refused: &[PublicKey],
    own: &PublicKey,
    seen: Epoch,
    by: &By,
) -> Result<Record, RefusalError> {
    if refused.contains(own) {
        return Err(RefusalError::Own(*own));
    }
    let base = base(held, chain, refused)?;
    let server = base.record().by_key(own).ok_or(RefusalError::Stranger(base.record().version))?;
    roles::eligible(server)?;
    let epoch = roles::raised(held, seen, roles::TAKEOVER)?;
    let keys: Vec<String> = refused.iter().map(PublicKey::to_string).collect();
    Ok(edits::next(base, by, format!("{} --refuse {}", roles::REBUILD, keys.join(" --refuse ")), |record| {
        let led = record.manager().key;
        roles::set_role(record, &led, Role::Member);
        let theirs = |name: &bellwether_proto::record::Server| refused.contains(&name.key);
        let gone: Vec<ServerName> =
            record.servers.iter().filter(|server| theirs(server)).map(|s| s.name.clone()).collect();
        gone.iter().for_each(|name| edits::remove_from(record, name));
        // No command brings back a server that was removed with such a key.
        record.removed.retain(|server| !refused.contains(&server.key));
        roles::set_role(record, own, Role::Manager);
        record.refused.extend(held.record().refused.iter().chain(refused));
        record.refused.sort();
        record.refused.dedup();
        // `next` adds one.
        record.version = Version { epoch, version: 0 };
    }))
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        key::KeyPair,
        limits,
        record::{Level, Policy, RecordRefused, Server},
    };

    use super::*;

    const NAMES: [&str; 3] = ["a", "h", "m"];

    /// `m` leads, and `a` and `h` are candidates.
    struct Case([KeyPair; 3]);

    impl Case {
        fn new() -> Self {
            Self(std::array::from_fn(|_| KeyPair::generate()))
        }

        fn key(&self, at: usize) -> PublicKey {
            self.0[at].public()
        }

        fn record(&self, epoch: u64, version: u64, leads: usize, signs: usize) -> SignedRecord {
            let server = |at: usize| Server {
                name: NAMES[at].parse().unwrap(),
                key: self.key(at),
                address: format!("{}:1", NAMES[at]),
                role: if at == leads { Role::Manager } else { Role::Member },
                candidate: true,
                backends: Vec::new(),
                drained: false,
            };
            let record = Record {
                level: Level::NEWEST,
                group: [1; 16].into(),
                version: Version { epoch: Epoch(epoch), version },
                servers: (0..3).map(server).collect(),
                removed: Vec::new(),
                refused: Vec::new(),
                policy: Policy::new(Vec::new()),
                log: Vec::new(),
                previous: None,
            };
            SignedRecord::sign(record, &self.0[signs]).unwrap()
        }

        fn refuse(&self, held: &SignedRecord, chain: &[SignedRecord], seen: u64) -> Result<SignedRecord, RefusalError> {
            let by = By { author: "root".into(), time_ms: 7 };
            let record = next_record(held, chain, &[self.key(1)], &self.key(0), Epoch(seen), &by)?;
            Ok(SignedRecord::sign(record, &self.0[0]).expect("a rule's record is a good one"))
        }
    }

    fn version(record: &SignedRecord) -> String {
        record.record().version.to_string()
    }

    #[test]
    fn what_the_refused_key_made_counts_for_nothing_and_it_is_refused_for_good() {
        let case = Case::new();
        let before = case.record(1, 9, 2, 2);
        let (first, held) = (case.record(65, 1, 1, 1), case.record(129, 3, 1, 1));
        let chain = [before.clone(), first, held.clone()];
        let rebuilt = case.refuse(&held, &chain, 0).unwrap();
        let record = rebuilt.record();
        assert_eq!((version(&rebuilt).as_str(), record.previous), ("131.1", Some(before.hash())));
        assert_eq!((record.manager().name.as_str(), record.refused.as_slice()), ("a", [case.key(1)].as_slice()));
        assert!(record.server(&"h".parse().unwrap()).is_none() && record.removed.is_empty());
        assert_eq!(record.server(&"m".parse().unwrap()).map(|m| m.role), Some(Role::Member));
        // No later record of this key counts, nor any by its followers.
        for (next, what) in [
            (case.record(133, 1, 1, 1), "its next takeover"),
            (case.record(133, 1, 2, 1), "it hands over"),
            (case.record(133, 1, 2, 2), "by one that has not heard of the refusal"),
        ] {
            assert_eq!(next.may_follow(&rebuilt), Err(RecordRefused::Refused(case.key(1))), "{what}");
        }
    }

    #[test]
    fn its_honest_reign_stays_and_what_was_made_on_top_of_its_takeover_goes() {
        let case = Case::new();
        // `h` formed the group and handed over to `m`.
        let (first, handed) = (case.record(1, 4, 1, 1), case.record(2, 1, 2, 1));
        let held = case.record(2, 7, 2, 2);
        let chain = [first, handed, held.clone()];
        assert_eq!(base(&held, &chain, &[case.key(1)]).map(version).as_deref(), Ok("2.7"));
        // The handover itself counts, although `h` signed it.
        assert_eq!(base(&chain[1], &chain[..2], &[case.key(1)]).map(version).as_deref(), Ok("2.1"));
        // `h` takes over by itself, and hands over to `m`: later records of `m` are dropped, too.
        let (taken, on, later) = (case.record(4, 1, 1, 1), case.record(5, 1, 2, 1), case.record(5, 2, 2, 2));
        let longer = [chain.as_slice(), &[taken, on, later.clone()]].concat();
        assert_eq!(base(&later, &longer, &[case.key(1)]).map(version).as_deref(), Ok("2.7"));
        // `a` was handed the role, and is not trusted any more.
        let (before, given) = (case.record(1, 3, 2, 2), case.record(2, 1, 1, 2));
        assert_eq!(base(&given, &[before, given.clone()], &[case.key(1)]).map(version).as_deref(), Ok("1.3"));
    }

    #[test]
    fn it_skips_what_it_has_heard_of_within_one_step_and_says_when_it_cannot() {
        let case = Case::new();
        let held = case.record(10, 1, 2, 2);
        let chain = [held.clone()];
        assert_eq!(case.refuse(&held, &chain, 72).map(|rebuilt| version(&rebuilt)).as_deref(), Ok("74.1"));
        let refused = case.refuse(&held, &chain, 73).unwrap_err();
        let said = format!("{refused} {:?}", refused.advice());
        assert!(said.contains("group rebuild --refuse KEY"), "{said}");
        assert!(case.refuse(&held, &chain, limits::COUNT).is_err() && case.refuse(&held, &chain, u64::MAX).is_err());
        let own =
            next_record(&held, &chain, &[case.key(0)], &case.key(0), Epoch(0), &By { author: "r".into(), time_ms: 1 });
        assert_eq!(own, Err(RefusalError::Own(case.key(0))));
    }
}
