//! Balancers find the ready servers by themselves: the setups of docs/balancers.md, before a real HAProxy.

use std::{fs, process::Command};

use bellwether_proto::status::State;

use crate::{
    balancers::{Check, PAGE, Site, haproxy_program, nginx_program},
    farm::{DEADLINE, Farm, Server, get, run, wait_for},
};

/// A farm whose second member is in the group, has a copy of the page, and waits for its first sync.
fn with_a_member_that_waits() -> Farm {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write(PAGE, "<p>page</p>");
    farm.member(2).write(PAGE, "<p>page</p>");
    farm.form();
    farm.admit(1);
    farm.wait_in_sync();
    farm.manager().command(&["pause"]).success();
    farm.admit(2);
    farm.wait_server(farm.member(2), "waiting for its first sync", |s| s.state == State::AwaitingSync);
    farm
}

/// The status code and the body.
fn ask(server: &Server, path: &str) -> (u16, String) {
    let answer = get(&server.http, path).expect("an answer");
    (answer.code, answer.body().to_owned())
}

fn a_server_takes_traffic_only_after_its_sync(check: Check) {
    let farm = with_a_member_that_waits();
    let site = Site::checked(&farm, check);
    for server in ["manager", "member1"] {
        site.haproxy.wait_status(server, "UP");
    }
    wait_for("member2 being out", DEADLINE, || match site.haproxy.status("member2") {
        status if status.starts_with("DOWN") => Ok(()),
        status => Err(status),
    });
    let client = site.client();
    assert_eq!(client.wait_more(60).of("member2"), 0);
    farm.manager().command(&["sync", "member2"]).success();
    farm.wait_server(farm.member(2), "in sync", |s| s.state == State::InSync);
    site.haproxy.wait_status("member2", "UP");
    client.wait_from("member2");
    client.stop().flawless();
}

#[test]
fn w12_haproxy_sends_a_server_traffic_only_after_its_sync() {
    a_server_takes_traffic_only_after_its_sync(Check::Relay);
}

#[test]
fn w12_haproxy_sends_a_server_traffic_only_after_its_sync_by_agent_check() {
    a_server_takes_traffic_only_after_its_sync(Check::Agent);
}

#[test]
fn w11_a_stopped_agent_takes_nobody_out_of_rotation() {
    let mut farm = Farm::plan().members(1).start();
    let mut site = Site::start(&farm);
    let client = site.client();
    farm.server_mut(0).stop();
    farm.server_mut(1).stop();
    for server in ["manager", "member1"] {
        wait_for("checks without an agent", DEADLINE, || match site.nginx(server).checks_without_agent() {
            few @ ..10 => Err(few.to_string()),
            _ => Ok(()),
        });
        assert_eq!(site.haproxy.status(server), "UP");
        client.wait_from(server);
    }
    // The agents start again, as after an upgrade.
    farm.server_mut(0).start();
    farm.server_mut(1).start();
    farm.wait_in_sync();
    assert_eq!(site.haproxy.column("member1", "chkdown"), "0", "it never was down");
    client.stop().flawless();
}

#[test]
fn w11_a_stopped_agent_takes_nobody_out_of_rotation_by_agent_check() {
    let mut farm = Farm::plan().members(1).start();
    farm.manager().write(PAGE, "<p>page</p>");
    farm.wait_equal();
    let site = Site::checked(&farm, Check::Agent);
    for server in ["manager", "member1"] {
        site.haproxy.wait_status(server, "UP");
        wait_agent(&site, server, "L7OK");
    }
    let client = site.client();
    farm.server_mut(1).stop();
    wait_agent(&site, "member1", "L4CON");
    assert_eq!(site.haproxy.status("member1"), "UP");
    client.wait_from("member1");
    farm.server_mut(1).start();
    wait_agent(&site, "member1", "L7OK");
    assert_eq!(site.haproxy.column("member1", "chkdown"), "0", "it never was down");
    client.stop().flawless();
}

fn wait_agent(site: &Site, server: &str, status: &str) {
    wait_for(&format!("an agent check of {server} with {status}"), DEADLINE, || {
        let now = site.haproxy.column(server, "agent_status");
        if now.trim_start_matches("* ") == status { Ok(()) } else { Err(now) }
    });
}

#[test]
fn an_agents_word_does_not_end_an_administrators_maintenance() {
    let farm = Farm::plan().members(1).start();
    farm.manager().write(PAGE, "<p>page</p>");
    farm.wait_equal();
    let site = Site::checked(&farm, Check::Agent);
    site.haproxy.wait_status("member1", "UP");
    site.haproxy.ask("set server app/member1 state maint").expect("an answer");
    farm.manager().command(&["sync", "member1"]).success();
    farm.wait_in_sync();
    let client = site.client();
    assert_eq!(client.wait_more(60).of("member1"), 0);
    assert_eq!(site.haproxy.status("member1"), "MAINT");
    site.haproxy.ask("set server app/member1 state ready").expect("an answer");
    client.wait_from("member1");
    client.stop().flawless();
}

#[test]
fn the_http_port_says_where_the_manager_is() {
    let farm = Farm::plan().members(1).start();
    assert_eq!(ask(farm.manager(), "/live").0, 200);
    let (code, body) = ask(farm.manager(), "/manager");
    assert_eq!((code, body.contains("\"here\":true")), (200, true), "{body}");
    let (code, body) = ask(farm.member(1), "/manager");
    assert_eq!((code, body.contains("\"manager\":\"manager\"")), (503, true), "{body}");
    let (code, body) = ask(farm.member(1), "/ready");
    assert_eq!((code, body.contains("at revision 1.")), (200, true), "{body}");
}

/// The blocks in that language in docs/balancers.md.
fn documented(language: &str) -> Vec<String> {
    let text = include_str!("../docs/balancers.md");
    let begins = format!("```{language}\n");
    let blocks = text.split(&begins).skip(1);
    blocks.map(|rest| rest.split("```").next().expect("an end").to_owned()).collect()
}

#[test]
fn haproxy_and_nginx_take_the_documented_configurations() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    let haproxy = documented("haproxy");
    let [whole, backend] = haproxy.as_slice() else { panic!("{} blocks for HAProxy", haproxy.len()) };
    // The second block replaces the backend of the first one.
    let (head, _) = whole.split_once("backend app").expect("a backend");
    for text in [whole.as_str(), &format!("{head}{backend}")] {
        fs::write(&file, text).expect("written");
        run(Command::new(haproxy_program()).args(["-c", "-q", "-f"]).arg(&file)).success();
    }
    let nginx = documented("nginx");
    let [locations, upstream] = nginx.as_slice() else { panic!("{} blocks for nginx", nginx.len()) };
    let here = directory.path().display();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {here};"));
    let server = format!("{upstream} server {{ listen unix:{here}/socket; {locations} }}");
    let text = format!("pid {here}/pid; events {{}} http {{ access_log off; {} {server} }}", temp.concat());
    fs::write(&file, text).expect("written");
    run(Command::new(nginx_program()).args(["-t", "-q", "-e", "stderr", "-c"]).arg(&file)).success();
}
