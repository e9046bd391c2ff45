use bellwether_proto::{
    key::KeyPair,
    record::{Level, Policy},
};

use super::*;

/// `m` leads; `a` is a candidate, `b` is none, `d` is disabled.
struct Group {
    keys: [KeyPair; 4],
    held: SignedRecord,
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn by() -> By {
    By { author: "root".into(), time_ms: 7 }
}

const NAMES: [&str; 4] = ["a", "b", "d", "m"];

impl Group {
    fn new() -> Self {
        let keys: [KeyPair; 4] = std::array::from_fn(|_| KeyPair::generate());
        let roles = [Role::Member, Role::Member, Role::Disabled, Role::Manager];
        let server = |at: usize| Server {
            name: name(NAMES[at]),
            key: keys[at].public(),
            address: format!("{}:1", NAMES[at]),
            role: roles[at],
            candidate: at != 1,
            backends: Vec::new(),
            drained: false,
        };
        let record = Record {
            level: Level::NEWEST,
            group: [1; 16].into(),
            version: Version { epoch: Epoch(4), version: 17 },
            servers: (0..4).map(server).collect(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        };
        let held = SignedRecord::sign(record, &keys[3]).unwrap();
        Self { keys, held }
    }

    /// Signs as server `at` and checks that all servers with the record before accept it.
    fn signed(&self, record: Record, at: usize) -> Record {
        let signed = SignedRecord::sign(record, &self.keys[at]).expect("a rule's record is a good one");
        assert_eq!(signed.may_follow(&self.held), Ok(true));
        assert_eq!(signed.record().previous, Some(self.held.hash()));
        signed.record().clone()
    }

    fn hand_over(&self, to: &str, leave: Leave) -> Result<Option<Record>, RoleRefused> {
        let next = hand_over(&self.held, &name(to), leave, &by())?;
        Ok(next.map(|record| self.signed(record, 3)))
    }

    fn take_over(&self, at: usize, leave: Leave, seen: u64) -> Result<Record, RoleRefused> {
        take_over(&self.held, &self.keys[at].public(), leave, Epoch(seen), &by()).map(|record| self.signed(record, at))
    }
}

fn role(record: &Record, server: &str) -> Option<Role> {
    record.server(&name(server)).map(|server| server.role)
}

#[test]
fn a_handover_is_one_record_of_the_next_epoch() {
    let group = Group::new();
    for (leave, expected) in
        [(Leave::Member, Some(Role::Member)), (Leave::Disabled, Some(Role::Disabled)), (Leave::Removed, None)]
    {
        let record = group.hand_over("a", leave).unwrap().expect("a record");
        assert_eq!(record.version.to_string(), "5.1");
        assert_eq!((role(&record, "a"), role(&record, "m")), (Some(Role::Manager), expected));
        assert_eq!(record.removed.len(), usize::from(leave == Leave::Removed), "known, should it be added again");
        assert!(record.log.last().unwrap().what.starts_with("promote a"));
    }
}

#[test]
fn a_handover_to_the_manager_changes_nothing_and_one_to_nobody_is_refused() {
    let group = Group::new();
    assert_eq!(group.hand_over("m", Leave::Member), Ok(None));
    assert_eq!(group.hand_over("b", Leave::Member), Err(RoleRefused::NoCandidate(name("b"))));
    assert_eq!(group.hand_over("d", Leave::Member), Err(RoleRefused::Disabled(name("d"))));
    assert_eq!(group.hand_over("x", Leave::Member), Err(RoleRefused::Unknown(name("x"))));
}

#[test]
fn a_takeover_leaves_room_for_a_handover_that_nobody_has_heard_of() {
    let group = Group::new();
    let record = group.take_over(0, Leave::Disabled, 0).unwrap();
    assert_eq!(record.version.to_string(), "6.1");
    assert_eq!((role(&record, "a"), role(&record, "m")), (Some(Role::Manager), Some(Role::Disabled)));
    assert_eq!(group.take_over(0, Leave::Removed, 9).unwrap().version.to_string(), "11.1", "beyond all that is known");
    assert_eq!(group.take_over(3, Leave::Disabled, 0).unwrap().manager().name, name("m"), "a conflict is resolved");
}

#[test]
fn a_takeover_skips_what_it_has_heard_of_within_one_step_and_says_what_to_do_beyond() {
    let group = Group::new();
    assert_eq!(group.take_over(0, Leave::Disabled, 66).unwrap().version.to_string(), "68.1", "the longest step");
    for seen in [67, 68, limits::COUNT, u64::MAX] {
        let refused = group.take_over(0, Leave::Disabled, seen).unwrap_err();
        let said = format!("{refused} {:?}", refused.advice());
        assert!(said.contains("group rebuild --refuse KEY"), "{said}");
    }
}

#[test]
fn the_last_numbers_are_refused_where_they_are_made() {
    let mut group = Group::new();
    let mut last = group.held.record().clone();
    last.version.epoch = Epoch(limits::COUNT);
    group.held = SignedRecord::sign(last.clone(), &group.keys[3]).unwrap();
    assert!(matches!(group.hand_over("a", Leave::Member), Err(RoleRefused::Malformed(_))));
    assert!(matches!(group.take_over(0, Leave::Disabled, 0), Err(RoleRefused::Malformed(_))));
    last.version = Version { epoch: Epoch(4), version: limits::COUNT };
    let held = SignedRecord::sign(last.clone(), &group.keys[3]).unwrap();
    let next = crate::edits::set_paused(&held, true, &by()).expect("a change");
    let refused = SignedRecord::sign(next, &group.keys[3]).unwrap_err().to_string();
    assert!(refused.contains("promote --self --force"), "{refused}");
    // A new epoch begins with version 1.
    let taken = take_over(&held, &group.keys[0].public(), Leave::Disabled, Epoch(0), &by()).unwrap();
    assert_eq!(taken.version.to_string(), "6.1");
}

#[test]
fn who_is_no_candidate_takes_nothing_over() {
    let group = Group::new();
    assert_eq!(group.take_over(1, Leave::Disabled, 0), Err(RoleRefused::NoCandidate(name("b"))));
    assert_eq!(group.take_over(2, Leave::Disabled, 0), Err(RoleRefused::Disabled(name("d"))));
    let stranger = KeyPair::generate().public();
    let refused = take_over(&group.held, &stranger, Leave::Disabled, Epoch(0), &by());
    assert_eq!(refused, Err(RoleRefused::Stranger));
}
