//! W18–W20: the manager hands the role over in one step while everything is served. An interrupted handover is completed or
//! undone.

use bellwether_manager::failpoints::HANDOVER;
use bellwether_proto::{
    record::Role,
    status::{FarmStatus, State},
};

use crate::farm::{Balancer, DEADLINE, Farm, compare, one, wait_for};

fn epoch(status: &FarmStatus) -> u64 {
    status.head.map_or(0, |head| head.epoch.0)
}

fn role(status: &FarmStatus, server: &str) -> Option<Role> {
    one(status, server).map(|server| server.role)
}

#[test]
fn w18_the_role_is_handed_over_while_all_are_served() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "one"));
    farm.wait_equal();
    let balancer = Balancer::begin([farm.server(0), farm.server(1), farm.server(2)]);
    farm.manager().write("index.html", "edited just before");
    let said = farm.manager().command(&["promote", "member1"]).success();
    assert!(said.stdout.contains("member1 is the manager (group record 2.1)"), "{said}");

    farm.led_by(1);
    let status = farm.wait_equal();
    assert_eq!((status.manager.as_str(), epoch(&status)), ("member1", 2));
    assert_eq!((role(&status, "manager"), role(&status, "member1")), (Some(Role::Member), Some(Role::Manager)));
    assert_eq!(std::fs::read_to_string(farm.server(2).web("index.html")).expect("there"), "edited just before");

    farm.manager().write("conf.d/new.conf", "by the new manager");
    farm.wait_equal();
    farm.server(0).command_with_input(&["put", "web:asked.conf"], "through the old one").success();
    farm.wait_equal();
    farm.assert_equal();
    balancer.assert_always_ready();
}

#[test]
fn w3_w18_what_is_edited_on_the_old_manager_is_drift_from_then_on() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "one"));
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_equal();
    farm.server(0).write("index.html", "as I was used to");
    farm.wait_server(farm.server(0), "drifted", |server| server.state == State::Drifted);
    assert_eq!(std::fs::read_to_string(farm.manager().web("index.html")).expect("there"), "one");
    farm.manager().command(&["sync", "manager"]).success();
    farm.wait_equal();
}

#[test]
fn w18_the_old_manager_leaves_as_it_is_told() {
    for (flag, expected) in [("--disable-old", Some(Role::Disabled)), ("--remove-old", None)] {
        let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "one"));
        // The disabled server itself says that it is out of service, so it is not checked here.
        let balancer = Balancer::begin([farm.server(1), farm.server(2)]);
        farm.manager().command(&["promote", "member1", flag]).success().says(&["server"]);
        farm.led_by(1);
        farm.wait_leads(1);
        let status = farm.wait_server(farm.server(2), "in sync", |server| server.state == State::InSync);
        assert_eq!(status.role, Role::Member);
        assert_eq!(role(&farm.status(), "manager"), expected, "{flag}");
        balancer.assert_always_ready();

        farm.manager().write("index.html", "two");
        farm.wait_same(farm.server(2));
        assert_eq!(std::fs::read_to_string(farm.server(0).web("index.html")).expect("there"), "one", "{flag}");
        // W19: the new manager takes the old one back.
        farm.manager().command(&["server", "add", "manager"]).success();
        farm.wait_equal();
        farm.assert_equal();
    }
}

#[test]
fn w20_the_role_goes_back_only_at_the_current_manager() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "one"));
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_equal();
    farm.server(0).command(&["promote", "manager"]).refused().says(&["run the command at the manager, member1"]);
    farm.server(1).command(&["promote", "manager"]).success();
    farm.led_by(0);
    let status = farm.wait_equal();
    assert_eq!((status.manager.as_str(), epoch(&status)), ("manager", 3));
    farm.manager().command(&["promote", "manager"]).success().says(&["already"]);
    farm.manager().write("index.html", "two");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w18_a_handover_that_would_leave_something_behind_is_refused() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "one"));
    farm.manager().command(&["promote", "nobody"]).refused().says(&["no server nobody"]);
    farm.server_mut(2).write("index.html", "an edit of its own");
    farm.wait_server(farm.member(2), "drifted", |server| server.state == State::Drifted);
    farm.manager().command(&["promote", "member2"]).refused().says(&["edited there", "still the manager"]);

    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    farm.manager().write("index.html", "not published");
    farm.manager().command(&["promote", "member1"]).refused().says(&["not published", "bellwether publish"]);
    farm.manager().command(&["promote", "member1", "--dry-run"]).success().says(&["would", "one signed record"]);
    assert_eq!(epoch(&farm.status()), 1);
    farm.manager().command(&["publish"]).success();
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    farm.wait_same(farm.server(0));
}

/// Before the record is durable the old manager leads; from then on it only completes the handover.
#[test]
fn w18_invariant_2_a_handover_that_was_killed_is_not_done_or_completed() {
    for point in HANDOVER {
        let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "one"));
        farm.server_mut(0).kill();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_in_sync();
        farm.manager().command(&["promote", "member1"]).exits(1);
        let old = farm.server_mut(0);
        wait_for(&format!("death at {point}"), DEADLINE, || old.ended().ok_or("it runs".to_owned()));
        old.kill();
        let durable = *point == "handover.saved";
        old.start();
        if durable {
            farm.led_by(1);
            farm.wait_leads(1);
        }
        let status = farm.wait_equal();
        assert_eq!(status.manager.as_str(), if durable { "member1" } else { "manager" }, "killed at {point}");
        farm.manager().write("index.html", "two");
        farm.wait_equal();
        compare::assert_equal_by_rsync(farm.server(0).set("web"), farm.server(2).set("web"));
    }
}
