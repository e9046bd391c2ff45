//! W11 and W12 while the manager is away: a server that has started does not serve a revision without a confirmation, and no
//! suspended manager is asked.

use rustix::process::Signal;

use crate::farm::{DEADLINE, Farm, get, wait_for};

/// Waits until `/ready` of that member says so.
fn wait_ready(farm: &Farm, index: usize, what: &str, says: impl Fn(&str) -> bool) {
    wait_for(what, DEADLINE, || {
        let answer = get(&farm.member(index).http, "/ready")?.whole;
        if says(&answer) { Ok(()) } else { Err(answer) }
    });
}

fn ready_after(farm: &Farm, time: &str) {
    farm.manager().command(&["group", "set", "--ready-after", time]).success();
    farm.wait_equal();
}

/// Not ready, because there is no confirmation.
fn unconfirmed(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 503") && answer.contains("confirmed since this start")
}

fn fresh(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200") && !answer.contains("stale")
}

#[test]
fn w12_a_server_that_was_off_is_ready_only_when_its_revision_is_confirmed() {
    let mut farm = Farm::plan().members(2).start();
    ready_after(&farm, "1h");
    farm.server_mut(1).kill();
    farm.manager().write("a.conf", "while member1 is off");
    wait_for("the edit at member2", DEADLINE, || {
        std::fs::read(farm.member(2).web("a.conf")).map(drop).map_err(|e| e.to_string())
    });
    farm.server_mut(0).kill();
    farm.server_mut(1).start();
    wait_ready(&farm, 1, "member1 not ready: a candidate has heard of a newer revision", unconfirmed);
    let seen = farm.member(1).command(&["status"]);
    seen.says(&["member1"]);
    farm.server_mut(0).start();
    wait_ready(&farm, 1, "member1 ready with the head", fresh);
    assert_eq!(std::fs::read(farm.member(1).web("a.conf")).expect("synced"), b"while member1 is off");
}

#[test]
fn w12_a_candidate_confirms_the_head_while_the_manager_is_away() {
    let mut farm = Farm::plan().members(2).start();
    ready_after(&farm, "1h");
    farm.server_mut(1).kill();
    farm.server_mut(0).kill();
    farm.server_mut(1).start();
    wait_ready(&farm, 1, "member1 confirmed by member2", fresh);
}

#[test]
fn w12_a_restart_of_the_agent_takes_no_server_out_of_rotation() {
    let mut farm = Farm::plan().members(1).start();
    ready_after(&farm, "1h");
    wait_ready(&farm, 1, "member1 ready", fresh);
    farm.server_mut(0).kill();
    farm.server_mut(1).stop();
    farm.server_mut(1).start();
    wait_ready(&farm, 1, "member1 ready as before its restart", fresh);
    farm.server_mut(1).kill();
    farm.server_mut(1).start();
    wait_ready(&farm, 1, "member1 without a confirmation after a crash", unconfirmed);
}

#[test]
fn w12_after_the_groups_bound_a_server_is_ready_and_marked_stale() {
    let mut farm = Farm::plan().members(1).start();
    ready_after(&farm, "2s");
    farm.server_mut(1).kill();
    farm.server_mut(0).kill();
    farm.server_mut(1).start();
    wait_ready(&farm, 1, "member1 ready, and stale", |answer| {
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"stale\":true")
    });
    farm.server_mut(0).start();
    wait_ready(&farm, 1, "member1 ready as ever", fresh);
    // After the confirmation, a server is ready without its manager, as long as it runs.
    farm.server_mut(0).kill();
    assert!(fresh(&get(&farm.member(1).http, "/ready").expect("an answer").whole));
}

#[test]
fn w11_what_is_asked_while_the_manager_is_suspended_is_refused_and_never_done() {
    let farm = Farm::plan().members(1).start();
    let put = |path: &str| farm.member(1).command_with_input(&["put", path, "-"], "content");
    put("web:before.conf").success();
    farm.manager().signal(Signal::STOP);
    put("web:lost.conf").refused().says(&["does not answer", "manager"]);
    put("web:lost.conf").refused().says(&["does not answer"]);
    farm.manager().signal(Signal::CONT);
    wait_for("the manager taking changes again", DEADLINE, || {
        let answer = put("web:after.conf");
        if answer.code == Some(0) { Ok(()) } else { Err(answer.to_string()) }
    });
    farm.wait_equal();
    assert!(!farm.manager().web("lost.conf").exists(), "what was refused is done after all");
}
