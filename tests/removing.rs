//! W16: a removal ends every way back of the server's key; a server comes back only by a new decision.

use std::{process::Command, time::Duration};

use bellwether_proto::token::Token;
use serde_json::Value;

use crate::farm::{DEADLINE, Farm, one, run, wait_for};

/// A running manager, and members that have not joined.
fn ready(members: usize) -> Farm {
    let mut farm = Farm::plan().members(members).unformed();
    farm.manager().write("index.html", "the manager's");
    farm.form();
    farm
}

/// Joins with this token, and starts.
fn join(farm: &mut Farm, index: usize, token: &str) {
    farm.server(index).join(token).success();
    farm.server_mut(index).start();
    farm.wait_same(farm.server(index));
}

/// Leaves the group on the server's own machine, and waits for the agent's end.
fn leave(farm: &mut Farm, index: usize) {
    farm.server(index).command(&["leave", "--yes"]).success();
    let server = farm.server_mut(index);
    wait_for("the agent's end", Duration::from_secs(30), || server.ended().ok_or("it runs".to_owned()));
    server.kill();
}

fn remove(farm: &Farm, name: &str) {
    farm.manager().command(&["server", "remove", name, "--yes"]).success();
    farm.wait_status("it out of the record", |s| one(s, name).is_none());
}

/// The token with that text in `token list --json`.
fn listed(farm: &Farm, token: &str) -> Value {
    let shown = farm.manager().command(&["token", "list", "--json"]).success();
    let all: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let id = token.parse::<Token>().expect("a token").id;
    let found = all.as_array().expect("a list").iter().find(|one| one["id"] == id.as_str());
    found.unwrap_or_else(|| panic!("{id} is not in {all}")).clone()
}

/// Asserts that the spent token is refused, and that this changes nothing.
fn assert_kept_out(farm: &Farm, index: usize, token: &str) {
    let name = farm.server(index).name.clone();
    farm.server(index).join(token).refused().says(&[&name, "removed", "server add", "token create"]);
    assert!(one(&farm.status(), &name).is_none(), "{name} is in the record again");
    assert!(!farm.server(index).state().join("group.json").exists(), "it belongs to no group");
}

#[test]
fn w16_a_removed_server_comes_back_by_a_new_decision_only() {
    let mut farm = ready(2);
    let [spent, open, unused] = [&["--uses", "1"][..], &["--uses", "3"], &[]].map(|uses| farm.token(uses));
    join(&mut farm, 1, &spent);
    join(&mut farm, 2, &open);
    let before = listed(&farm, &spent);
    assert_eq!((&before["admits"], &before["returns"][0]["server"]), (&0.into(), &"member1".into()));
    assert_eq!(listed(&farm, &open)["admits"], 2);
    farm.manager().command(&["token", "list"]).success().says(&["STILL ADMITS", "member1 again", "2 servers; member2"]);

    remove(&farm, "member1");
    let removed = farm.manager().command(&["server", "remove", "member2", "--yes"]).success();
    removed.says(&["still admits other servers", "token revoke"]);
    let after = listed(&farm, &spent);
    assert_eq!((&after["admits"], &after["removed"][0]), (&0.into(), &"member1".into()));
    assert_eq!(after["returns"].as_array().map(Vec::len), Some(0), "{after}");
    farm.manager().command(&["token", "list"]).success().says(&["nobody", "member1 (removed)"]);
    leave(&mut farm, 1);
    leave(&mut farm, 2);
    // The tokens are the used one, one with a use left, and an earlier one that was never used.
    for token in [&spent, &open, &unused] {
        assert_kept_out(&farm, 1, token);
        assert_kept_out(&farm, 2, token);
    }
    // The token is also refused after a restart.
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    farm.wait_status("the manager leads again", |s| s.head.is_some());
    assert_kept_out(&farm, 1, &spent);

    let decided = farm.token(&[]);
    join(&mut farm, 1, &decided);
    // `server add` admits the server by its present key, and no old token does so when it enters anew.
    farm.manager().command(&["server", "add", "member2"]).success();
    farm.server(2).join(&open).refused().says(&["removed", "token create"]);
    let decided = farm.token(&[]);
    join(&mut farm, 2, &decided);
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w16_the_key_that_new_hardware_replaced_does_not_come_back_by_what_it_had() {
    let mut farm = ready(2);
    let first = farm.token(&[]);
    join(&mut farm, 1, &first);
    let replacing = || farm.manager().command(&["server", "replace", "member1"]).success().stdout.trim().to_owned();
    let second = replacing();
    farm.server_mut(2).name = "member1".to_owned();
    join(&mut farm, 2, &second);
    farm.server(1).command(&["leave", "--yes"]).success();
    let member = farm.server_mut(1);
    wait_for("the agent's end", Duration::from_secs(30), || member.ended().ok_or("it runs".to_owned()));
    member.kill();
    farm.server(1).join(&first).refused().says(&["removed", "token create"]);
    // The old hardware takes the place again by a new decision, and the hardware that it replaces cannot use its old token.
    let third = farm.manager().command(&["server", "replace", "member1"]).success().stdout.trim().to_owned();
    join(&mut farm, 1, &third);
    leave(&mut farm, 2);
    farm.server(2).join(&second).refused().says(&["removed", "token create"]);
    farm.manager().write("index.html", "for the one that has the place");
    farm.wait_same(farm.server(1));
}

/// kill -9 between the saves of the tokens and of the record, and after both.
#[test]
fn w16_a_removal_that_is_cut_short_leaves_a_member_or_a_server_without_a_way_back() {
    let mut farm = ready(1);
    let spent = farm.token(&[]);
    join(&mut farm, 1, &spent);
    for (point, is_removed) in [("tokens.saved", false), ("record.saved", true)] {
        farm.server_mut(0).kill();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_status("the manager leads", |s| s.head.is_some());
        farm.manager().command(&["server", "remove", "member1", "--yes"]).exits(1);
        let manager = farm.server_mut(0);
        wait_for(&format!("death at {point}"), DEADLINE, || manager.ended().ok_or("it runs".to_owned()));
        manager.kill();
        manager.start();
        let found = farm.wait_status("the manager leads again", |s| s.head.is_some());
        assert_eq!(one(&found, "member1").is_none(), is_removed, "killed at {point}");
        if !is_removed {
            farm.manager().write("index.html", "a member still");
            farm.wait_same(farm.server(1));
        }
    }
    leave(&mut farm, 1);
    assert_kept_out(&farm, 1, &spent);
}

/// Tokens stay with the manager that made them: they do not bring back a server that another manager removes meanwhile.
#[test]
fn w16_what_another_manager_removed_does_not_come_back_when_the_first_one_leads_again() {
    let mut farm = ready(2);
    let [spent, open] = [farm.token(&[]), farm.token(&["--uses", "2"])];
    join(&mut farm, 1, &spent);
    join(&mut farm, 2, &open);
    farm.manager().command(&["promote", "member2"]).success();
    farm.led_by(2);
    farm.wait_equal();
    remove(&farm, "member1");
    leave(&mut farm, 1);
    farm.manager().command(&["promote", "manager"]).success();
    farm.led_by(0);
    farm.wait_status("the first one leads again", |s| s.manager.as_str() == "manager" && s.head.is_some());
    for token in [&spent, &open] {
        assert_kept_out(&farm, 1, token);
    }
    assert_eq!(listed(&farm, &open)["admits"], 1, "what nobody has used is open still");
    let decided = farm.token(&[]);
    join(&mut farm, 1, &decided);
}

/// A copy of the removed machine from before the removal has its key and all its state.
#[test]
fn w16_a_copy_of_a_removed_machine_does_not_come_back_either() {
    let mut farm = ready(1);
    let spent = farm.token(&[]);
    join(&mut farm, 1, &spent);
    farm.server_mut(1).stop();
    let copy = farm.server(1).home.join("copy");
    run(Command::new("cp").arg("-a").arg(farm.server(1).state()).arg(&copy)).success();
    farm.server_mut(1).start();
    remove(&farm, "member1");
    leave(&mut farm, 1);
    std::fs::remove_dir_all(farm.server(1).state()).expect("removed");
    std::fs::rename(&copy, farm.server(1).state()).expect("put back");
    farm.server_mut(1).start();
    farm.server(1).command_with_input(&["put", "web:asked.conf"], "no").refused().says(&["removed"]);
    assert!(one(&farm.status(), "member1").is_none());
    assert!(!farm.manager().web("asked.conf").exists());
}
