//! Every pair of a held and a claimed record.

use super::{chain, *};

/// Three servers: `a` leads, `b` is a candidate, `c` is none, `d` is disabled, `e` is not in the record.
struct Keys([KeyPair; 5]);

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl Keys {
    fn new() -> Self {
        Self(std::array::from_fn(|_| KeyPair::generate()))
    }

    /// A record of that version in which server `leads` is the manager, signed by server `signs`.
    fn record(&self, epoch: u64, version: u64, leads: usize, signs: usize) -> SignedRecord {
        self.edited(epoch, version, leads, signs, |_| {})
    }

    fn edited(
        &self,
        epoch: u64,
        version: u64,
        leads: usize,
        signs: usize,
        edit: impl FnOnce(&mut Record),
    ) -> SignedRecord {
        let mut record = Record {
            level: Level::NEWEST,
            group: [1; 16].into(),
            version: Version { epoch: Epoch(epoch), version },
            servers: (0..4).map(|at| self.server(at, leads)).collect(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        };
        if leads == 4 {
            let role = Role::Manager;
            let name = "e".parse().unwrap();
            let key = self.0[4].public();
            record.servers.push(Server {
                name,
                key,
                address: "e:1".into(),
                role,
                candidate: true,
                backends: Vec::new(),
                drained: false,
            });
        }
        edit(&mut record);
        SignedRecord::sign(record, &self.0[signs]).unwrap()
    }

    fn server(&self, at: usize, leads: usize) -> Server {
        let role = match at {
            _ if at == leads => Role::Manager,
            3 => Role::Disabled,
            _ => Role::Member,
        };
        let name = NAMES[at].parse().unwrap();
        let address = format!("{}:1", NAMES[at]);
        Server {
            name,
            key: self.0[at].public(),
            address,
            role,
            candidate: at != 2,
            backends: Vec::new(),
            drained: false,
        }
    }
}

impl Keys {
    /// The result for a document that `a` signed.
    fn read(&self, json: &serde_json::Value) -> Result<SignedRecord, Malformed> {
        let json = json.to_string();
        let signature = self.0[0].sign(CONTEXT, json.as_bytes()).to_vec();
        SignedRecord::from_parts(json, self.0[0].public(), signature)
    }
}

/// A record's document.
fn document(signed: &SignedRecord) -> serde_json::Value {
    serde_json::from_str(&signed.json).unwrap()
}

/// Fields that a record may lack, with their defaults.
fn defaults() -> Vec<(&'static str, &'static str, serde_json::Value)> {
    let set = "/policy/sets/0";
    vec![
        ("", "level", serde_json::json!(1)),
        (set, "exclude", serde_json::json!([])),
        (set, "local", serde_json::json!([])),
        (set, "allow_setuid", serde_json::json!(false)),
        (set, "allow_capabilities", serde_json::json!(false)),
        ("/policy", "rollout", serde_json::Value::Null),
        ("/policy", "confirmed", serde_json::Value::Null),
        ("/policy", "stage_timeout_ms", serde_json::json!(5_000)),
        ("/policy", "secret", serde_json::json!([])),
        ("/policy", "forgotten", serde_json::json!([])),
        #[cfg(feature = "level-next")]
        ("/policy", "note", serde_json::Value::Null),
    ]
}

proptest::proptest! {
    /// A later field is absent while it is not used: a program with the field writes the same bytes as one without.
    #[test]
    fn a_field_at_its_default_is_not_written(used: [bool; 7], version in 1..1_000_u64) {
        let keys = Keys::new();
        let signed = keys.edited(1, version, 0, 0, |record| {
            record.level = if used[0] { Level::NEWEST } else { Level::OLDEST };
            let mut rules = SetRules::new("web".parse().unwrap());
            rules.exclude.extend(used[1].then(|| "*.bak".to_owned()));
            rules.local.extend(used[2].then(|| "*.local".to_owned()));
            (rules.allow_setuid, rules.allow_capabilities) = (used[3], used[4]);
            record.policy.sets = vec![rules];
            record.policy.rollout = (used[0] && used[5]).then(RolloutPolicy::default);
            record.policy.confirmed = (used[0] && used[2]).then(|| crate::revision::RevisionId(Hash::of(b"it")));
            record.policy.stage_timeout_ms = if used[0] && used[1] { 60_000 } else { 5_000 };
            let secret = || SecretFiles { set: "web".parse().unwrap(), patterns: vec!["*.key".to_owned()] };
            record.policy.secret.extend((used[0] && used[6]).then(secret));
            #[cfg(feature = "level-next")]
            { record.policy.note = used[0].then(|| "a note".to_owned()); }
        });
        let mut full = document(&signed);
        for (place, field, default) in defaults() {
            let object = full.pointer_mut(place).unwrap().as_object_mut().unwrap();
            proptest::prop_assert_ne!(object.get(field), Some(&default), "{} is written", field);
            object.entry(field).or_insert(default);
        }
        // Written explicitly, the defaults mean the same, and are omitted again.
        let read = keys.read(&full).unwrap();
        proptest::prop_assert_eq!(read.record(), signed.record());
        proptest::prop_assert_eq!(&serde_json::to_string(read.record()).unwrap(), &signed.json);
        let read = keys.read(&document(&signed)).unwrap();
        proptest::prop_assert_eq!(read.record(), signed.record());
    }
}

#[test]
fn what_is_not_known_at_a_level_is_refused_and_what_is_of_a_later_level_is_called_newer() {
    let keys = Keys::new();
    let known = document(&keys.record(3, 5, 0, 0));
    for place in ["", "/policy", "/servers/0", "/version"] {
        let mut json = known.clone();
        json.pointer_mut(place).unwrap()["unheard_of"] = 1.into();
        let refused = keys.read(&json).unwrap_err().to_string();
        assert!(refused.contains("unknown field") && !refused.contains("newer"), "{place}: {refused}");
        let later = Level::NEWEST.0 + 1;
        json["level"] = later.into();
        let refused = keys.read(&json).unwrap_err().to_string();
        assert!(
            refused.contains("made by a newer bellwether") && refused.contains(&format!("level {later}")),
            "{refused}"
        );
    }
    let mut json = serde_json::json!({ "level": Level::NEWEST.0 + 1, "another": "form" });
    assert!(keys.read(&json).unwrap_err().to_string().contains("newer"), "whatever else is in it");
    json["level"] = 0.into();
    assert!(keys.read(&json).unwrap_err().to_string().contains("too old"));
}

#[test]
fn the_bytes_that_were_signed_are_kept() {
    let keys = Keys::new();
    let json = document(&keys.record(3, 5, 0, 0));
    let spaced = serde_json::to_string_pretty(&json).unwrap();
    let signature = keys.0[0].sign(CONTEXT, spaced.as_bytes()).to_vec();
    let read = SignedRecord::from_parts(spaced.clone(), keys.0[0].public(), signature).unwrap();
    assert_eq!(read.to_wire().record, spaced.as_bytes());
    let stored: SignedRecord = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
    assert_eq!(stored, read);
}

#[cfg(feature = "level-next")]
#[test]
fn what_came_with_a_level_is_in_no_record_of_the_level_before() {
    let keys = Keys::new();
    let mut record = keys.record(3, 5, 0, 0).record().clone();
    record.policy.note = Some("a note".to_owned());
    assert_eq!(record.beyond(Level::OLDEST), Some(("a note", Level::NEWEST)));
    assert!(SignedRecord::sign(record.clone(), &keys.0[0]).is_ok(), "at its level");
    record.level = Level::OLDEST;
    let refused = SignedRecord::sign(record, &keys.0[0]).unwrap_err().to_string();
    let says = format!("of level {} with a note, which came with level {}", Level::OLDEST, Level::NEWEST);
    assert!(refused.contains(&says), "{refused}");
}

/// A program that came after the first level, and a group that was formed at it.
#[test]
fn a_server_that_was_away_comes_over_records_of_any_older_level() {
    let keys = Keys::new();
    // The records as a program of that level signed them.
    let at = |level: Level, epoch: u64, leads: usize, signs: usize| {
        let mut record = keys.record(epoch, 1, leads, leads).record().clone();
        record.level = level;
        let (json, by) = (serde_json::to_string(&record).unwrap(), &keys.0[signs]);
        SignedRecord::from_parts(json.clone(), by.public(), by.sign(CONTEXT, json.as_bytes()).to_vec()).unwrap()
    };
    let first = Level::FIRST;
    let links = [at(first, 2, 1, 0), at(first, 3, 0, 1), at(Level::NEWEST, 4, 1, 0)];
    let held = at(first, 1, 0, 0);
    assert_eq!(chain::walk(&held, &links).unwrap(), links);
    let stored: SignedRecord = serde_json::from_str(&serde_json::to_string(&links[0]).unwrap()).unwrap();
    assert_eq!(stored, links[0], "it keeps them");

    // What is older than all levels of a program is only on the way, and never made.
    let older = chain::walk(&held, &links[..2]);
    let signed = SignedRecord::sign(held.record().clone(), &keys.0[0]);
    if Level::OLDEST == first {
        assert_eq!((older.unwrap().as_slice(), signed.unwrap()), (&links[..2], held));
        return;
    }
    assert!(older.unwrap_err().to_string().contains("the group record was made by a version that is too old"));
    assert!(signed.unwrap_err().to_string().contains("too old"));
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Taken,
    Same,
    Older,
    Conflict,
    Signer,
    OtherGroup,
    Jump,
    Refused,
}

fn outcome(new: &SignedRecord, held: &SignedRecord) -> Outcome {
    match new.may_follow(held) {
        Ok(true) => Outcome::Taken,
        Ok(false) => Outcome::Same,
        Err(RecordRefused::Older { .. }) => Outcome::Older,
        Err(RecordRefused::Conflict(_)) => Outcome::Conflict,
        Err(RecordRefused::Signer(_)) => Outcome::Signer,
        Err(RecordRefused::OtherGroup { .. }) => Outcome::OtherGroup,
        Err(RecordRefused::Jump { .. }) => Outcome::Jump,
        Err(RecordRefused::Refused(_)) => Outcome::Refused,
        Err(RecordRefused::Level(refused)) => panic!("{refused}"),
    }
}

#[test]
fn who_may_say_what_is_true_next() {
    use Outcome::*;
    let keys = Keys::new();
    // Held: epoch 3, version 5, a leads. (epoch, version, leader, signer) → result.
    let held = keys.record(3, 5, 0, 0);
    let table = [
        ((3, 6, 0, 0), Taken, "the manager's next"),
        ((3, 9, 0, 0), Taken, "versions may jump"),
        ((3, 5, 0, 0), Same, "the very record"),
        ((3, 4, 0, 0), Older, "replayed"),
        ((2, 9, 0, 0), Older, "of an older epoch"),
        ((2, 9, 1, 1), Older, "of an older epoch and another manager"),
        ((3, 6, 0, 1), Signer, "a member signs for its manager"),
        ((3, 6, 0, 4), Signer, "a stranger signs"),
        ((3, 6, 1, 0), Signer, "a handover without a new epoch"),
        ((3, 6, 1, 1), Conflict, "two in one epoch"),
        ((3, 5, 1, 1), Conflict, "two in one epoch and version"),
        ((3, 1, 1, 1), Conflict, "two in one epoch, the other one earlier"),
        ((3, 6, 4, 4), Signer, "a stranger of the same epoch"),
        ((4, 1, 1, 0), Taken, "a handover"),
        ((4, 1, 2, 0), Taken, "a handover to one that is no candidate: the manager may"),
        ((4, 1, 4, 0), Taken, "a handover to a new server"),
        ((4, 1, 0, 0), Taken, "rebuilt"),
        ((7, 1, 1, 0), Taken, "epochs may jump"),
        ((5, 1, 1, 1), Taken, "a candidate takes over"),
        ((5, 7, 1, 1), Taken, "the edits after that, seen first"),
        ((5, 1, 2, 2), Signer, "no candidate takes over"),
        ((5, 1, 3, 3), Signer, "a disabled server takes over"),
        ((5, 1, 4, 4), Signer, "a stranger takes over"),
        ((5, 1, 1, 2), Signer, "a member makes another one manager"),
        ((5, 1, 2, 1), Signer, "a candidate makes another one manager"),
        ((5, 1, 0, 1), Signer, "a candidate signs for the manager"),
    ];
    for ((epoch, version, leads, signs), expected, what) in table {
        assert_eq!(outcome(&keys.record(epoch, version, leads, signs), &held), expected, "{what}");
    }
}

#[test]
fn the_same_version_with_other_contents_is_a_conflict_and_another_group_is_another_group() {
    let keys = Keys::new();
    let held = keys.record(3, 5, 0, 0);
    let other = keys.edited(3, 5, 0, 0, |record| record.policy.paused = true);
    assert_eq!(outcome(&other, &held), Outcome::Conflict, "a manager's state that was copied or set back");
    let foreign = keys.edited(9, 1, 0, 0, |record| record.group = [2; 16].into());
    assert_eq!(outcome(&foreign, &held), Outcome::OtherGroup);
}

#[test]
fn a_handover_whose_old_manager_died_gives_way_to_the_takeover_of_the_same_server() {
    let keys = Keys::new();
    let before = keys.record(1, 9, 0, 0);
    let handover = keys.record(2, 1, 1, 0);
    let takeover = keys.record(3, 1, 1, 1);
    assert_eq!(outcome(&takeover, &before), Outcome::Taken);
    assert_eq!(outcome(&takeover, &handover), Outcome::Taken);
    assert_eq!(outcome(&handover, &takeover), Outcome::Older);
}

#[test]
fn two_takeovers_at_once_conflict_until_one_of_them_raises_the_epoch() {
    let keys = Keys::new();
    let by_c = |epoch| keys.edited(epoch, 1, 2, 2, |record| record.servers[2].candidate = true);
    let (first, second) = (keys.record(3, 1, 1, 1), by_c(3));
    assert_eq!((outcome(&first, &second), outcome(&second, &first)), (Outcome::Conflict, Outcome::Conflict));
    let resolved = keys.record(5, 1, 1, 1);
    assert_eq!((outcome(&resolved, &first), outcome(&resolved, &second)), (Outcome::Taken, Outcome::Taken));
}

fn versions(way: &[SignedRecord]) -> Vec<String> {
    way.iter().map(|record| record.record().version.to_string()).collect()
}

#[test]
fn a_server_that_was_away_walks_the_chain() {
    let keys = Keys::new();
    // c becomes a candidate after the server left, then takes over; later it hands over to b.
    let candidate = |record: &mut Record| record.servers[2].candidate = true;
    let mut record = keys.record(1, 1, 0, 0);
    let held = record.clone();
    let mut links = vec![record.clone()];
    let steps = [
        keys.edited(1, 9, 0, 0, candidate),
        keys.edited(3, 1, 2, 2, candidate),
        keys.edited(3, 4, 2, 2, candidate),
        keys.record(4, 1, 1, 2),
        keys.record(4, 2, 1, 1),
    ];
    for next in steps {
        assert_eq!(outcome(&next, &record), Outcome::Taken);
        chain::extend(&mut links, &record, &next);
        record = next;
    }
    assert_eq!(versions(&links), ["1.1", "1.9", "3.1", "3.4", "4.1"]);
    let given: Vec<_> = chain::since(&links, &record, held.record().version).cloned().collect();
    assert_eq!(versions(&given), ["1.9", "3.1", "3.4", "4.1", "4.2"]);
    assert_eq!(versions(&chain::walk(&held, &given).unwrap()), ["1.9", "3.1", "3.4", "4.1", "4.2"]);
    assert_eq!(chain::walk(&record, &given).unwrap(), [], "it has the newest");
    let gap = [links[2].clone()];
    assert!(chain::walk(&held, &gap).is_err(), "without the pair before, c could be anybody");
    let leads = |epoch| chain::manager_of(&links, &record, Epoch(epoch));
    let of = |at: usize| Some(keys.0[at].public());
    assert_eq!([leads(1), leads(2), leads(3), leads(4)], [of(0), None, of(2), of(1)]);
}

#[test]
fn who_asks_within_an_epoch_sees_that_there_are_two_managers() {
    let keys = Keys::new();
    let candidate = |record: &mut Record| record.servers[2].candidate = true;
    let by_c = keys.edited(3, 1, 2, 2, candidate);
    for asks in [keys.edited(3, 1, 1, 1, candidate), keys.edited(3, 7, 1, 1, candidate)] {
        let given: Vec<_> = chain::since(&[], &by_c, asks.record().version).cloned().collect();
        assert_eq!(chain::walk(&asks, &given), Err(RecordRefused::Conflict(asks.record().version)));
    }
    let newer = keys.edited(4, 1, 1, 1, candidate);
    assert_eq!(chain::since(&[], &by_c, newer.record().version).count(), 0, "of an older epoch");
}

#[test]
fn a_server_on_the_other_branch_of_a_conflict_comes_over() {
    let keys = Keys::new();
    let candidate = |record: &mut Record| record.servers[2].candidate = true;
    let before = keys.edited(1, 9, 0, 0, candidate);
    let (first, later) = (keys.edited(3, 1, 1, 1, candidate), keys.edited(3, 4, 1, 1, candidate));
    let resolved = keys.edited(5, 1, 1, 1, candidate);
    let other = keys.edited(3, 2, 2, 2, candidate);
    let links = [before, first, later, resolved];
    assert_eq!(versions(&chain::walk(&other, &links).unwrap()), ["5.1"]);
}

#[test]
fn the_chain_does_not_grow_without_end() {
    let keys = Keys::new();
    let mut links = Vec::new();
    let mut record = keys.record(1, 1, 0, 0);
    for epoch in 2..200 {
        let next = keys.record(epoch, 1, 0, 0);
        chain::extend(&mut links, &record, &next);
        record = next;
    }
    assert_eq!(links.len(), limits::CHAIN);
    assert_eq!(links.last(), Some(&record));
    let one = record.json.len();
    assert_eq!(versions(chain::newest_within(&links, 2 * one)), ["198.1", "199.1"]);
    assert_eq!(chain::newest_within(&links, one - 1), [] as [SignedRecord; 0]);
    assert_eq!(chain::newest_within(&links, 1 << 30).len(), limits::CHAIN);
}

#[test]
fn one_record_raises_the_epoch_by_64_at_most_whoever_signs_it() {
    let keys = Keys::new();
    let held = keys.record(3, 5, 0, 0);
    for (leads, signs, who) in [(1, 1, "a candidate"), (1, 0, "the manager, for another"), (0, 0, "the manager")] {
        assert_eq!(outcome(&keys.record(67, 1, leads, signs), &held), Outcome::Taken, "{who}");
        for epoch in [68, 1_000, limits::COUNT] {
            assert_eq!(outcome(&keys.record(epoch, 1, leads, signs), &held), Outcome::Jump, "{who}, to {epoch}");
        }
    }
    assert_eq!(outcome(&keys.record(68, 1, 2, 2), &held), Outcome::Signer, "it may not at all");
}

#[test]
fn epochs_and_versions_have_a_greatest_that_nobody_signs_or_reads_beyond() {
    let keys = Keys::new();
    let mut record = keys.record(3, 5, 0, 0).record().clone();
    for (epoch, version) in [(limits::COUNT + 1, 1), (u64::MAX, 1), (3, limits::COUNT + 1), (3, u64::MAX)] {
        record.version = Version { epoch: Epoch(epoch), version };
        assert!(SignedRecord::sign(record.clone(), &keys.0[0]).is_err(), "{epoch}.{version}");
        let json = serde_json::to_string(&record).unwrap();
        let signature = keys.0[0].sign(CONTEXT, json.as_bytes()).to_vec();
        assert!(SignedRecord::from_parts(json, keys.0[0].public(), signature).is_err(), "{epoch}.{version}, read");
    }
}

#[test]
fn a_chain_is_walked_in_steps_of_64_at_most() {
    let keys = Keys::new();
    let held = keys.record(1, 1, 0, 0);
    let links = [keys.record(65, 1, 1, 1), keys.record(129, 1, 1, 1), keys.record(193, 1, 1, 1)];
    assert_eq!(versions(&chain::walk(&held, &links).unwrap()), ["65.1", "129.1", "193.1"]);
    let gap = [links[0].clone(), links[2].clone()];
    assert!(matches!(chain::walk(&held, &gap), Err(RecordRefused::Jump { .. })), "128 at once");
    assert_eq!(versions(&chain::walk(&held, &gap[..1]).unwrap()), ["65.1"]);
}

#[test]
fn a_key_that_is_refused_stays_refused() {
    let keys = Keys::new();
    let refusing = |epoch, version, signs: usize| {
        keys.edited(epoch, version, signs, signs, |record| {
            record.servers.retain(|server| server.name.as_str() != "b");
            record.refused = vec![keys.0[1].public()];
        })
    };
    let held = refusing(5, 1, 0);
    assert_eq!(outcome(&refusing(5, 2, 0), &held), Outcome::Taken);
    for (next, what) in [
        (keys.record(5, 2, 0, 0), "the manager forgets it"),
        (keys.record(6, 1, 1, 0), "the manager hands over to it"),
        (keys.record(7, 1, 1, 1), "it takes over"),
        (keys.record(5, 1, 1, 1), "it leads in the same epoch"),
        (keys.record(4, 9, 1, 1), "its older ones"),
    ] {
        assert_eq!(outcome(&next, &held), Outcome::Refused, "{what}");
        let links = [next, refusing(5, 3, 0)];
        let walked = chain::walk(&held, &links).map(|way| versions(&way));
        assert!(walked.is_err() || walked.as_deref() == Ok(&["5.3".to_owned()]), "{what}: {walked:?}");
    }
    let mut with_it = keys.record(5, 2, 0, 0).record().clone();
    with_it.refused = vec![keys.0[1].public()];
    assert!(SignedRecord::sign(with_it, &keys.0[0]).is_err(), "it is no server of the group");
}

#[test]
fn a_rival_is_who_could_have_taken_the_role_too() {
    let keys = Keys::new();
    let before = keys.record(1, 9, 0, 0);
    let held = keys.record(3, 1, 1, 1);
    let links = [before.clone(), held.clone()];
    let rival = |shown: &SignedRecord| chain::is_rival(&links, &held, shown);
    let by_c = keys.record(3, 1, 2, 2);
    assert!(!rival(&by_c), "c is no candidate: it stops nobody");
    assert!(!rival(&keys.record(3, 1, 4, 4)), "a stranger");
    assert!(!rival(&keys.record(5, 1, 0, 0)), "of another epoch");
    assert!(!rival(&held) && !rival(&keys.record(3, 2, 1, 1)), "the manager itself");
    assert!(
        rival(&keys.record(3, 1, 0, 0)) && rival(&keys.record(3, 4, 0, 0)),
        "the manager before raised its epoch, too"
    );
    assert!(!chain::is_rival(&[], &held, &keys.record(3, 1, 0, 0)), "nothing is known of before");
}
