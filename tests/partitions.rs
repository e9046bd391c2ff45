//! W24, W26 on networks that fall apart: a server that was cut off is fenced when the network is whole again. Changes of both
//! sides are in force or kept, and all servers come together. Each server is a real agent in its own network namespace.
//! Without root these tests report that they were skipped.

use std::{fs, sync::Arc};

use bellwether_proto::status::{FarmStatus, State};

use crate::farm::{DEADLINE, Farm, Network, Server, compare::find_below, one, summary, wait_for};

/// A farm of five servers on their own networks: the manager, member1 to member4.
fn farm() -> Option<(Farm, Arc<Network>)> {
    let network = Arc::new(Network::new(5)?);
    let farm = Farm::plan().members(4).on(&network).start_with(|manager| manager.write("index.html", "one"));
    Some((farm, network))
}

/// Takes the role, as soon as no server says any more that the manager is there.
fn take_over(server: &Server) {
    wait_for(&format!("{} taking over", server.name), DEADLINE, || {
        let output = server.command(&["promote", "--self", "--yes"]);
        if output.code == Some(0) { Ok(()) } else { Err(output.to_string()) }
    });
}

fn wait_at(observer: &Server, what: &str, fits: impl Fn(&FarmStatus) -> bool) {
    wait_for(&format!("{what}, as {} sees it", observer.name), DEADLINE, || {
        let status = observer.status()?;
        if fits(&status) { Ok(()) } else { Err(summary(&status)) }
    });
}

/// Publishes a change at a manager.
fn change(manager: &Server, file: &str, text: &str) {
    let head = |status: &FarmStatus| status.head.map_or(0, |head| head.sequence);
    let before = head(&manager.status().expect("its status"));
    manager.write(file, text);
    wait_at(manager, &format!("{file} published"), |now| head(now) > before && now.unpublished.is_none());
}

/// Waits until that server has that file with that content.
fn wait_content(server: &Server, file: &str, text: &str) {
    wait_for(&format!("{file} at {}", server.name), DEADLINE, || {
        let found = fs::read_to_string(server.web(file)).map_err(|e| e.to_string())?;
        if found == text { Ok(()) } else { Err(found) }
    });
}

fn assert_kept(server: &Server, file: &str, text: &str) {
    let path = find_below(&server.state().join("recovery"), file);
    let path = path.unwrap_or_else(|| panic!("{} keeps no {file}", server.name));
    assert_eq!(fs::read_to_string(path).expect("what is kept"), text, "{file} at {}", server.name);
}

/// Waits until all five hold the revision of the test's manager, after it has taken the old manager back.
fn come_together(farm: &Farm, old: &Server) {
    let leads = farm.manager().name.clone();
    wait_at(old, "the new manager", |status| status.manager.as_str() == leads);
    farm.manager().command(&["server", "add", &old.name]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w26_a_manager_that_is_cut_off_is_fenced_and_what_it_took_is_kept() {
    let Some((mut farm, network)) = farm() else { return };
    network.split(&[&[1, 2, 3, 4], &[0]]);
    change(farm.server(0), "unsent.conf", "taken where nobody could see it");
    take_over(farm.server(1));
    farm.led_by(1);
    farm.wait_leads(1);
    change(farm.server(1), "index.html", "two");
    for index in 2..=4 {
        wait_content(farm.server(index), "index.html", "two");
    }
    // The old manager has not heard of the new one, and goes on.
    change(farm.server(0), "index.html", "by the old one");
    network.heal();

    wait_at(farm.server(0), "another manager", |status| status.manager.as_str() == "member1");
    farm.server(0).command(&["pause"]).refused().says(&["member1"]);
    farm.wait_server(farm.server(0), "superseded", |server| server.state == State::Superseded);
    assert_eq!(fs::read_to_string(farm.server(0).web("index.html")).expect("untouched"), "by the old one");
    come_together(&farm, farm.server(0));
    assert_kept(farm.server(0), "unsent.conf", "taken where nobody could see it");
    assert_kept(farm.server(0), "index.html", "by the old one");
}

#[test]
fn w26_half_of_the_farm_is_cut_off_with_its_manager_and_comes_back() {
    let Some((mut farm, network)) = farm() else { return };
    network.split(&[&[0, 3, 4], &[1, 2]]);
    change(farm.server(0), "here.conf", "on this side");
    wait_content(farm.server(3), "here.conf", "on this side");
    wait_content(farm.server(4), "here.conf", "on this side");
    take_over(farm.server(1));
    farm.led_by(1);
    farm.wait_leads(1);
    change(farm.server(1), "there.conf", "on the other side");
    wait_content(farm.server(2), "there.conf", "on the other side");
    assert!(!farm.server(3).web("there.conf").exists(), "the network is split");
    network.heal();

    come_together(&farm, farm.server(0));
    for index in [0, 3, 4] {
        wait_content(farm.server(index), "there.conf", "on the other side");
        assert_kept(farm.server(index), "here.conf", "on this side");
        let shown = farm.status_of(farm.server(index));
        assert!(shown.kept.iter().any(|kept| kept.contains("instead-of-1.")), "named: {:?}", shown.kept);
    }
}

#[test]
fn w26_two_sides_promote_at_once_and_the_conflict_is_shown_until_one_is_chosen() {
    let Some((mut farm, network)) = farm() else { return };
    network.split(&[&[1, 2], &[3, 4], &[0]]);
    take_over(farm.server(1));
    take_over(farm.server(3));
    change(farm.server(1), "chosen.conf", "by member1");
    change(farm.server(3), "other.conf", "by member3");
    wait_content(farm.server(2), "chosen.conf", "by member1");
    wait_content(farm.server(4), "other.conf", "by member3");
    network.heal();

    for (observer, other) in [(1, "member3"), (3, "member1")] {
        wait_at(farm.server(observer), &format!("the conflict with {other}"), |status| {
            one(status, other).is_some_and(|server| server.state == State::Conflict)
        });
    }
    farm.server(1).command(&["promote", "--self", "--force", "--yes"]).success();
    farm.led_by(1);
    wait_at(farm.server(3), "the one that was chosen", |status| status.manager.as_str() == "member1");
    come_together(&farm, farm.server(0));
    assert_kept(farm.server(3), "other.conf", "by member3");
    assert_kept(farm.server(4), "other.conf", "by member3");
}

#[test]
fn w26_a_manager_that_removed_its_successor_while_it_was_cut_off_shows_that_there_are_two() {
    let Some((mut farm, network)) = farm() else { return };
    network.split(&[&[1, 2, 3, 4], &[0]]);
    farm.server(0).command(&["server", "remove", "member1", "--yes"]).success();
    change(farm.server(0), "unsent.conf", "taken where nobody could see it");
    take_over(farm.server(1));
    farm.led_by(1);
    farm.wait_leads(1);
    network.heal();

    // By the old manager's record, member1 may not lead, so the old manager does not follow, and says so.
    wait_at(farm.server(0), "two managers", |status| {
        one(status, "manager").is_some_and(|own| {
            own.state == State::Conflict && own.reason.as_ref().is_some_and(|why| why.contains("member1 leads by"))
        })
    });
    farm.manager().write("index.html", "two");
    for index in 2..=4 {
        wait_content(farm.server(index), "index.html", "two");
    }
}
