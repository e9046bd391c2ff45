//! Entering a group and leaving it: tokens, files that a join replaces, servers that were removed.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::farm::{DEADLINE, Farm, compare::find_below, one, run, wait_for};

/// A running manager, and members that have not joined.
fn ready(members: usize) -> Farm {
    let mut farm = Farm::plan().members(members).unformed();
    farm.manager().write("index.html", "the manager's");
    farm.form();
    farm.wait_in_sync();
    farm
}

fn token_id(farm: &Farm) -> String {
    let listed = farm.manager().command(&["token", "list", "--json"]).success();
    let tokens: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let newest = tokens["tokens"].as_array().or(tokens.as_array()).and_then(|all| all.last()).expect("a token");
    newest["id"].as_str().expect("its id").to_owned()
}

#[test]
fn join_onto_a_populated_directory_asks_then_keeps_what_differs_as_a_kept_copy() {
    let mut farm = ready(1);
    let member = farm.member(1);
    member.write("index.html", "the member's own");
    member.write("conf.d/old.conf", "only here");
    let token = farm.token(&[]);

    let asked = member.join_with(&token, &[]).refused();
    asked.says(&["web:index.html", "web:conf.d"]);
    assert_eq!(fs::read(member.web("index.html")).expect("untouched"), b"the member's own");

    member.join(&token).success();
    farm.server_mut(1).start();
    farm.wait_equal();
    farm.assert_equal();
    let kept = find_below(&farm.member(1).state().join("recovery"), "old.conf").expect("what only the member had");
    assert_eq!(fs::read(kept).expect("kept"), b"only here");
    let kept = find_below(&farm.member(1).state().join("recovery"), "index.html").expect("what the member had instead");
    assert_eq!(fs::read(kept).expect("kept"), b"the member's own");
    let shown = farm.status_of(farm.member(1));
    assert!(!shown.kept.is_empty(), "the status names the kept copy");
}

#[test]
fn a_token_admits_as_many_servers_as_it_says_and_its_first_key_again() {
    let farm = ready(2);
    let token = farm.token(&["--uses", "1"]);
    farm.member(1).join(&token).success();
    // A server that forgets its group keeps its key, and the token is bound to that key.
    farm.member(1).command(&["leave", "--yes"]).success();
    farm.member(1).join(&token).success();
    farm.member(1).join(&token).success();
    farm.member(2).join(&token).refused().says(&["token"]);
    assert!(one(&farm.status(), "member2").is_none(), "member2 is not in the record");
}

#[test]
fn a_token_that_expired_is_refused() {
    let farm = ready(1);
    let token = farm.token(&["--ttl", "1s"]);
    let start = std::time::Instant::now();
    wait_for("the token's last second to pass", DEADLINE, || {
        let passed = start.elapsed();
        if passed > Duration::from_millis(1_100) { Ok(()) } else { Err(format!("{passed:?}")) }
    });
    farm.member(1).join(&token).refused().says(&["expired"]);
}

#[test]
fn a_token_admits_only_the_names_of_its_glob() {
    let farm = ready(1);
    let token = farm.token(&["--names", "web*"]);
    farm.member(1).join(&token).refused().says(&["member1"]);
    farm.member(1).join(&farm.token(&["--names", "member?"])).success();
}

#[test]
fn a_revoked_token_is_refused() {
    let farm = ready(1);
    let token = farm.token(&[]);
    let id = token_id(&farm);
    farm.manager().command(&["token", "revoke", &id]).success();
    farm.member(1).join(&token).refused().says(&["revoked"]);
}

#[test]
fn a_changed_token_is_refused_before_anything_is_done() {
    let farm = ready(1);
    let token = farm.token(&[]);
    let code = farm.member(1).join(&token[..token.len() - 4]).code;
    assert!(matches!(code, Some(2 | 3)), "exit code {code:?}");
    let foreign = ready(0).token(&[]);
    let code = farm.member(1).join(&foreign).code;
    assert!(matches!(code, Some(1 | 3)), "a manager that is gone: exit code {code:?}");
    assert!(!farm.member(1).state().join("group.json").exists(), "it belongs to no group");
}

#[test]
fn a_removed_server_is_refused_at_its_next_call_and_may_be_added_again() {
    let mut farm = ready(2);
    farm.admit(1);
    farm.admit(2);
    farm.wait_equal();

    farm.manager().command(&["server", "remove", "member1", "--yes"]).success();
    farm.wait_status("member1 out of the record", |s| one(s, "member1").is_none());
    farm.manager().write("index.html", "after the removal");
    farm.wait_same(farm.member(2));
    let asked = farm.member(1).command_with_input(&["put", "web:asked.conf"], "no");
    assert!(matches!(asked.code, Some(1 | 3)), "a change asked by a removed server: {asked}");
    assert!(!farm.manager().web("asked.conf").exists());
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("as it was"), b"the manager's");

    farm.manager().command(&["server", "remove", "member1", "--yes"]).success();
    farm.manager().command(&["server", "add", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn leave_forgets_the_group_and_leaves_the_configuration() {
    let mut farm = ready(1);
    farm.admit(1);
    farm.wait_equal();
    farm.member(1).command(&["leave", "--yes"]).success();
    let member = farm.server_mut(1);
    wait_for("the agent's end", DEADLINE, || member.ended().ok_or("it runs".to_owned()));
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("still there"), b"the manager's");
    assert!(!farm.member(1).state().join("group.json").exists(), "it belongs to no group");
}

#[test]
fn w3_w12_a_server_that_has_what_the_manager_has_goes_through_nothing_older() {
    let mut farm = Farm::plan().members(1).unformed();
    farm.manager().write("index.html", "one");
    farm.form();
    farm.manager().write("index.html", "two");
    farm.manager().write("old.conf", "of the second revision");
    farm.wait_status("the second revision", |s| s.head.is_some_and(|h| h.sequence > 1) && s.unpublished.is_none());
    fs::remove_file(farm.manager().web("old.conf")).expect("removed");
    farm.wait_status("the third revision", |s| s.head.is_some_and(|h| h.sequence > 2) && s.unpublished.is_none());
    let member = farm.member(1).web(".");
    run(Command::new("cp").arg("-a").arg(farm.manager().web(".")).arg(&member)).success();

    let (page, old, joined) = (member.join("index.html"), member.join("old.conf"), Arc::new(AtomicBool::new(false)));
    let ended = joined.clone();
    let reader = thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            assert_eq!(fs::read_to_string(&page).expect("always there"), "two");
            assert!(!old.exists(), "what was removed by then");
        }
    });
    farm.admit(1);
    let status = farm.wait_in_sync();
    joined.store(true, Ordering::Relaxed);
    reader.join().expect("it went through nothing older");
    let row = one(&status, "member1").expect("the member");
    assert!(row.kept.is_empty(), "nothing was replaced: {:?}", row.kept);
}
