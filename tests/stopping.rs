//! W8, W12, W18, W24–W26: procedures that stop, wait or are aborted. Each stop and refusal names a command, and that command
//! helps.

use bellwether_proto::status::{ProcedureState, State};
use rustix::process::Signal;

use crate::{
    farm::{DEADLINE, Farm, get, one, wait_for},
    maintenance::{assert_in_service, is_done, procedure, ready, site, wait_procedure},
};

#[test]
fn w8_a_sync_that_stopped_is_shown_and_goes_on_when_it_is_given_again() {
    let (mut farm, site) = site(2, "20s");
    let client = site.client();
    farm.server_mut(1).stop();
    farm.server_mut(1).start_with(&[("BELLWETHER_FAILPOINT", "apply.synced=error")]);
    farm.wait_in_sync();
    farm.manager().command(&["pause"]).success();
    farm.manager().write("index.html", "<p>imported</p>");
    farm.server(1).write("own.html", "<p>somebody's own</p>");
    farm.wait_server(farm.server(1), "drifted", |s| s.state == State::Drifted);

    let stopped = farm.manager().command(&["sync", "member1"]).exits(1);
    stopped.says(&["p1 stopped", "still drained: member1", "bellwether sync member1", "bellwether procedure abort p1"]);
    let shown = farm.wait_status("the stop", |status| {
        let stopped = |p: &bellwether_proto::status::ProcedureStatus| p.state == ProcedureState::Stopped;
        status.procedures.iter().any(stopped) && one(status, "member1").is_some_and(|s| s.drained)
    });
    assert_eq!(shown.procedures[0].command, "sync member1");
    farm.manager().command(&["status"]).success().says(&["1 drained", "p1 has stopped", "p1 · stopped · sync member1"]);
    let metrics = get(&farm.manager().http, "/metrics").expect("an answer").whole;
    for line in ["bellwether_procedures{state=\"stopped\"} 1", "bellwether_server_drained{server=\"member1\"} 1"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(get(&farm.manager().http, "/status").expect("an answer").whole.contains("\"stopped\""));
    farm.manager().command(&["wait", "--serving", "--servers", "member1"]).exits(5).says(&["member1"]);
    // Another plan for the server names the one command that ends this one, and disturbs no other server.
    let other = farm.manager().command(&["maintenance", "start", "member1", "--yes"]).refused();
    other.says(&["p1 (sync member1) has stopped", "procedure abort p1"]);
    farm.manager().command(&["maintenance", "start", "member2", "--dry-run"]).success();

    // The cause is removed.
    farm.server_mut(1).stop();
    farm.server_mut(1).start();
    farm.wait_server(farm.server(1), "in error until it is synced", |s| s.state == State::Error);
    farm.manager().command(&["sync", "member1", "--dry-run"]).success().says(&["has stopped, as p1", "would go on"]);
    farm.manager().command(&["sync"]).success().says(&["p1 5/5 undrain member1", "in sync at"]);
    assert!(is_done(&procedure(farm.manager(), "p1")));
    farm.wait_equal();
    assert_in_service(&farm, &site, 1);
    farm.manager().command(&["wait", "--serving"]).success();
    client.stop().flawless();
}

#[test]
fn w21_who_an_aborted_procedure_leaves_drained_is_shown_and_waited_for() {
    let (farm, site) = site(1, "60s");
    let slow = wait_for("a session on member1", DEADLINE, || {
        let slow = site.slow_session();
        if slow.server == "member1" { Ok(slow) } else { Err(slow.server.clone()) }
    });
    let late = farm.manager().command(&["maintenance", "start", "member1", "--yes", "--timeout", "2s"]).exits(4);
    late.says(&["it goes on by itself at step", "at the latest, then it", "procedure abort p1"]);
    wait_procedure(farm.manager(), "p1", "waiting for the session", |shown| shown["procedure"]["at"] == 1);
    farm.wait_status("a procedure that waits", |status| {
        status.procedures.iter().any(|p| p.state == ProcedureState::Waiting && p.what.contains("session"))
    });
    farm.manager().command(&["status"]).success().says(&["p1 waits", "1 drained"]);
    // A finish is another plan: the refusal says how to end the present one, and that command helps.
    let refused = farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).refused();
    refused.says(&["bellwether procedure abort p1"]);
    farm.manager().command(&["procedure", "abort", "p1", "--yes"]).success();
    let status = farm.wait_status("nothing under way", |status| status.procedures.is_empty());
    assert!(one(&status, "member1").is_some_and(|server| server.drained && server.state == State::InSync));
    let said = farm.manager().command(&["status"]).success();
    said.says(&["2 in sync · 1 drained", "member1 · drained", "maintenance finish member1"]);
    farm.manager().command(&["wait"]).success().says(&["in sync at", "drained: member1"]);
    let waited = farm.manager().command(&["wait", "--serving"]).exits(5);
    waited.says(&["member1: drained", "maintenance finish member1"]);
    drop(slow);
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    farm.manager().command(&["wait", "--serving"]).success();
    assert_in_service(&farm, &site, 1);
}

#[test]
fn w18_nobody_is_drained_for_a_successor_that_is_frozen() {
    let (mut farm, site) = site(2, "20s");
    let client = site.client();
    farm.server(1).signal(Signal::STOP);
    let begin = ["maintenance", "start", "manager", "--promote", "member1", "--yes"];
    let refused = farm.manager().command(&begin).refused();
    refused.says(&["member1 cannot become manager", "answer", "server list"]);
    farm.manager().command(&["procedure", "list"]).success().says(&["no procedures"]);
    let plain = farm.manager().command(&["promote", "member1", "--timeout", "60s"]);
    assert_ne!(plain.code, Some(0), "{plain}");
    assert_in_service(&farm, &site, 0);
    farm.server(1).signal(Signal::CONT);
    farm.wait_in_sync();
    assert_eq!(farm.status().manager.as_str(), "manager", "nothing happens by itself when it wakes");
    farm.manager().command(&begin).success();
    farm.led_by(1);
    farm.wait_leads(1);
    client.stop().flawless();
}

#[test]
fn w12_a_bulk_import_by_increments_in_order_drains_nobody() {
    let (farm, site) = site(2, "20s");
    let client = site.client();
    farm.manager().command(&["pause"]).success();
    for file in 0..3 {
        let before = farm.status().head;
        farm.manager().write(&format!("imported/{file}.html"), format!("<p>{file}</p>"));
        farm.wait_status("a revision", |status| status.head > before && status.unpublished.is_none());
    }
    farm.manager().command(&["sync"]).success().says(&["in sync at", "member1, member2"]);
    farm.manager().command(&["procedure", "list"]).success().says(&["no procedures"]);
    farm.wait_equal();
    farm.assert_equal();
    for index in 0..=2 {
        assert_in_service(&farm, &site, index);
    }
    client.stop().flawless();
}

#[test]
fn w24_w26_a_recovery_says_what_is_lost_and_a_finish_where_the_old_managers_changes_are() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "one"));
    farm.manager().command(&["group", "set", "--drain-timeout", "1s"]).success();
    farm.manager().command(&["pause"]).success();
    farm.wait_status("paused", |status| status.paused);
    farm.manager().write("index.html", "never sent");
    let head = farm.wait_status("the unsent revision", |s| s.head.is_some_and(|h| h.sequence > 1));
    let unsent = head.head.expect("a head").to_string();
    wait_for("member1 hearing of it", DEADLINE, || {
        let status = farm.server(1).status()?;
        if status.head == head.head { Ok(()) } else { Err(format!("{:?}", status.head)) }
    });
    farm.server_mut(0).kill();
    let said = farm.server(1).command(&["recover", "manager", "--attest", "its power is off", "--yes"]).success();
    // The losses are reported before the recovery begins, and again when it is done.
    assert!(said.stderr.contains("lost, unless it is taken back") && said.stderr.contains(&unsent), "{said}");
    assert!(said.stdout.contains("lost, unless it is taken back") && said.stdout.contains(&unsent), "{said}");
    said.says(&["propagation is paused", "bellwether resume", "maintenance finish manager"]);
    farm.led_by(1);
    farm.wait_leads(1);
    // The same command, given again, finds the same procedure.
    farm.manager().command(&["recover", "manager", "--yes"]).success().says(&["p1 is done"]);
    farm.server_mut(0).start();
    let said = farm.manager().command(&["maintenance", "finish", "manager", "--yes"]).success();
    said.says(&["changes that only manager had are kept there", "drift show manager", "serves again"]);
    farm.manager().command(&["drift", "show", "manager"]).success().says(&["index.html"]);
    // The manager of a later epoch is named, in case this server is superseded again.
    farm.manager().command(&["resume"]).success();
    farm.wait_equal();
}

#[test]
fn w22_w25_a_dissolved_manager_needs_a_token_and_the_finish_that_waits_says_so() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "one"));
    farm.manager().command(&["group", "set", "--drain-timeout", "1s"]).success();
    farm.wait_in_sync();
    // This is the advice of the question, at the lost manager.
    let asked = farm.server(1).command(&["recover", "manager", "--force", "--yes"]).exits(5);
    asked.says(&["bellwether leave --force", "procedure resume p1 --attest"]);
    farm.server(0).command(&["leave", "--yes"]).refused().says(&["--force"]);
    farm.server(0).command(&["leave", "--force", "--yes"]).success();
    farm.server_mut(0).kill();
    farm.server(1).command(&["procedure", "resume", "p1", "--attest", "dissolved there"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    let late = farm.manager().command(&["maintenance", "finish", "manager", "--yes", "--timeout", "5s"]).exits(4);
    late.says(&["procedure show p2"]);
    wait_procedure(farm.manager(), "p2", "saying how it comes back", |shown| {
        let doing = shown["doing"].as_str().unwrap_or_default();
        doing.contains("token create --names manager") && doing.contains("bellwether join")
    });
    let token = farm.token(&["--names", "manager"]);
    farm.server(0).join(&token).success();
    farm.server_mut(0).start();
    wait_procedure(farm.manager(), "p2", "done", is_done);
    farm.wait_equal();
}

#[test]
fn w16_a_server_that_was_removed_says_so_itself() {
    let farm = Farm::plan().members(2).start();
    farm.manager().command(&["server", "remove", "member2", "--yes"]).success();
    wait_for("member2 knowing it", DEADLINE, || match ready(farm.server(2))? {
        (503, answer) if answer.contains("removed") => Ok(()),
        (_, answer) => Err(answer),
    });
    let said = farm.server(2).command(&["status"]).success();
    said.says(&["member2 is no server of the group any more", "bellwether server add member2", "bellwether leave"]);
    farm.manager().command(&["server", "add", "member2"]).success();
    farm.wait_equal();
    let said = farm.server(2).command(&["status"]).success();
    assert!(!said.stdout.contains("any more"), "{said}");
}
