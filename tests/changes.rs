//! W5, W17: a change is propagated by itself, wherever it was made; on the manager it takes effect at once.

use std::fs;

use crate::farm::{
    Farm,
    random::{self, Random},
};

#[test]
fn w5_an_edit_of_a_file_at_the_manager_arrives_at_every_member() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("nginx.conf", "old"));
    farm.manager().write("nginx.conf", "new");
    farm.manager().write("sites/a.conf", "a new file in a new directory");
    farm.wait_equal();
    fs::remove_dir_all(farm.manager().web("sites")).expect("removed");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w5_w17_a_put_at_the_manager_takes_effect_there_at_once_then_at_the_members() {
    let farm = Farm::plan().members(2).start();
    farm.manager().command_with_input(&["put", "web:conf.d/x.conf"], "by put").success();
    assert_eq!(fs::read(farm.manager().web("conf.d/x.conf")).expect("in effect"), b"by put");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w5_a_put_at_a_member_is_forwarded_to_the_manager_and_propagated() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "old"));
    let member = farm.member(1);
    member.command_with_input(&["put", "web:a.conf"], "asked at a member").success();
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("in effect"), b"asked at a member");
    farm.wait_equal();
    assert_eq!(member.command(&["get", "web:a.conf"]).success().stdout, "asked at a member");

    member.command(&["rm", "web:a.conf"]).success();
    assert!(!farm.manager().web("a.conf").exists());
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w5_commands_may_be_given_again() {
    let farm = Farm::plan().members(1).start();
    let put = || farm.manager().command_with_input(&["put", "web:a.conf"], "the same").success();
    put();
    let head = farm.wait_equal().head;
    put();
    farm.manager().command(&["publish"]).success();
    farm.manager().command(&["resume"]).success();
    farm.manager().command(&["sync"]).success();
    assert_eq!(farm.wait_equal().head, head, "no revision was made of nothing");
    farm.manager().command(&["rm", "web:a.conf"]).success();
    farm.manager().command(&["rm", "web:a.conf"]).success();
}

#[test]
fn w5_a_put_replaces_only_what_its_caller_has_seen() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "first"));
    let put =
        |hash: &str, content| farm.member(1).command_with_input(&["put", "web:a.conf", "--expect", hash], content);
    let seen = farm.member(1).command(&["get", "--hash", "web:a.conf"]).success().stdout;
    put(seen.trim(), "second").success();
    put(seen.trim(), "by one who saw the first").refused();
    put("none", "by one who saw nothing").refused();
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("a file"), b"second");
    farm.wait_equal();
}

#[test]
fn w5_a_path_outside_the_set_is_refused() {
    let farm = Farm::plan().members(1).start();
    for path in ["web:../escaped", "web:/etc/escaped", "web:a/../../escaped"] {
        for server in [farm.manager(), farm.member(1)] {
            let output = server.command_with_input(&["put", path], "no");
            assert!(matches!(output.code, Some(2 | 3)), "{output}");
        }
    }
    farm.manager().command_with_input(&["put", "nosuchset:a.conf"], "no").refused();
    assert!(!farm.manager().home.join("sets/escaped").exists());
}

#[test]
fn w5_any_edits_of_any_tree_arrive() {
    let mut random = Random::seeded();
    let farm = Farm::plan().members(2).start_with(|manager| random::fill(&mut random, manager.set("web"), 80));
    farm.wait_equal();
    for round in 0..12 {
        let edits: Vec<String> =
            (0..=random.below(6)).map(|_| random::edit(&mut random, farm.manager().set("web"))).collect();
        println!("round {round}: {edits:#?}");
        farm.wait_equal();
    }
    farm.assert_equal();
}

#[test]
fn a_burst_of_many_files_is_one_revision_or_few() {
    let farm = Farm::plan().members(1).start();
    let before = farm.status().head.expect("a revision").sequence;
    for i in 0..400 {
        farm.manager().write(&format!("burst/{}/{i}.conf", i % 20), format!("file {i}"));
    }
    let after = farm.wait_equal().head.expect("a revision").sequence;
    // Quiet time begins at 5 ms: on a machine that stops for longer in the middle of the burst it is cut.
    assert!(after - before <= 10, "{} revisions for one burst", after - before);
    farm.assert_equal();
}
