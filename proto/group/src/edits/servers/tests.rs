use bellwether_proto::{key::KeyPair, record::Role};

use super::*;
use crate::edits::tests::{Group, by, name};

/// A group of the manager `m` and the member `a`.
fn group() -> (Group, KeyPair) {
    let (mut group, a) = (Group::new(), KeyPair::generate());
    group.enter("a", &a).unwrap();
    (group, a)
}

fn role(group: &Group, server: &str) -> Option<Role> {
    group.held.record().server(&name(server)).map(|server| server.role)
}

#[test]
fn disabling_and_enabling_can_be_given_again_and_spare_the_manager() {
    let (mut group, a) = group();
    let record = disable(&group.held, &name("a"), &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(role(&group, "a"), Some(Role::Disabled));
    assert_eq!(disable(&group.held, &name("a"), &by()), Ok(None));
    assert_eq!(group.enter("a", &a), Err(GroupRefused::Disabled(name("a"))), "no token enables a server");
    let record = enable(&group.held, &name("a"), &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(role(&group, "a"), Some(Role::Member));
    assert_eq!(enable(&group.held, &name("a"), &by()), Ok(None));
    let manager = GroupRefused::Manager { name: name("m"), what: "disabled" };
    assert_eq!(disable(&group.held, &name("m"), &by()), Err(manager));
    assert_eq!(disable(&group.held, &name("x"), &by()), Err(GroupRefused::Unknown(name("x"))));
    group.remove("a").unwrap();
    for rule in [disable, enable] {
        assert_eq!(rule(&group.held, &name("a"), &by()), Err(GroupRefused::Removed(name("a"))));
    }
}

#[test]
fn a_server_is_set_by_field() {
    let (mut group, _) = group();
    let asked = ServerChange { candidate: Some(false), ..ServerChange::default() };
    let record = set(&group.held, &name("a"), &asked, &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(set(&group.held, &name("a"), &asked, &by()), Ok(None), "again, nothing");
    let asked = ServerChange { backends: Some(vec!["web/a".into()]), ..ServerChange::default() };
    let record = set(&group.held, &name("a"), &asked, &by()).unwrap();
    assert!(group.take(record));
    let server = group.held.record().server(&name("a")).unwrap();
    assert_eq!((server.candidate, server.backends.len(), server.address.as_str()), (false, 1, "a:7440"));
    assert_eq!(group.held.record().log.last().unwrap().what, "server set a --backend web/a");
    let none = ServerChange { backends: Some(Vec::new()), ..ServerChange::default() };
    let record = set(&group.held, &name("a"), &none, &by()).unwrap();
    assert!(group.take(record));
    assert_eq!(group.held.record().log.last().unwrap().what, "server set a --no-backends");
    let at = |address: &str| ServerChange { address: Some(address.into()), ..ServerChange::default() };
    let taken = GroupRefused::AddressTaken { address: "m:7440".into(), by: name("m") };
    assert_eq!(set(&group.held, &name("a"), &at("m:7440"), &by()), Err(taken));
    assert!(matches!(set(&group.held, &name("a"), &at("nowhere"), &by()), Err(GroupRefused::Malformed(_))));
}

#[test]
fn new_hardware_takes_a_name_and_the_old_key_is_refused() {
    let (mut group, old) = group();
    let keep = ServerChange { candidate: Some(false), ..ServerChange::default() };
    let record = set(&group.held, &name("a"), &keep, &by()).unwrap();
    group.take(record);
    let new = KeyPair::generate();
    let take = |group: &Group, key: &KeyPair| replace(&group.held, &name("a"), &key.public(), "new:1", &by());
    let record = take(&group, &new).unwrap();
    assert!(group.take(record));
    let server = group.held.record().server(&name("a")).unwrap();
    assert_eq!((server.key, server.address.as_str(), server.candidate), (new.public(), "new:1", false));
    assert!(group.held.record().by_key(&old.public()).is_none());
    assert!(group.held.record().removed.iter().any(|s| s.key == old.public()));
    assert_eq!(take(&group, &new), Ok(None), "the same key may come again");
    assert_eq!(group.add("a"), Ok(false), "the name is a member's");

    let manager = replace(&group.held, &name("m"), &old.public(), "new:1", &by());
    assert_eq!(manager, Err(GroupRefused::Manager { name: name("m"), what: "replaced" }));
    let b = KeyPair::generate();
    group.enter("b", &b).unwrap();
    assert_eq!(take(&group, &b), Err(GroupRefused::KeyKnown { known: name("b"), asked: name("a") }));
    assert_eq!(may_replace(&group.held, &name("x")), Err(GroupRefused::Unknown(name("x"))));
}

#[test]
fn one_whose_address_is_another_s_by_now_is_not_added_again() {
    let (mut group, _) = group();
    group.remove("a").unwrap();
    let record = enter(&group.held, &name("b"), &KeyPair::generate().public(), "a:7440", &by()).unwrap();
    assert!(group.take(record));
    assert!(matches!(group.add("a"), Err(GroupRefused::AddressTaken { .. })));
}
