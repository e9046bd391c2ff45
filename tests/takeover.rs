//! W24, W25: the manager is lost; a candidate takes over, and the others go on with it.

use std::fs;

use bellwether_proto::{
    record::Role,
    status::{ServerStatus, State},
};

use crate::farm::{Balancer, DEADLINE, Farm, Output, compare::find_below, one, wait_for};

fn farm(members: usize) -> Farm {
    Farm::plan().members(members).start_with(|manager| manager.write("index.html", "one"))
}

fn takes_over(farm: &Farm, index: usize, more: &[&str]) -> Output {
    let arguments = [&["promote", "--self", "--yes"], more].concat();
    farm.server(index).command(&arguments)
}

fn content(farm: &Farm, index: usize, path: &str) -> String {
    fs::read_to_string(farm.server(index).web(path)).unwrap_or_default()
}

#[test]
fn w24_a_candidate_takes_over_and_equal_servers_are_not_taken_out_of_service() {
    let mut farm = farm(2);
    farm.wait_equal();
    farm.server_mut(0).kill();
    let balancer = Balancer::begin([farm.server(1), farm.server(2)]);
    farm.server(1).command(&["put", "web:x"]).refused().says(&["the manager, manager, does not answer"]);
    let planned = farm.server(1).command(&["promote", "--self", "--dry-run"]).success();
    assert!(planned.stdout.contains("nobody that answers has seen more than 1.1"), "{planned}");
    farm.server(1).command(&["promote", "--self"]).refused().says(&["no terminal"]);
    takes_over(&farm, 1, &[]).success().says(&["member1 is the manager (group record 3.1)", "server enable manager"]);

    farm.led_by(1);
    let status = farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
    assert_eq!(status.revision.map(|at| at.to_string()).as_deref(), Some("3.2"));
    farm.manager().write("index.html", "by the new one");
    farm.wait_same(farm.server(2));
    assert_eq!(one(&farm.status(), "manager").map(|server| server.role), Some(Role::Disabled));
    takes_over(&farm, 1, &[]).success().says(&["already"]);
    balancer.assert_always_ready();

    // W25: the manager is repaired, started and taken back.
    farm.server_mut(0).start();
    farm.manager().command(&["server", "add", "manager"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w24_it_does_not_take_over_while_the_manager_answers() {
    let mut farm = farm(2);
    takes_over(&farm, 1, &[]).refused().says(&["manager, the manager, answers", "promote member1"]);
    farm.server(1)
        .command(&["promote", "member2", "--self"])
        .refused()
        .says(&["this one is member1", "promote --self"]);
    farm.server(1).command(&["promote", "member1", "--self"]).refused().says(&["manager, the manager, answers"]);
    farm.manager().command(&["promote", "--self", "--yes"]).success().says(&["already"]);
    assert_eq!(farm.status().head.map(|head| head.epoch.0), Some(1));
    // With `--force` the old manager hears of it and follows the record.
    takes_over(&farm, 1, &["--force"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    let old = farm.server(0);
    wait_for("the old manager sends elsewhere", DEADLINE, || {
        let asked = old.command(&["pause"]).refused();
        if asked.stderr.contains("run the command at the manager, member1") { Ok(()) } else { Err(asked.to_string()) }
    });
}

/// A farm in which member1 is away while member2 gets 1.2; nothing is published by itself.
fn ahead() -> Farm {
    let mut farm = farm(2);
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    farm.wait_in_sync();
    farm.server_mut(1).kill();
    farm.manager().write("index.html", "only member2 has this");
    farm.manager().command(&["publish", "--message", "the last change"]).success();
    farm.wait_same(farm.server(2));
    farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
    farm
}

#[test]
fn w24_who_is_behind_says_what_would_be_lost_and_what_is_replaced_is_kept() {
    let mut farm = ahead();
    farm.server_mut(0).kill();
    farm.server_mut(1).start();

    takes_over(&farm, 1, &[]).refused().says(&["member2 has seen more: it holds 1.2, this server 1.1"]);
    let balancer = Balancer::begin([farm.server(2)]);
    let forced = takes_over(&farm, 1, &["--force"]).success();
    forced.says(&["1.2 ", "the last change", "seen by member2"]);
    farm.led_by(1);
    farm.wait_same(farm.server(2));
    let shown = farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
    assert_eq!(content(&farm, 2, "index.html"), "one");
    // W12: the server served its old content until the switch.
    balancer.assert_always_ready();
    assert!(shown.kept.iter().any(|kept| kept.contains("instead-of-1.2")), "{:?}", shown.kept);
    let kept = find_below(&farm.server(2).state().join("recovery"), "index.html").expect("a kept copy");
    assert_eq!(fs::read_to_string(kept).expect("kept"), "only member2 has this");
    assert_eq!(lost(&farm).len(), 1, "the group's log keeps it");
}

/// The lost revisions in the group's log.
fn lost(farm: &Farm) -> Vec<String> {
    let log = farm.manager().command(&["group", "show", "--log"]).success().stdout;
    log.lines().filter(|line| line.contains("lost: ")).map(str::to_owned).collect()
}

#[test]
fn w24_invariant_4_what_a_server_that_did_not_answer_had_seen_is_named_when_it_returns() {
    let mut farm = ahead();
    farm.server_mut(2).kill();
    farm.server_mut(0).kill();
    farm.server_mut(1).start();
    takes_over(&farm, 1, &[]).success().says(&["member2 does not answer"]);
    farm.led_by(1);
    farm.wait_leads(1);
    assert_eq!(lost(&farm), Vec::<String>::new());

    farm.server_mut(2).start();
    let named = |server: &ServerStatus| {
        server.state == State::InSync
            && server
                .reason
                .as_ref()
                .is_some_and(|reason| reason.contains("1.2 ") && reason.contains("the last change"))
    };
    farm.wait_server(farm.server(2), "in sync, and what is lost", named);
    let named = wait_for("it is in the group's log", DEADLINE, || match lost(&farm) {
        named if named.len() == 1 && named[0].contains("(seen by member2)") => Ok(named),
        other => Err(format!("{other:?}")),
    });
    // The revision is named once, though the server reports it again.
    farm.server_mut(2).kill();
    farm.server_mut(2).start();
    farm.manager().write("index.html", "three");
    farm.manager().command(&["publish"]).success();
    farm.wait_same(farm.server(2));
    assert_eq!(lost(&farm), named);
}

#[test]
fn w24_what_was_edited_on_the_candidate_becomes_the_truth_only_when_it_is_accepted() {
    let mut farm = farm(2);
    farm.server(1).write("index.html", "edited on the member");
    farm.wait_server(farm.server(1), "drifted", |server| server.state == State::Drifted);
    farm.server_mut(0).kill();
    takes_over(&farm, 1, &[]).refused().says(&["web:index.html", "--accept"]);
    takes_over(&farm, 1, &["--accept", "--remove-old"]).success();
    farm.led_by(1);
    farm.wait_same(farm.server(2));
    assert_eq!(content(&farm, 2, "index.html"), "edited on the member");
    assert!(one(&farm.status(), "manager").is_none(), "removed");
    // The old manager learns that it was removed, and changes nothing any more.
    farm.server_mut(0).start();
    farm.server(0).command(&["pause"]).refused().says(&["member1"]);
}

#[test]
fn w24_invariant_2_a_takeover_that_was_killed_when_it_was_durable_is_in_force() {
    let mut farm = farm(2);
    farm.server_mut(1).kill();
    farm.server_mut(1).start_with(&[("BELLWETHER_FAILPOINT", "takeover.saved")]);
    farm.wait_in_sync();
    farm.server_mut(0).kill();
    takes_over(&farm, 1, &[]).exits(1);
    let armed = farm.server_mut(1);
    wait_for("death at takeover.saved", DEADLINE, || armed.ended().ok_or("it runs".to_owned()));
    armed.kill();
    armed.start();
    farm.led_by(1);
    farm.wait_leads(1);
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.server(2));
}

#[test]
fn w24_what_a_member_has_only_heard_of_is_named_after_its_restart() {
    let mut farm = farm(2);
    farm.manager().command(&["pause"]).success();
    farm.manager().command_with_input(&["put", "web:heard.conf", "--message", "the last word"], "of it").success();
    let head = farm.wait_status("a head", |status| status.head.is_some_and(|head| head.sequence > 1)).head;
    for index in [1, 2] {
        let member = farm.server(index);
        wait_for(&format!("{} hearing of it", member.name), DEADLINE, || {
            let status = member.status()?;
            if status.head == head { Ok(()) } else { Err(format!("{:?}", status.head)) }
        });
    }
    farm.server_mut(0).kill();
    // One server is killed some seconds later; the other is stopped, and notes the headers then.
    let noted = farm.server(1).state().join("seen.json");
    wait_for("a note of what was only heard of", DEADLINE, || if noted.exists() { Ok(()) } else { Err("none".into()) });
    farm.server_mut(1).kill();
    assert!(farm.server_mut(2).stop().success());
    [1, 2].into_iter().for_each(|index| farm.server_mut(index).start());
    let planned = farm.server(2).command(&["promote", "--self", "--dry-run"]).success();
    planned.says(&["1.2 ", "the last word (seen by member2, member1)"]);
    assert!(!farm.server(1).web("heard.conf").exists(), "nobody has more than the word of it");

    // The new manager names the revisions that were only heard of, and waits for none of them.
    takes_over(&farm, 2, &[]).success().says(&["the last word"]);
    farm.led_by(2);
    farm.wait_same(farm.server(1));
}
