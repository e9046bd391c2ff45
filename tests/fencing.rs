//! W26: an epoch has one manager. A superseded server, or one of two managers, is refused, told what to do, and loses nothing.

use std::fs;

use bellwether_proto::status::{FarmStatus, ServerStatus, State};
use rustix::process::Signal;

use crate::farm::{DEADLINE, Farm, Server, compare::find_below, one, summary, wait_for};

fn farm(members: usize) -> Farm {
    Farm::plan().members(members).start_with(|manager| manager.write("index.html", "one"))
}

fn take_over(server: &Server) {
    server.command(&["promote", "--self", "--yes"]).success();
}

/// Waits until `observer` shows `server` in a state that `fits`.
fn wait_shown(observer: &Server, server: &str, what: &str, fits: impl Fn(&ServerStatus) -> bool) -> ServerStatus {
    let status = wait_at(observer, &format!("{server}: {what}"), |status| one(status, server).is_some_and(&fits));
    one(&status, server).cloned().expect("it was just there")
}

fn wait_at(observer: &Server, what: &str, fits: impl Fn(&FarmStatus) -> bool) -> FarmStatus {
    wait_for(&format!("{what}, as {} sees it", observer.name), DEADLINE, || {
        let status = observer.status()?;
        if fits(&status) { Ok(status) } else { Err(summary(&status)) }
    })
}

fn kept(server: &Server, file: &str) -> Option<String> {
    let path = find_below(&server.state().join("recovery"), file)?;
    fs::read_to_string(path).ok()
}

#[test]
fn w26_an_old_manager_that_returns_is_fenced_and_its_unsent_changes_are_kept() {
    let mut farm = farm(2);
    farm.manager().command(&["pause"]).success();
    wait_at(farm.server(1), "paused", |status| status.paused);
    wait_at(farm.server(2), "paused", |status| status.paused);
    farm.manager().write("unsent.conf", "never sent");
    farm.manager().write("index.html", "changed, and never sent");
    farm.wait_status("the unsent revision", |s| s.head.is_some_and(|h| h.sequence > 1) && s.unpublished.is_none());
    farm.server_mut(0).kill();
    farm.server(0).write("edited-while-down.conf", "an edit that nobody saw");

    take_over(farm.server(1));
    farm.led_by(1);
    farm.wait_leads(1);
    farm.manager().command(&["resume"]).success();
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.server(2));

    farm.server_mut(0).start();
    let shown = farm.wait_server(farm.server(0), "superseded", |server| server.state == State::Superseded);
    let reason = shown.reason.expect("why, and what to do");
    assert!(
        reason.contains("is not part of this group") && reason.contains("bellwether server enable manager"),
        "{reason}"
    );
    let own = wait_shown(farm.server(0), "manager", "superseded", |server| server.state == State::Superseded);
    assert!(own.reason.is_some_and(|why| why.contains("member1 is the manager of epoch 3")));
    farm.server(0).command(&["pause"]).refused().says(&["member1"]);
    assert_eq!(fs::read_to_string(farm.server(0).web("unsent.conf")).expect("untouched"), "never sent");

    farm.manager().command(&["server", "add", "manager"]).success();
    farm.wait_equal();
    farm.assert_equal();
    let old = farm.server(0);
    assert_eq!(kept(old, "unsent.conf").as_deref(), Some("never sent"));
    assert_eq!(kept(old, "index.html").as_deref(), Some("changed, and never sent"));
    assert_eq!(kept(old, "edited-while-down.conf").as_deref(), Some("an edit that nobody saw"));
    assert!(farm.status_of(old).kept.iter().any(|kept| kept.contains("instead-of-1.")), "named");
}

#[test]
fn w26_a_manager_that_was_only_stopped_learns_of_the_other_one_and_follows() {
    let mut farm = farm(2);
    farm.server(0).signal(Signal::STOP);
    // The streams are still open: the candidate asks now whether the manager answers.
    farm.server(1).command(&["promote", "--self", "--yes"]).success();
    farm.server(0).signal(Signal::CONT);
    wait_at(farm.server(0), "the new manager", |status| status.manager.as_str() == "member1");
    farm.led_by(1);
    farm.manager().command(&["server", "add", "manager"]).success();
    farm.manager().write("index.html", "two");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w26_two_candidates_promoted_at_once_are_shown_and_resolved_by_force() {
    let mut farm = farm(2);
    farm.server_mut(0).kill();
    // Neither hears the other during its takeover, nor finds a message from it later.
    farm.server_mut(2).kill();
    take_over(farm.server(1));
    farm.server(1).write("first.conf", "by the first");
    wait_at(farm.server(1), "its change published", |s| {
        s.head.is_some_and(|h| h.sequence > 2) && s.unpublished.is_none()
    });
    farm.server_mut(1).kill();
    farm.server_mut(2).start();
    take_over(farm.server(2));
    farm.server(2).write("second.conf", "by the second");
    wait_at(farm.server(2), "its change published", |s| {
        s.head.is_some_and(|h| h.sequence > 2) && s.unpublished.is_none()
    });
    farm.server_mut(1).start();

    for (observer, other) in [(1, "member2"), (2, "member1")] {
        let shown = wait_shown(farm.server(observer), other, "conflict", |server| server.state == State::Conflict);
        assert!(shown.reason.is_some_and(|why| why.contains("promote --self --force")));
    }
    farm.server(1).command(&["promote", "--self", "--force", "--yes"]).success().says(&["member1 is the manager"]);
    farm.led_by(1);
    farm.wait_same(farm.server(2));
    let other = farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
    assert!(other.revision.is_some_and(|at| at.epoch.0 == 5), "{other:?}");
    assert_eq!(kept(farm.server(2), "second.conf").as_deref(), Some("by the second"));
    assert_eq!(fs::read_to_string(farm.server(2).web("first.conf")).expect("there"), "by the first");
}

#[test]
fn w26_a_member_that_was_away_over_two_epochs_comes_up() {
    let mut farm = farm(2);
    farm.server_mut(2).kill();
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_server(farm.server(0), "in sync", |server| server.state == State::InSync);
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.server(0));
    farm.server_mut(1).kill();
    take_over(farm.server(0));
    farm.led_by(0);
    farm.manager().write("index.html", "three");
    farm.server_mut(2).start();
    farm.wait_same(farm.server(2));
    let status = farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
    assert_eq!(status.revision.map(|at| at.epoch.0), Some(4));
    // Its revision was in every history, so nothing is lost, and nothing is kept.
    assert!(status.kept.is_empty(), "{:?}", status.kept);
}

#[test]
fn w26_a_member_that_was_away_takes_a_manager_that_it_has_never_met() {
    let mut farm = Farm::plan().members(3).unformed();
    farm.manager().write("index.html", "one");
    farm.form();
    farm.admit(1);
    farm.admit(2);
    farm.wait_in_sync();
    farm.server_mut(2).kill();
    farm.admit(3);
    farm.wait_server(farm.server(3), "in sync", |server| server.state == State::InSync);
    farm.server_mut(0).kill();
    take_over(farm.server(3));
    farm.led_by(3);
    farm.manager().write("index.html", "by one that came later");
    farm.server_mut(2).start();
    farm.wait_same(farm.server(2));
    farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
}

#[test]
fn w26_a_server_that_nobody_dials_asks_others_for_the_record() {
    let mut farm = farm(2);
    farm.manager().command(&["promote", "member1", "--disable-old"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
    farm.manager().command(&["promote", "member2"]).success();
    // The first manager is disabled and handed the role over to another server, so no server tells it.
    wait_at(farm.server(0), "the third manager", |status| status.manager.as_str() == "member2");
}
