//! W12, W21, W25: servers come back into service, or are synced in service, behind a real HAProxy while clients send requests.
//! No server gets a request before it is in sync. A restarted HAProxy is told the drains again.

use std::fs;

use bellwether_proto::status::State;

use crate::{
    balancers::{Check, Client, Site},
    farm::{DEADLINE, Farm, Server, one, wait_for},
    maintenance::{assert_in_service, is_done, procedure, ready, role, site, wait_procedure},
    recovery::lose,
};

/// Waits for the end of procedure `id`. Until the step that undrains `server` begins, that server gets no request.
fn wait_for_its_return(farm: &Farm, id: &str, server: &str, client: &Client) {
    let before = client.so_far().of(server);
    let waits = |shown: &serde_json::Value| {
        let steps = shown["procedure"]["steps"].as_array().expect("steps").len() as u64;
        shown["procedure"]["at"].as_u64() < Some(steps - 1)
    };
    wait_for(&format!("the end of {id}"), DEADLINE, || {
        // The count comes first: if the procedure still waits after it, none of these requests was allowed.
        let asked = client.so_far().of(server);
        let shown = procedure(farm.manager(), id);
        assert!(!waits(&shown) || asked == before, "{server} is asked before it is in sync: {shown}");
        assert!(shown["procedure"]["standing"].get("failed").is_none(), "{shown}");
        if is_done(&shown) { Ok(()) } else { Err(shown.to_string()) }
    });
    client.wait_from(server);
}

/// A HAProxy in the record that does not ask whether a server is ready.
fn page_checked(farm: &Farm) -> Site {
    let site = Site::checked(farm, Check::Page);
    site.register(farm);
    farm.manager().command(&["group", "set", "--drain-timeout", "1h"]).success();
    for server in std::iter::once(farm.manager()).chain(farm.members()) {
        site.haproxy.wait_status(&server.name, "UP");
    }
    site
}

/// Writes so much that a sync takes a while.
fn write_much(farm: &Farm, server: &Server) {
    for file in 0..400 {
        farm.manager().write(&format!("pages/{file}.html"), format!("<p>{file}</p>").repeat(50));
    }
    farm.wait_same(server);
}

#[test]
fn w25_a_machine_that_was_removed_gets_no_request_before_it_is_in_sync() {
    // Only Bellwether's drains keep a server out here.
    let mut farm = Farm::plan().members(2).start();
    let mut site = page_checked(&farm);
    let client = site.client();
    let failed = lose(&mut farm, &mut site, 1, &client);
    // The removal by hand drains nothing.
    farm.manager().command(&["server", "remove", "member1", "--yes"]).success();
    write_much(&farm, farm.server(2));
    farm.server_mut(1).start();
    wait_for("member1 knowing that it is removed", DEADLINE, || match ready(farm.server(1))? {
        (503, answer) if answer.contains("removed") => Ok(()),
        (_, answer) => Err(answer),
    });
    site.nginx("member1").revive();
    client.wait_from("member1");

    let planned = farm.manager().command(&["server", "add", "member1", "--dry-run"]).success();
    planned.says(&["WHAT", "WHERE", "WHY", "drain member1", "add member1 as a member", "undrain member1"]);
    assert_eq!(role(farm.manager(), "member1"), None, "only printed");
    farm.manager().command(&["server", "add", "member1", "--wait", "none"]).success().says(&["p1 has begun"]);
    wait_procedure(farm.manager(), "p1", "drained, the last session over", |shown| {
        shown["procedure"]["at"].as_u64() >= Some(2)
    });
    wait_for_its_return(&farm, "p1", "member1", &client);
    assert_in_service(&farm, &site, 1);
    farm.wait_equal();
    farm.assert_equal();
    // The server is back, so the command changes nothing.
    farm.manager().command(&["server", "add", "member1"]).success();
    farm.manager().command(&["procedure", "show", "p2"]).refused();
    assert_eq!(client.stop().failures.len(), failed, "only what was in flight on the machine that was lost");
}

#[test]
fn w21_a_server_that_is_enabled_is_drained_until_it_is_complete() {
    let (farm, site) = site(2, "1h");
    let client = site.client();
    client.wait_from("member1");
    farm.manager().command(&["server", "disable", "member1", "--yes"]).success();
    wait_for("HAProxy's checks noticing it", DEADLINE, || match site.haproxy.status("member1") {
        status if status.starts_with("DOWN") => Ok(()),
        status => Err(status),
    });
    write_much(&farm, farm.server(2));
    let begun = farm.manager().command(&["server", "enable", "member1", "--wait", "none"]).success();
    begun.says(&["p1 has begun: server enable member1"]);
    wait_for_its_return(&farm, "p1", "member1", &client);
    assert_in_service(&farm, &site, 1);
    // The other command of the same way back shows its progress.
    farm.manager().command(&["server", "disable", "member1", "--yes"]).success();
    let said = farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    said.says(&["add member1 as a member", "member1 serves again"]);
    farm.manager().command(&["server", "disable", "member1", "--yes"]).success();
    let said = farm.manager().command(&["server", "enable", "member1"]).success();
    said.says(&["drain member1", "wait until member1 is complete", "member1 serves again"]);
    assert_in_service(&farm, &site, 1);
    client.stop().flawless();
}

#[test]
fn w25_new_hardware_gets_no_request_before_it_is_in_sync() {
    let (mut farm, mut site) = site(2, "1h");
    let client = site.client();
    write_much(&farm, farm.server(2));
    client.wait_from("member1");
    farm.manager().command(&["server", "replace", "member1"]).refused().says(&["--yes"]);
    let said = farm.manager().command(&["server", "replace", "member1", "--yes"]).success();
    let said = said.says(&["drain member1", "member1 is drained by now", "procedure show p1"]);
    // Its `/ready` answers 503 by now. HAProxy calls it down after two checks, and shows it as drained before that.
    assert!(["DRAIN", "DOWN"].contains(&site.haproxy.status("member1").as_str()), "{}", site.haproxy.status("member1"));
    let token = said.stdout.trim().to_owned();

    // Another machine takes its place, without a key, a group or a configuration.
    site.nginx("member1").kill();
    let member = farm.server_mut(1);
    member.kill();
    fs::remove_dir_all(member.state()).expect("the state goes");
    fs::remove_file(member.home.join("agent.toml")).expect("the settings go");
    fs::remove_dir_all(member.set("web")).expect("the configuration goes");
    fs::create_dir(member.set("web")).expect("an empty one");
    site.nginx("member1").revive();
    wait_procedure(farm.manager(), "p1", "waiting for the new machine", |shown| {
        shown["doing"].as_str().is_some_and(|doing| doing.contains("bellwether join - --name member1"))
    });
    farm.server(1).join(&token).success();
    farm.server_mut(1).start();
    wait_for_its_return(&farm, "p1", "member1", &client);
    assert_in_service(&farm, &site, 1);
    farm.wait_equal();
    farm.assert_equal();
    client.stop().flawless();
}

#[test]
fn w12_a_sync_drains_who_serves_something_else_and_nobody_whose_hashes_are_equal() {
    let (farm, mut site) = site(2, "1h");
    farm.manager().command(&["group", "set", "--min-serving", "2"]).success();
    let client = site.client();
    farm.manager().command(&["sync"]).success().says(&["in sync at"]);
    farm.manager().command(&["procedure", "list"]).success().says(&["no procedures"]);

    farm.server(1).write("index.html", "<p>somebody's own</p>");
    farm.wait_server(farm.server(1), "drifted", |s| s.state == State::Drifted);
    farm.manager().command(&["sync", "--dry-run"]).success().says(&["drain member1", "undrain member1"]);
    // A server that cannot be drained is not changed.
    farm.manager().command(&["group", "set", "--min-serving", "3"]).success();
    let late = farm.manager().command(&["sync", "member1", "--timeout", "2s"]);
    late.exits(4).says(&["goes on by itself", "procedure show p1"]);
    wait_procedure(farm.manager(), "p1", "waiting for others to serve", |shown| {
        shown["doing"].as_str().is_some_and(|doing| doing.contains("2 would serve without it; at least 3 are to"))
    });
    assert_in_service(&farm, &site, 1);
    farm.manager().command(&["group", "set", "--min-serving", "2"]).success();
    farm.manager().command(&["sync", "member1"]).success().says(&["in sync at", "member1"]);
    wait_procedure(farm.manager(), "p1", "done", is_done);
    farm.wait_equal();

    // W23: servers with other content go a few at a time, and also get the bulk import that they lack (W6).
    farm.manager().command(&["pause"]).success();
    farm.manager().write("index.html", "<p>imported</p>");
    for index in [1, 2] {
        farm.server(index).write("own.html", "<p>somebody's own</p>");
        farm.wait_server(farm.server(index), "drifted", |s| s.state == State::Drifted);
    }
    let said = farm.manager().command(&["sync"]).success();
    said.says(&[
        "p2 1/10 drain member1",
        "p2 5/10 undrain member1",
        "p2 6/10 drain member2",
        "p2 10/10 undrain member2",
    ]);
    farm.wait_equal();
    for index in 0..=2 {
        assert_in_service(&farm, &site, index);
    }
    client.stop().flawless();

    // No server is drained at only one balancer: the sync is refused while the balancer does not answer.
    site.haproxy.kill();
    farm.server(1).write("index.html", "<p>somebody's own</p>");
    farm.wait_server(farm.server(1), "drifted", |s| s.state == State::Drifted);
    farm.manager().command(&["resume"]).success();
    farm.manager().command(&["sync", "member1"]).refused().says(&["cannot be drained", "lb1", "--no-balancer"]);
    assert_eq!(ready(farm.server(1)).map(|(code, _)| code), Ok(200));
    farm.manager().command(&["group", "set", "--no-balancer", "lb1"]).success();
    farm.manager().command(&["sync", "member1"]).success();
    farm.wait_equal();
}

#[test]
fn w21_a_haproxy_that_was_restarted_is_told_again_who_is_drained() {
    let mut farm = Farm::plan().members(3).start();
    let mut site = page_checked(&farm);
    farm.manager().command(&["maintenance", "start", "member1", "--yes"]).success();
    farm.manager().command(&["maintenance", "start", "member3", "--remove", "--yes"]).success();
    restart(&mut site);
    let shown = farm.wait_status("that HAProxy was told again", |status| {
        one(status, "member1")
            .is_some_and(|s| s.reason.as_ref().is_some_and(|why| why.contains("balancer lb1 had forgotten")))
    });
    assert_eq!(one(&shown, "member1").map(|s| s.state), Some(State::Disabled));

    // The next manager follows it, too.
    farm.manager().command(&["promote", "member2"]).success();
    farm.led_by(2);
    farm.server_mut(0).kill();
    restart(&mut site);
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    site.haproxy.wait_status("member1", "UP");
    let client = site.client();
    client.wait_from("member1");
    assert_eq!(client.wait_more(60).of("member3"), 0, "it is in maintenance still");
    assert_eq!((site.haproxy.status("member1").as_str(), site.haproxy.status("manager").as_str()), ("UP", "UP"));
    client.stop().flawless();
}

/// HAProxy forgets everything: servers in maintenance are drained again, and no other server.
fn restart(site: &mut Site) {
    site.haproxy.kill();
    site.haproxy.revive();
    for server in ["member1", "member3"] {
        assert_ne!(site.haproxy.status(server), "DRAIN", "the balancer remembers, and the test shows nothing");
    }
    for (server, status) in [("member1", "DRAIN"), ("member3", "DRAIN"), ("member2", "UP"), ("manager", "UP")] {
        site.haproxy.wait_status(server, status);
    }
}
