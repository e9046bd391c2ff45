use bellwether_proto::{
    key::KeyPair,
    record::{Level, Policy, Role, Server, Version},
    revision::{Epoch, GroupId},
};

use super::*;

pub(crate) struct Group {
    key: KeyPair,
    pub(crate) held: SignedRecord,
}

pub(super) fn by() -> By {
    By { author: "root@web1".into(), time_ms: 7 }
}

pub(super) fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

impl Group {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate();
        let manager = Server {
            name: name("m"),
            key: key.public(),
            address: "m:7440".into(),
            role: Role::Manager,
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        let sets = ["haproxy", "nginx"].map(|set| SetRules::new(set.parse().unwrap()));
        let policy = Policy::new(sets.into());
        let record = Record {
            level: Level::NEWEST,
            group: GroupId::from([1; 16]),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: vec![manager],
            removed: Vec::new(),
            refused: Vec::new(),
            policy,
            log: Vec::new(),
            previous: None,
        };
        Self { held: SignedRecord::sign(record, &key).unwrap(), key }
    }

    /// Signs the next record and checks that servers with the one before accept it.
    pub(super) fn take(&mut self, record: Option<Record>) -> bool {
        let Some(record) = record else { return false };
        assert_eq!(record.version.version, self.held.record().version.version + 1);
        assert_eq!(record.previous, Some(self.held.hash()));
        let signed = SignedRecord::sign(record, &self.key).expect("a rule's record is a good one");
        assert_eq!(signed.may_follow(&self.held), Ok(true));
        self.held = signed;
        true
    }

    pub(super) fn enter(&mut self, server: &str, key: &KeyPair) -> Result<bool, GroupRefused> {
        let record = enter(&self.held, &name(server), &key.public(), &format!("{server}:7440"), &by())?;
        Ok(self.take(record))
    }

    pub(super) fn remove(&mut self, server: &str) -> Result<bool, GroupRefused> {
        let record = remove(&self.held, &name(server), &by())?;
        Ok(self.take(record))
    }

    pub(super) fn add(&mut self, server: &str) -> Result<bool, GroupRefused> {
        let record = add_again(&self.held, &name(server), &by())?;
        Ok(self.take(record))
    }
}

#[test]
fn entering_again_changes_nothing_and_a_taken_name_or_key_is_refused() {
    let mut group = Group::new();
    let (a, b) = (KeyPair::generate(), KeyPair::generate());
    assert_eq!(group.enter("a", &a), Ok(true));
    assert_eq!(group.enter("a", &a), Ok(false));
    assert_eq!(group.enter("a", &b), Err(GroupRefused::NameTaken(name("a"))));
    assert_eq!(group.enter("b", &a), Err(GroupRefused::KeyKnown { known: name("a"), asked: name("b") }));
    assert_eq!(group.enter("m", &b), Err(GroupRefused::NameTaken(name("m"))));
    assert_eq!(group.held.record().server(&name("a")).unwrap().role, Role::Member);
    assert_eq!(group.held.record().version.version, 2);
}

#[test]
fn a_server_that_moved_gets_its_new_address() {
    let mut group = Group::new();
    let a = KeyPair::generate();
    group.enter("a", &a).unwrap();
    let record = enter(&group.held, &name("a"), &a.public(), "other:1", &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(group.held.record().server(&name("a")).unwrap().address, "other:1");
}

#[test]
fn addresses_that_cannot_be_dialled_are_refused() {
    let group = Group::new();
    let key = KeyPair::generate().public();
    for address in ["", "host", ":1", "host:0", "host:port", "host:70000", "ho st:1", "h\u{e9}:1"] {
        assert!(enter(&group.held, &name("a"), &key, address, &by()).is_err(), "{address}");
    }
    assert!(enter(&group.held, &name("a"), &key, "[::1]:7440", &by()).is_ok());
}

#[test]
fn removed_is_refused_remembered_and_can_be_added_again() {
    let mut group = Group::new();
    let a = KeyPair::generate();
    group.enter("a", &a).unwrap();
    assert_eq!(group.remove("m"), Err(GroupRefused::Manager { name: name("m"), what: "removed" }));
    assert_eq!(group.remove("x"), Err(GroupRefused::Unknown(name("x"))));
    assert_eq!(group.remove("a"), Ok(true));
    assert_eq!(group.remove("a"), Ok(false));
    assert!(group.held.record().by_key(&a.public()).is_none());
    assert_eq!(group.add("x"), Err(GroupRefused::Unknown(name("x"))));
    assert_eq!(group.add("a"), Ok(true));
    assert_eq!(group.add("a"), Ok(false));
    assert_eq!(group.held.record().by_key(&a.public()).unwrap().name, name("a"));
    assert!(group.held.record().removed.is_empty());
}

#[test]
fn one_that_was_replaced_is_not_added_again() {
    let mut group = Group::new();
    let (a, b) = (KeyPair::generate(), KeyPair::generate());
    group.enter("a", &a).unwrap();
    group.remove("a").unwrap();
    group.enter("a2", &a).unwrap();
    assert_eq!(group.add("a"), Err(GroupRefused::Unknown(name("a"))), "it came back under another name");
    group.remove("a2").unwrap();
    group.enter("a2", &b).unwrap();
    assert_eq!(group.add("a2"), Ok(false), "the name is a member's");
}

#[test]
fn the_log_keeps_the_last_hundred() {
    let mut group = Group::new();
    for n in 0..150 {
        let record = set_paused(&group.held, n % 2 == 0, &by());
        assert!(group.take(record), "{n}");
    }
    let log = &group.held.record().log;
    assert_eq!(log.len(), 100);
    assert_eq!(log.last().unwrap().what, "resume");
    assert_eq!(set_paused(&group.held, false, &by()), None);
}

#[test]
fn policies_are_set_by_field() {
    let mut group = Group::new();
    let nginx: SetName = "nginx".parse().unwrap();
    let change = PolicyChange {
        publish: Some(Publish::Manual),
        set: Some(nginx.clone()),
        exclude: Patterns { list: vec!["*.bak".into(), "*.swp".into()], replace: false },
        ..PolicyChange::default()
    };
    let record = set_policy(&group.held, &change, &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(set_policy(&group.held, &change, &by()), Ok(None), "again, nothing");
    let policy = &group.held.record().policy;
    assert_eq!(policy.publish, Publish::Manual);
    assert_eq!(policy.sets[1].exclude, ["*.bak", "*.swp"]);
    assert!(policy.sets[0].exclude.is_empty());

    let replace = PolicyChange {
        set: Some(nginx),
        exclude: Patterns { list: Vec::new(), replace: true },
        ..PolicyChange::default()
    };
    let record = set_policy(&group.held, &replace, &by()).unwrap();
    assert!(group.take(record));
    assert!(group.held.record().policy.sets[1].exclude.is_empty());
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let group = Group::new();
    let set = |set: Option<&str>, list: &[&str], quiet| PolicyChange {
        set: set.map(|s| s.parse().unwrap()),
        local: Patterns { list: list.iter().map(|&p| p.into()).collect(), replace: false },
        quiet_max_ms: quiet,
        ..PolicyChange::default()
    };
    assert!(matches!(set_policy(&group.held, &set(Some("x"), &[], None), &by()), Err(GroupRefused::NoSet(_))));
    assert!(set_policy(&group.held, &set(None, &["a"], None), &by()).is_err());
    assert!(set_policy(&group.held, &set(None, &[], Some(1)), &by()).is_err());
    let open = |ms| PolicyChange { open_max_ms: Some(ms), ..PolicyChange::default() };
    assert!(set_policy(&group.held, &open(3_600_001), &by()).is_err());
    let record = set_policy(&group.held, &open(0), &by()).unwrap().expect("another one");
    assert_eq!(record.policy.open_max_ms, 0);
    let wire = |publish: &str| v1::SetPolicy { publish: Some(publish.into()), ..Default::default() };
    assert!(PolicyChange::try_from(wire("sometimes")).is_err());
    let change = PolicyChange::try_from(wire("manual")).unwrap();
    assert_eq!(change.publish, Some(Publish::Manual));
    assert_eq!(v1::SetPolicy::from(change), wire("manual"));
}

#[test]
fn balancers_are_added_replaced_and_forgotten() {
    let mut group = Group::new();
    let change = |balancers: &[&str], gone: &[&str]| PolicyChange {
        balancers: balancers.iter().map(|text| text.parse().unwrap()).collect(),
        no_balancers: gone.iter().map(|text| text.parse().unwrap()).collect(),
        ..PolicyChange::default()
    };
    let listed = |group: &Group| -> Vec<String> {
        group.held.record().policy.balancers.iter().map(ToString::to_string).collect()
    };
    let both = change(&["lb2=command", "lb1=haproxy:unix:/run/h.sock"], &[]);
    let record = set_policy(&group.held, &both, &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(listed(&group), ["lb1=haproxy:unix:/run/h.sock", "lb2=command"]);
    assert_eq!(set_policy(&group.held, &both, &by()), Ok(None), "it is so already");
    let record = set_policy(&group.held, &change(&["lb1=nginx"], &["lb2", "lb3"]), &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(listed(&group), ["lb1=nginx"]);
    let twice = change(&["lb5=nginx", "lb5=command"], &[]);
    assert!(matches!(set_policy(&group.held, &twice, &by()), Err(GroupRefused::Malformed(_))));
}

#[test]
fn the_time_for_sessions_to_end_is_bounded() {
    let group = Group::new();
    let change = |s| PolicyChange { drain_timeout_s: Some(s), min_serving: Some(2), ..PolicyChange::default() };
    let record = set_policy(&group.held, &change(86_400), &by()).unwrap().unwrap();
    assert_eq!((record.policy.drain_timeout_s, record.policy.min_serving), (86_400, 2));
    assert!(matches!(set_policy(&group.held, &change(86_401), &by()), Err(GroupRefused::Malformed(_))));
}

#[test]
fn w12_a_server_that_is_brought_back_is_out_of_service_until_it_is_undrained() {
    let mut group = Group::new();
    let a = KeyPair::generate();
    group.enter("a", &a).unwrap();
    let servers = [name("a"), name("x")];
    let record = set_drained(&group.held, &servers, true, &by());
    assert!(group.take(record));
    assert!(group.held.record().server(&name("a")).unwrap().drained);
    assert_eq!(set_drained(&group.held, &servers, true, &by()), None, "again, nothing");
    let record = set_drained(&group.held, &servers, false, &by());
    assert!(group.take(record));
    group.remove("a").unwrap();
    let record = bring_back(&group.held, &name("a"), &by()).unwrap();
    assert!(group.take(record));
    assert!(group.held.record().server(&name("a")).unwrap().drained);
    assert_eq!(bring_back(&group.held, &name("a"), &by()), Ok(None));
}

#[test]
fn what_is_done_about_drift_is_set_once() {
    let mut group = Group::new();
    let change = PolicyChange { drift: Some(OnDrift::Hold), ..PolicyChange::default() };
    let record = set_policy(&group.held, &change, &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(group.held.record().policy.drift, OnDrift::Hold);
    assert_eq!(set_policy(&group.held, &change, &by()), Ok(None));
    assert!(["report", "revert", "hold"].iter().all(|word| word.parse::<OnDrift>().unwrap().word() == *word));
    assert!("Hold".parse::<OnDrift>().is_err());
}

#[test]
fn a_refused_key_enters_no_more_and_takes_nobodys_place() {
    let mut group = Group::new();
    let (a, b) = (KeyPair::generate(), KeyPair::generate());
    group.enter("a", &a).unwrap();
    let mut record = group.held.record().clone();
    record.refused = vec![b.public()];
    record.version.version += 1;
    group.held = SignedRecord::sign(record, &group.key).unwrap();
    assert_eq!(group.enter("b", &b), Err(GroupRefused::RefusedKey(b.public())));
    let replaced = replace(&group.held, &name("a"), &b.public(), "a:7440", &by());
    assert_eq!(replaced, Err(GroupRefused::RefusedKey(b.public())));
    assert_eq!(group.enter("b", &KeyPair::generate()), Ok(true), "with a new key");
}
