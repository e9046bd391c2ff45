//! W1, W2, W10: forming a group sends the whole directory, compressed, to every member.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use bellwether_proto::{record::Role, status::State};

use crate::farm::{
    Farm, Server,
    compare::total_bytes,
    one,
    random::{self, Random},
};

#[test]
fn w10_the_first_group_is_formed_on_the_server_that_is_its_manager() {
    let mut farm = Farm::plan().unformed();
    farm.manager().write("index.html", "hello");
    farm.manager().init().success();
    farm.server_mut(0).start();

    let status = farm.wait_in_sync();
    assert_eq!(status.manager.as_str(), "manager");
    assert_eq!(status.head.expect("a revision").to_string(), "1.1");
    let manager = one(&status, "manager").expect("the manager");
    assert_eq!((manager.role, manager.state), (Role::Manager, State::InSync));
    assert_eq!(fs::read(farm.manager().web("index.html")).expect("the file"), b"hello", "forming changes no file");
}

#[test]
fn w10_private_keys_are_readable_by_their_owner_only() {
    let farm = Farm::plan().unformed();
    farm.manager().init().success();
    let mode = |path: &Path| fs::metadata(path).expect("state").permissions().mode() & 0o777;
    assert_eq!(mode(&farm.manager().state()), 0o700);
    for entry in fs::read_dir(farm.manager().state()).expect("state") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path) & 0o077, 0, "others may read {}", path.display());
    }
}

#[test]
fn w10_forming_a_group_again_changes_nothing() {
    let mut farm = Farm::plan().unformed();
    farm.form();
    let before = farm.wait_in_sync();
    farm.manager().init().success();
    assert_eq!(farm.status().record, before.record, "the group record is the same");
    assert_eq!(farm.status().head, before.head);
}

#[test]
fn w1_forming_the_group_sends_the_whole_directory_compressed_to_every_member() {
    let mut random = Random::seeded();
    let farm = Farm::plan().members(3).start_with(|manager| {
        random::fill(&mut random, manager.set("web"), 150);
        manager.write("big.conf", "upstream backend { server 10.0.0.1:8080; }\n".repeat(100_000));
    });
    farm.wait_equal();
    farm.assert_equal();

    let tree = total_bytes(farm.manager().set("web"));
    for member in farm.members() {
        let packs = total_bytes(&member.state().join("history"));
        assert!(packs * 2 < tree, "{} took {packs} bytes for a tree of {tree}", member.name);
    }
}

/// The number of settings that are changed one after the other.
const SETTINGS: usize = 12;

fn change_settings(manager: &Server, round: usize) {
    manager.write(&format!("conf.d/{:02}.conf", round % 6), format!("setting {round};\n").repeat(200));
}

#[test]
fn w2_settings_first_cost_fewer_revisions_and_bytes_than_the_group_first() {
    let settings_first = Farm::plan().members(1).start_with(|manager| {
        (0..SETTINGS).for_each(|round| change_settings(manager, round));
    });
    settings_first.wait_equal();

    let group_first = Farm::plan().members(1).start();
    for round in 0..SETTINGS {
        change_settings(group_first.manager(), round);
        group_first.wait_equal();
    }

    let cost = |farm: &Farm| {
        let revisions = farm.status().head.expect("a revision").sequence;
        (revisions, total_bytes(&farm.member(1).state().join("history")))
    };
    let (first, second) = (cost(&settings_first), cost(&group_first));
    println!(
        "settings first: {} revisions, {} bytes; group first: {} revisions, {} bytes",
        first.0, first.1, second.0, second.1
    );
    assert!(first.0 == 1 && second.0 > SETTINGS as u64, "revisions: {first:?} and {second:?}");
    assert!(first.1 < second.1, "bytes: {first:?} and {second:?}");
}
