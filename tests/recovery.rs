//! W22–W25, W27: a serving machine is lost while clients send requests, behind a real HAProxy with an nginx on each server.
//! The questions to a person are asked, and the answers are recorded.

use bellwether_proto::{record::Role, status::State};
use serde_json::Value;

use crate::{
    balancers::{Client, Site},
    farm::{DEADLINE, Farm, compare, one, wait_for},
    maintenance::{assert_in_service, is_done, procedure, ready, role, site, wait_in_service, wait_procedure},
};

/// Cuts the machine's power: all of its processes end at once. Requests in progress there fail; no request fails after HAProxy
/// has noticed it.
pub(crate) fn lose(farm: &mut Farm, site: &mut Site, index: usize, client: &Client) -> usize {
    let name = farm.server(index).name.clone();
    client.wait_from(&name);
    farm.server_mut(index).kill();
    site.nginx(&name).kill();
    wait_for(&format!("HAProxy giving {name} up"), DEADLINE, || match site.haproxy.status(&name) {
        status if status.starts_with("UP") => Err(status),
        _ => Ok(()),
    });
    let failed = client.so_far().failures;
    assert!(failed.len() <= 4, "one for each connection at the most: {failed:?}");
    failed.len()
}

fn asks(shown: &Value, word: &str) -> bool {
    shown["doing"].as_str().is_some_and(|doing| doing.contains(word))
}

#[test]
fn w27_a_member_is_lost_and_comes_back_repaired() {
    let (mut farm, mut site) = site(2, "1h");
    let client = site.client();
    let failed = lose(&mut farm, &mut site, 1, &client);

    let said = farm.manager().command(&["recover", "member", "member1", "--yes"]).exits(5);
    said.says(&["drain member1", "is member1 off the network", "procedure resume p1 --attest"]);
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Member), "nobody has answered yet");
    farm.manager().command(&["procedure", "resume", "p1"]).refused().says(&["--attest"]);
    let said = farm.manager().command(&["procedure", "resume", "p1", "--attest", "its plug is pulled"]).exits(5);
    said.says(&["disable member1", "is member1 repaired"]);
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Disabled));
    farm.manager().write("index.html", "<p>written meanwhile</p>");
    farm.wait_same(farm.server(2));

    // The question is still asked after the engine was killed.
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    wait_procedure(farm.manager(), "p1", "asking", |shown| asks(shown, "repaired"));
    site.nginx("member1").revive();
    farm.server_mut(1).start();
    // member1 learns from the others that it is disabled.
    wait_for("member1 saying that it is not back yet", DEADLINE, || match ready(farm.server(1))? {
        (503, answer) if answer.contains("disabled") => Ok(()),
        (_, answer) => Err(answer),
    });
    let before = client.so_far().of("member1");
    let said = farm.manager().command(&["procedure", "resume", "p1", "--attest", "a new disk"]).success();
    said.says(&["sync member1", "undrain member1", "serves again"]);
    assert_in_service(&farm, &site, 1);
    farm.wait_equal();
    farm.assert_equal();
    client.wait_from("member1");
    assert!(client.so_far().of("member1") > before);
    farm.manager().command(&["procedure", "show", "p1"]).success().says(&["its plug is pulled", "a new disk"]);
    assert_eq!(client.stop().failures.len(), failed, "only what was in flight on the machine that was lost");
}

#[test]
fn w27_w22_an_attestation_that_is_given_at_once_is_recorded() {
    let (mut farm, mut site) = site(2, "1h");
    let client = site.client();
    let failed = lose(&mut farm, &mut site, 2, &client);
    let recover = ["recover", "member", "member2", "--remove", "--attest", "it burnt down", "--yes"];
    farm.manager().command(&recover).exits(5).says(&["remove member2", "is member2 repaired"]);
    let shown = procedure(farm.manager(), "p1");
    assert_eq!(shown["procedure"]["attestations"][0]["text"], "it burnt down");
    assert_eq!(role(farm.manager(), "member2"), None);
    farm.manager().command(&["procedure", "abort", "p1", "--yes"]).success().says(&["still removed: member2"]);
    assert_eq!(client.stop().failures.len(), failed);
    assert!(!is_done(&procedure(farm.manager(), "p1")));
}

#[test]
fn w22_w24_w25_the_manager_is_lost_and_a_candidate_takes_over() {
    let (mut farm, mut site) = site(2, "1h");
    let client = site.client();
    farm.manager().write("index.html", "<p>the manager's last word</p>");
    farm.wait_equal();
    let recover = ["recover", "manager", "--yes"];
    farm.server(1).command(&recover).refused().says(&["manager, the manager, answers"]);
    let failed = lose(&mut farm, &mut site, 0, &client);

    let dry = farm.server(1).command(&["recover", "manager", "--dry-run"]).success();
    let dry = dry.says(&["attest that manager is isolated", "make member1 manager by itself"]);
    assert!(!dry.stdout.contains("drain member2"), "equal hashes need no drain (W23): {dry}");
    farm.server(1).command(&recover).exits(5).says(&["is manager off the network", "procedure resume p1 --attest"]);
    assert_eq!(role(farm.server(1), "manager"), Some(Role::Manager), "nobody has answered yet");
    // The candidate's engine is killed before it has the role.
    farm.server_mut(1).kill();
    farm.server_mut(1).start();
    farm.server(1).command(&["recover", "manager", "--dry-run"]).success().says(&["is begun already, as p1"]);
    // The same command is given again with the answer.
    let said = farm.server(1).command(&[&recover[..], &["--attest", "its power is off"]].concat()).success();
    said.says(&["make member1 manager", "maintenance finish manager"]);
    farm.led_by(1);
    assert_eq!(role(farm.manager(), "manager"), Some(Role::Disabled));
    farm.manager().command(&["procedure", "show", "p1"]).success().says(&["its power is off", "member2 holds"]);
    farm.manager().write("index.html", "<p>written at the new manager</p>");
    farm.wait_same(farm.server(2));

    // W25: the repaired machine comes back by a change at the new manager.
    site.nginx("manager").revive();
    farm.server_mut(0).start();
    farm.manager().command(&["maintenance", "finish", "manager", "--yes"]).success();
    assert_in_service(&farm, &site, 0);
    farm.wait_equal();
    farm.assert_equal();
    client.wait_from("manager");
    assert_eq!(client.stop().failures.len(), failed, "only what was in flight on the machine that was lost");
}

#[test]
fn w23_members_that_differ_are_drained_and_synced_in_batches() {
    let (mut farm, mut site) = site(4, "1h");
    // No server can confirm member1's revision, so member1 serves again after this time.
    farm.manager().command(&["group", "set", "--min-serving", "2", "--ready-after", "2s"]).success();
    farm.wait_equal();
    let client = site.client();
    // member1 lacks this file: it is the least advanced server, and takes over nevertheless.
    farm.server_mut(1).kill();
    farm.manager().write("late.html", "<p>seen by the others only</p>");
    for index in 2..=4 {
        farm.wait_same(farm.server(index));
    }
    let failed = lose(&mut farm, &mut site, 0, &client);
    farm.server_mut(1).start();
    // The number of serving servers decides how many are drained at once.
    wait_in_service(&farm, &site, 1);

    let recover = ["recover", "manager", "--attest", "its power is off", "--yes"];
    farm.server(1).command(&recover).refused().says(&["has seen more", "--force"]);
    let said = farm.server(1).command(&[&recover[..], &["--force"]].concat()).success();
    said.says(&["drain member2, member3", "undrain member2, member3", "drain member4", "undrain member4"]);
    farm.led_by(1);
    farm.wait_status("three members in sync", |status| {
        ["member2", "member3", "member4"].iter().all(|name| {
            one(status, name).is_some_and(|server| server.state == State::InSync && server.revision == status.head)
        })
    });
    for index in 2..=4 {
        let server = farm.server(index);
        compare::assert_equal_by_rsync(farm.manager().set("web"), server.set("web"));
        let kept = compare::find_below(&server.state().join("recovery"), "late.html");
        assert!(kept.is_some(), "what {} had is kept", server.name);
        assert_in_service(&farm, &site, index);
        client.wait_from(&server.name);
    }
    assert_eq!(client.stop().failures.len(), failed, "only what was in flight on the machine that was lost");
}

/// Waits until the recovery that was begun at that candidate has stopped, for that reason.
fn wait_stopped(farm: &Farm, candidate: usize, why: &str) {
    wait_procedure(farm.server(candidate), "p1", why, |shown| {
        let reason = &shown["procedure"]["standing"]["failed"]["reason"];
        reason.as_str().is_some_and(|reason| reason.contains(why))
    });
}

/// A farm of two members, in which the manager is away, and member1's recovery asks whether the manager is isolated.
fn asking() -> Farm {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "one"));
    farm.server_mut(0).kill();
    farm.server(1).command(&["recover", "manager", "--yes"]).exits(5).says(&["is manager off the network"]);
    farm
}

#[test]
fn w22_a_recovery_asks_for_no_isolation_when_the_manager_that_was_away_has_put_the_candidate_away() {
    let mut farm = asking();
    farm.server_mut(0).start();
    farm.wait_in_sync();
    farm.manager().command(&["server", "disable", "member1", "--yes"]).success();
    wait_stopped(&farm, 1, "member1 was disabled meanwhile");
    farm.server(1).command(&["procedure", "abort", "p1", "--yes"]).success();
}

#[test]
fn w24_a_recovery_that_another_candidate_overtook_stops_and_what_is_under_way_goes_on() {
    let mut farm = asking();
    farm.server(2).command(&["promote", "--self", "--yes"]).success();
    farm.led_by(2);
    wait_stopped(&farm, 1, "member2 has become manager meanwhile");
    farm.server(1).command(&["procedure", "abort", "p1", "--yes"]).success();
    farm.manager().command(&["maintenance", "start", "member1", "--yes"]).success();
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Disabled));
}
