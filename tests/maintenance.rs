//! W12, W18–W21: servers are taken out for work while clients send requests, behind a real HAProxy with an nginx on each
//! server. A procedure goes on after its engine is killed or its manager changes, and can be aborted.

use bellwether_manager::failpoints::HANDOVER;
use bellwether_proto::record::Role;
use serde_json::Value;

use crate::{
    balancers::{Site, Slow},
    farm::{DEADLINE, Farm, Output, Server, get, one, wait_for},
};

/// A farm behind HAProxy, which is in its record, with this time limit for sessions.
pub(crate) fn site(members: usize, drain_timeout: &str) -> (Farm, Site) {
    let farm = Farm::plan().members(members).start();
    let site = Site::start(&farm);
    site.register(&farm);
    farm.manager().command(&["group", "set", "--drain-timeout", drain_timeout]).success();
    (farm, site)
}

/// The status code of that server's `/ready`, and the reason.
pub(crate) fn ready(server: &Server) -> Result<(u16, String), String> {
    get(&server.http, "/ready").map(|answer| (answer.code, answer.whole))
}

/// That procedure from the view of `server`.
pub(crate) fn procedure(server: &Server, id: &str) -> Value {
    let shown = server.command(&["procedure", "show", id, "--json"]).success();
    serde_json::from_str(&shown.stdout).expect("a procedure as JSON")
}

/// Waits until `server` has that procedure in a state that `fits`.
pub(crate) fn wait_procedure(server: &Server, id: &str, what: &str, fits: impl Fn(&Value) -> bool) {
    wait_for(&format!("{id} {what} at {}", server.name), DEADLINE, || {
        let shown = server.command(&["procedure", "show", id, "--json"]);
        match serde_json::from_str::<Value>(&shown.stdout) {
            Ok(shown) if fits(&shown) => Ok(()),
            _ => Err(shown.to_string()),
        }
    });
}

pub(crate) fn is_done(shown: &Value) -> bool {
    shown["procedure"]["standing"] == "done"
}

fn is_at(shown: &Value, step: u64) -> bool {
    shown["procedure"]["at"] == step
}

/// The role of a server in the record of `at`.
pub(crate) fn role(at: &Server, server: &str) -> Option<Role> {
    one(&at.status().expect("a status"), server).map(|server| server.role)
}

/// A session on that server, which ends when this is dropped.
fn slow_at(site: &Site, server: &str) -> Slow {
    wait_for(&format!("a session on {server}"), DEADLINE, || {
        let slow = site.slow_session();
        if slow.server == server { Ok(slow) } else { Err(slow.server.clone()) }
    })
}

/// Asserts that the servers take traffic at HAProxy and are ready.
pub(crate) fn assert_in_service(farm: &Farm, site: &Site, index: usize) {
    let server = farm.server(index);
    site.haproxy.wait_status(&server.name, "UP");
    assert_eq!(ready(server).map(|(code, _)| code), Ok(200), "{}", server.name);
}

/// Waits until that restarted server takes traffic and goes on doing so, so that no earlier answer of its agent or of HAProxy
/// is still on its way.
pub(crate) fn wait_in_service(farm: &Farm, site: &Site, index: usize) {
    let server = farm.server(index);
    wait_for(&format!("{} being ready", server.name), DEADLINE, || match ready(server) {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    site.haproxy.wait_sound(&server.name);
}

#[test]
fn w18_w19_w20_maintenance_of_the_manager_costs_no_request() {
    let (mut farm, mut site) = site(2, "1h");
    let client = site.client();
    client.wait_from("manager");
    let said = farm.manager().command(&["maintenance", "start", "manager", "--promote", "member1", "--yes"]).success();
    said.says(&["drain manager", "make member1 manager; manager becomes disabled", "maintenance finish manager"]);
    assert_eq!(ready(farm.server(0)).map(|(code, _)| code), Ok(503));

    // The machine is being worked on, so none of its programs runs.
    site.nginx("manager").kill();
    farm.server_mut(0).kill();
    farm.led_by(1);
    farm.manager().write("index.html", "<p>written at the new manager</p>");
    farm.wait_same(farm.server(2));
    assert_eq!(role(farm.manager(), "manager"), Some(Role::Disabled));

    site.nginx("manager").revive();
    farm.server_mut(0).start();
    let before = client.so_far().of("manager");
    // W20: the role and the server come back only by a change at the current manager.
    farm.server(0).command(&["maintenance", "finish", "manager", "--yes"]).refused().says(&["member1"]);
    farm.server(0).command(&["promote", "manager"]).refused();
    assert_eq!(client.so_far().of("manager"), before, "it is asked although it is not back");
    farm.manager().command(&["maintenance", "finish", "manager", "--yes"]).success().says(&["serves again"]);
    farm.wait_same(farm.server(0));
    farm.wait_in_sync();
    assert_in_service(&farm, &site, 0);
    client.wait_from("manager");

    let back = ["maintenance", "start", "member1", "--promote", "manager", "--yes"];
    farm.manager().command(&back).success();
    farm.led_by(0);
    farm.wait_status("the role back", |status| status.manager.as_str() == "manager");
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    farm.wait_equal();
    client.wait_from("member1");
    client.stop().flawless();
}

#[test]
fn w21_maintenance_of_a_member_costs_no_request() {
    let (mut farm, mut site) = site(2, "1h");
    let client = site.client();
    client.wait_from("member1");
    let said = farm.manager().command(&["maintenance", "start", "member1", "--yes"]).success();
    said.says(&["drain member1", "disable member1", "maintenance finish member1"]);
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Disabled));
    assert_eq!(ready(farm.server(1)).map(|(code, _)| code), Ok(503));
    site.nginx("member1").kill();
    farm.server_mut(1).kill();
    farm.manager().write("index.html", "<p>written meanwhile</p>");
    farm.wait_same(farm.server(2));

    site.nginx("member1").revive();
    farm.server_mut(1).start();
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    assert_in_service(&farm, &site, 1);
    farm.wait_equal();
    farm.assert_equal();
    client.wait_from("member1");
    client.stop().flawless();
}

#[test]
fn w12_a_server_in_a_sync_is_out_of_service_until_it_is_complete() {
    let (farm, site) = site(2, "1h");
    let client = site.client();
    farm.manager().command(&["maintenance", "start", "member1", "--yes"]).success();
    for file in 0..800 {
        farm.manager().write(&format!("pages/{file}.html"), format!("<p>{file}</p>").repeat(50));
    }
    farm.wait_same(farm.server(2));
    // An edit that was made by hand meanwhile is not served either.
    farm.server(1).write("index.html", "<p>somebody's own</p>");
    let before = client.so_far().of("member1");
    let asked = farm.manager().command(&["maintenance", "finish", "member1", "--yes", "--wait", "none"]).success();
    asked.says(&["has begun"]);
    wait_for("the end of the sync", DEADLINE, || {
        let shown = procedure(farm.manager(), "p2");
        let complete = shown["procedure"]["at"].as_u64() >= Some(4);
        if !complete {
            // This order is needed: the present step of the procedure allowed the answers so far.
            let (code, answer) = ready(farm.server(1)).expect("an answer");
            let shown = procedure(farm.manager(), "p2");
            let still = shown["procedure"]["at"].as_u64() < Some(4);
            assert!(!still || code == 503, "{answer}\n{shown}");
            assert!(!still || client.so_far().of("member1") == before, "asked in the middle of its sync");
            return Err(shown.to_string());
        }
        Ok(())
    });
    wait_procedure(farm.manager(), "p2", "done", is_done);
    farm.wait_equal();
    farm.assert_equal();
    client.wait_from("member1");
    client.stop().flawless();
}

#[test]
fn w21_the_engine_is_killed_in_the_middle_and_goes_on() {
    let (mut farm, site) = site(2, "1h");
    let client = site.client();
    let slow = slow_at(&site, "member1");
    farm.manager().command(&["maintenance", "start", "member1", "--yes", "--wait", "none"]).success();
    wait_procedure(farm.manager(), "p1", "waiting for the session", |shown| is_at(shown, 1));
    farm.server_mut(0).kill();
    drop(slow);
    farm.server_mut(0).start();
    wait_procedure(farm.manager(), "p1", "done", is_done);
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Disabled));
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    assert_in_service(&farm, &site, 1);
    client.stop().flawless();
}

#[test]
fn w18_a_procedure_goes_on_at_the_manager_that_the_role_has_moved_to() {
    let (mut farm, site) = site(2, "1h");
    let client = site.client();
    let slow = slow_at(&site, "member2");
    farm.manager().command(&["maintenance", "start", "member2", "--yes", "--wait", "none"]).success();
    wait_procedure(farm.manager(), "p1", "waiting for the session", |shown| is_at(shown, 1));
    wait_procedure(farm.server(1), "p1", "known to the candidate", |shown| is_at(shown, 1));
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.server_mut(0).kill();
    drop(slow);
    wait_procedure(farm.manager(), "p1", "done", is_done);
    assert_eq!(role(farm.manager(), "member2"), Some(Role::Disabled));
    farm.manager().command(&["maintenance", "finish", "member2", "--yes"]).success();
    assert_in_service(&farm, &site, 2);
    client.stop().flawless();
}

#[test]
fn w21_an_abort_says_what_is_drained_still() {
    let (farm, site) = site(1, "1h");
    let slow = slow_at(&site, "member1");
    let begin = ["maintenance", "start", "member1", "--yes"];
    let late = farm.manager().command(&[&begin[..], &["--timeout", "2s"]].concat());
    late.exits(4).says(&["goes on by itself", "procedure show p1"]);
    wait_procedure(farm.manager(), "p1", "waiting for the session", |shown| is_at(shown, 1));
    // Another procedure for the same server has to wait for the end of this one.
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).refused().says(&["p1", "is not over"]);
    farm.manager().command(&["procedure", "abort", "p1", "--dry-run"]).success().says(&["p1", "at step 2"]);
    for _ in 0..2 {
        let said = farm.manager().command(&["procedure", "abort", "p1", "--yes"]).success();
        said.says(&["still drained: member1", "maintenance finish member1"]);
    }
    farm.manager().command(&["procedure", "resume", "p1"]).refused().says(&["is over"]);
    farm.manager().command(&["procedure", "list"]).success().says(&["p1", "aborted by"]);
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Member), "it came no further");
    assert_eq!(ready(farm.server(1)).map(|(code, _)| code), Ok(503));
    drop(slow);
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    assert_in_service(&farm, &site, 1);
}

#[test]
fn w23_nobody_is_drained_below_the_least_that_are_to_serve() {
    let (farm, site) = site(2, "1h");
    farm.manager().command(&["group", "set", "--min-serving", "3"]).success();
    farm.manager().command(&["maintenance", "start", "member1", "--yes", "--wait", "none"]).success();
    wait_procedure(farm.manager(), "p1", "waiting for others to serve", |shown| {
        shown["doing"].as_str().is_some_and(|doing| doing.contains("2 would serve without it; at least 3 are to"))
    });
    assert_in_service(&farm, &site, 1);
    farm.manager().command(&["group", "set", "--min-serving", "2"]).success();
    wait_procedure(farm.manager(), "p1", "done", is_done);
    assert_ne!(site.haproxy.status("member1"), "UP");
}

#[test]
fn w18_to_w21_every_procedure_can_be_printed_before_it_is_run() {
    let farm = Farm::plan().members(2).start();
    let record = farm.status().record;
    let dry = |arguments: &[&str]| farm.manager().command(&[arguments, &["--dry-run"]].concat()).success();
    let names = |output: Output, words: &[&str]| drop(output.says(words));
    names(
        dry(&["maintenance", "start", "manager", "--promote", "member1"]),
        &["WHAT", "WHERE", "WHY", "drain manager", "make member1 manager", "in the group record"],
    );
    names(dry(&["maintenance", "start", "member1"]), &["disable member1"]);
    names(dry(&["maintenance", "start", "member1", "--remove"]), &["remove member1"]);
    names(dry(&["maintenance", "finish", "member1"]), &["sync member1", "undrain member1"]);
    names(dry(&["recover", "member", "member1"]), &["attest that member1 is isolated"]);
    farm.manager().command(&["maintenance", "start", "manager"]).refused().says(&["--promote", "member1, member2"]);
    farm.manager().command(&["maintenance", "start", "nobody"]).refused().says(&["server list"]);
    farm.manager().command(&["maintenance", "start", "member1", "--promote", "member2"]).refused();
    farm.member(1).command(&["maintenance", "start", "member2", "--dry-run"]).refused().says(&["manager"]);
    farm.manager().command(&["maintenance", "start", "member1"]).refused().says(&["--yes"]);
    farm.manager().command(&["procedure", "show", "p7"]).refused();
    farm.manager().command(&["procedure", "show", "seven"]).exits(2);
    farm.manager().command(&["procedure", "list"]).success().says(&["no procedures"]);
    assert_eq!(farm.status().record, record);
}

#[test]
fn w21_without_a_balancer_ready_says_it_and_nothing_else_is_drained() {
    let farm = Farm::plan().members(1).start();
    farm.manager().command(&["group", "set", "--drain-timeout", "1s"]).success();
    assert_eq!(ready(farm.member(1)).map(|(code, _)| code), Ok(200));
    let said = farm.manager().command(&["maintenance", "start", "member1", "--yes"]).success();
    said.says(&["no balancer of the group has it"]);
    let (code, answer) = ready(farm.member(1)).expect("an answer");
    assert!(code == 503 && answer.contains("maintenance finish member1"), "{answer}");
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    wait_for("the member ready", DEADLINE, || match ready(farm.member(1))? {
        (200, _) => Ok(()),
        (_, answer) => Err(answer),
    });
}

#[test]
fn w18_the_progress_of_procedures_goes_to_candidates_only() {
    let farm = Farm::plan().members(2).start();
    farm.manager().command(&["server", "set", "member2", "--candidate", "no"]).success();
    farm.manager().command(&["group", "set", "--drain-timeout", "1s"]).success();
    farm.manager().command(&["maintenance", "start", "member2", "--yes"]).success();
    wait_procedure(farm.server(1), "p1", "known", is_done);
    assert!(farm.server(1).state().join("procedures.json").exists());
    assert!(!farm.server(2).state().join("procedures.json").exists());
    farm.server(2).command(&["procedure", "list"]).refused().says(&["no candidate", "manager"]);
    // A server that becomes a candidate is told the procedures then.
    farm.manager().command(&["maintenance", "finish", "member2", "--yes"]).success();
    farm.manager().command(&["server", "set", "member2", "--candidate", "yes"]).success();
    wait_procedure(farm.server(2), "p2", "known", is_done);
    // The same command changes nothing when it is given again.
    let record = farm.status().record;
    farm.manager().command(&["maintenance", "finish", "member2", "--yes"]).success();
    assert_eq!(farm.status().record, record);
}

/// Asserts that no server is out of service: neither in the record, nor by its own `/ready`.
fn assert_nobody_drained(farm: &Farm) {
    let listed = farm.manager().command(&["server", "list"]).success();
    assert!(!listed.stdout.contains("drained") && !listed.stdout.contains("disabled"), "{listed}");
    for index in 0..3 {
        let server = farm.server(index);
        wait_for(&format!("{} in service", server.name), DEADLINE, || match ready(server)? {
            (200, _) => Ok(()),
            (_, answer) => Err(answer),
        });
    }
}

/// Hands over between the two servers in `maintenance start`, once for each of `points`, at which server `dies` (the one that
/// hands over, or the one that takes the role) is killed. The procedure goes on by itself.
fn kill_in_handovers(points: &[&str], dies: impl Fn(usize) -> usize) {
    let mut farm = Farm::plan().members(2).start();
    farm.manager().command(&["group", "set", "--drain-timeout", "1s"]).success();
    for (round, point) in points.iter().enumerate() {
        let (old, new) = (round % 2, 1 - round % 2);
        let (from, to) = (farm.server(old).name.clone(), farm.server(new).name.clone());
        let (start, finish) = (format!("p{}", 2 * round + 1), format!("p{}", 2 * round + 2));
        println!("{start}: {from} hands over to {to}, kill -9 at {point}");
        let armed = dies(old);
        farm.server_mut(armed).kill();
        farm.server_mut(armed).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_in_sync();
        wait_procedures_known(&farm, new);
        let begin = ["maintenance", "start", &from, "--promote", &to, "--yes", "--timeout", "180s"];
        // Either the command's agent is killed, or the role leaves it first, so the output of the command may differ.
        farm.manager().command(&begin);
        wait_for(&format!("death at {point}"), DEADLINE, || match farm.server_mut(armed).ended() {
            Some(_) => Ok(()),
            // If the old manager has noted that step itself, the new one has no step left to pass.
            None if armed == new && *point == "procedure.passed" && is_over(farm.server(new), &start) => Ok(()),
            None => Err("it runs".to_owned()),
        });
        farm.server_mut(armed).kill();
        farm.server_mut(armed).start();

        farm.led_by(new);
        wait_procedure(farm.server(new), &start, "done", is_done);
        farm.wait_status("the new manager", |status| status.manager.as_str() == to && status.observer.as_str() == to);
        assert_eq!(role(farm.manager(), &from), Some(Role::Disabled), "killed at {point}");
        farm.manager().write("index.html", format!("<p>after {point}</p>"));
        farm.wait_same(farm.server(2));
        farm.manager().command(&["maintenance", "finish", &from, "--yes"]).success();
        assert!(is_done(&procedure(farm.manager(), &finish)), "killed at {point}");
        farm.wait_equal();
        assert_nobody_drained(&farm);
    }
    farm.assert_equal();
}

/// Whether that server leads, and has that procedure as done.
fn is_over(server: &Server, id: &str) -> bool {
    let shown = server.command(&["procedure", "show", id, "--json"]);
    let done = serde_json::from_str(&shown.stdout).is_ok_and(|shown: Value| is_done(&shown));
    done && server.status().is_ok_and(|status| status.manager.as_str() == server.name)
}

/// Waits until that candidate has the manager's procedures.
fn wait_procedures_known(farm: &Farm, candidate: usize) {
    let listed = |server: &Server| server.command(&["procedure", "list"]).stdout;
    wait_for("the candidate knowing of the procedures", DEADLINE, || {
        let (theirs, ours) = (listed(farm.server(candidate)), listed(farm.manager()));
        if theirs == ours { Ok(()) } else { Err(format!("{theirs}\n{ours}")) }
    });
}

#[test]
fn w18_the_manager_is_killed_at_every_point_of_a_procedure_before_it_hands_over() {
    let points = [
        "procedure.begun",
        "procedure.trying",
        "record.saved",
        "procedure.acted",
        "procedure.noted",
        "procedure.passed",
        "procedure.trying:2",
    ];
    kill_in_handovers(&points, |old| old);
}

#[test]
fn w18_the_manager_is_killed_at_every_point_of_the_handover_in_a_procedure() {
    let after = ["procedure.acted:2", "procedure.noted:2"];
    let points: Vec<_> = HANDOVER.iter().copied().chain(after).collect();
    kill_in_handovers(&points, |old| old);
}

#[test]
fn w18_the_new_manager_is_killed_when_it_has_just_taken_over() {
    let points = ["publish.begun", "publish.committed", "procedure.taken", "procedure.passed"];
    kill_in_handovers(&points, |old| 1 - old);
}

/// The new manager dies with the role before it has told any server. The third server takes over, and finds the procedure.
#[test]
fn w18_w24_the_new_manager_is_lost_in_the_procedure_that_made_it_manager() {
    let mut farm = Farm::plan().members(2).start();
    farm.manager().command(&["group", "set", "--drain-timeout", "1s"]).success();
    farm.server_mut(1).kill();
    farm.server_mut(1).start_with(&[("BELLWETHER_FAILPOINT", "publish.committed")]);
    farm.wait_in_sync();
    let begin = ["maintenance", "start", "manager", "--promote", "member1", "--yes", "--timeout", "2s"];
    farm.manager().command(&begin);
    let new = farm.server_mut(1);
    wait_for("death at publish.committed", DEADLINE, || new.ended().ok_or("it runs".to_owned()));
    new.kill();

    // member2 learns of the lost manager from the old one.
    let recover = ["recover", "manager", "--attest", "its power is off", "--yes"];
    farm.server(2).command(&recover).success().says(&["make member2 manager by itself; member1 becomes disabled"]);
    farm.led_by(2);
    // Member1 has led, so the old manager may have noted the hand-over as done. If it has not, the procedure stops.
    wait_procedure(farm.manager(), "p1", "over, or stopped", |shown| {
        let standing = &shown["procedure"]["standing"];
        standing == "done" || standing["failed"]["reason"] == "member2 has become manager meanwhile"
    });
    if !is_done(&procedure(farm.manager(), "p1")) {
        farm.manager().command(&["maintenance", "finish", "manager", "--yes"]).refused().says(&["p1", "is not over"]);
        let said = farm.manager().command(&["procedure", "abort", "p1", "--yes"]).success();
        said.says(&["drained: ", "manager", "disabled: "]);
    }
    farm.server_mut(1).start();
    for name in ["manager", "member1"] {
        farm.manager().command(&["maintenance", "finish", name, "--yes"]).success().says(&["serves again"]);
    }
    farm.wait_equal();
    farm.assert_equal();
    assert_nobody_drained(&farm);
}
