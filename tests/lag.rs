//! W7: a member that does not answer is shown with its lag and delays no other member; a dead one catches up.

use rustix::process::Signal;

use crate::farm::{Farm, Output};

#[test]
fn w7_a_stopped_member_delays_nobody_and_catches_up() {
    let farm = Farm::plan().members(3).start();
    let stopped = farm.member(1);
    stopped.signal(Signal::STOP);
    for round in 0..3 {
        farm.manager().write("a.conf", format!("round {round}"));
        farm.wait_same(farm.member(2));
        farm.wait_same(farm.member(3));
    }
    let shown = farm.wait_server(stopped, "its lag", |s| s.lag_revisions >= 3 && s.lag_ms > 0);
    assert!(shown.revision < farm.status().head, "{shown:?}");
    stopped.signal(Signal::CONT);
    let status = farm.wait_equal();
    assert!(status.servers.iter().all(|s| s.lag_revisions == 0 && s.lag_ms == 0));
    farm.assert_equal();
}

#[test]
fn w7_wait_ends_with_its_timeout_while_a_member_is_away() {
    let farm = Farm::plan().members(1).start();
    farm.manager().command(&["wait", "--timeout", "180s"]).success();
    farm.member(1).signal(Signal::STOP);
    farm.manager().command_with_input(&["put", "web:a.conf"], "new").success();
    let wait = |timeout| -> Output { farm.manager().command(&["wait", "--timeout", timeout]) };
    wait("500ms").exits(4).says(&["member1"]);
    farm.member(1).signal(Signal::CONT);
    wait("180s").success();
    farm.assert_equal();
}

#[test]
fn w7_a_killed_member_catches_up_when_it_is_started_again() {
    let mut farm = Farm::plan().members(2).start();
    farm.server_mut(1).kill();
    for round in 0..4 {
        farm.manager().write(&format!("{round}.conf"), "while it was away");
        farm.wait_same(farm.member(2));
    }
    farm.server_mut(1).start();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w7_a_killed_manager_goes_on_with_what_was_edited_meanwhile() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "before"));
    let head = farm.wait_equal().head;
    farm.server_mut(0).kill();
    farm.manager().write("a.conf", "while the manager's agent was dead");
    farm.server_mut(0).start();
    let status = farm.wait_equal();
    assert!(status.head > head, "{:?} then {:?}", head, status.head);
    farm.assert_equal();
}

#[test]
fn w11_with_the_manager_away_a_change_is_refused_and_reading_goes_on() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "readable"));
    farm.wait_equal();
    farm.server_mut(0).kill();
    let member = farm.member(1);
    let asked = member.command_with_input(&["put", "web:a.conf", "--timeout", "20s"], "no");
    assert!(matches!(asked.code, Some(1 | 3 | 4)), "{asked}");
    asked.says(&["manager"]);
    member.status().expect("the member knows its own status");
    member.command(&["tree"]).success().says(&["a.conf"]);
}
