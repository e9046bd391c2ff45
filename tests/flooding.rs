//! Many connections that only take places: idle, slow, half open. Meanwhile changes reach the members, and balancers and
//! commands get their answers, with no more descriptors than a process usually has.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::farm::{DEADLINE, Farm, Server, get_as, wait_for};

/// The number of descriptors that a process usually has.
const USUAL: &str = "ulimit -Sn 512; ulimit -Hn 1024";

/// A farm whose agents have the usual number of descriptors.
fn farm() -> Farm {
    // The attackers are in this process.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("more descriptors");
    let mut farm = Farm::plan().members(1).unformed();
    farm.server(0).init().success();
    farm.server_mut(0).start_in_script(&["env"], USUAL);
    let token = farm.token(&[]);
    farm.server(1).join(&token).success();
    farm.server_mut(1).start_in_script(&["env"], USUAL);
    farm.wait_in_sync();
    farm
}

/// An answer of the http port: its status code and its head and body.
fn ask(server: &Server, path: &str, host: &str) -> Result<(u16, String), String> {
    get_as(&server.http, path, host).map(|answer| (answer.code, answer.whole))
}

/// Asserts that everything works: the balancer's questions, commands, a change, a read.
fn assert_works(farm: &Farm, beside: &str) {
    for server in [farm.manager(), farm.member(1)] {
        for path in ["/ready", "/live"] {
            assert_eq!(ask(server, path, "balancer").map(|(code, _)| code), Ok(200), "{path} beside {beside}");
        }
        assert_eq!(agent_check(server), "up\n", "beside {beside}");
    }
    farm.manager().write("a.conf", beside);
    farm.wait_same(farm.member(1));
    assert_eq!(farm.member(1).command(&["get", "web:a.conf"]).success().stdout, beside);
    // This uses a new connection from the manager to the member.
    farm.manager().command(&["verify"]).success();
    farm.wait_in_sync();
}

fn agent_check(server: &Server) -> String {
    let mut stream = TcpStream::connect(&server.agent_check).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut line = String::new();
    stream.read_to_string(&mut line).expect("a line");
    line
}

fn descriptors(server: &Server) -> usize {
    fs::read_dir(server.process().join("fd")).expect("the agent's descriptors").count()
}

fn connect(address: &str, say: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    // A connection that has to make room at once is closed, which is intended.
    let _ = stream.write_all(say);
    stream
}

#[test]
fn idle_http_connections_stop_nothing() {
    let farm = farm();
    let mut held = Vec::new();
    for server in [farm.manager(), farm.member(1)] {
        held.extend((0..1_130).map(|_| connect(&server.http, b"")));
    }
    assert_works(&farm, "idle connections");
    for server in [farm.manager(), farm.member(1)] {
        assert!(descriptors(server) < 512, "{} has {} open", server.name, descriptors(server));
    }
    drop(held);
    assert_works(&farm, "nothing");
}

#[test]
fn slow_heads_and_answers_that_nobody_reads_stop_nothing() {
    let farm = farm();
    let (slow, unread) = (&b"GET /ready HTTP/1.1\r\nHost: x\r\nX-Slow: "[..], &b"GET /live HTTP/1.1\r\n\r\n"[..]);
    let mut held: Vec<_> =
        (0..400).map(|n| connect(&farm.member(1).http, if n % 2 == 0 { slow } else { unread })).collect();
    for round in 0..3 {
        // Each connection sends one more byte of its head, forever.
        held.iter_mut().for_each(|stream| drop(stream.write_all(b"x")));
        assert_works(&farm, &format!("slow heads, {round}"));
    }
}

#[test]
fn half_open_handshakes_stop_nothing() {
    let farm = farm();
    let mut held = Vec::new();
    for server in [farm.manager(), farm.member(1)] {
        // One sends the beginning of a TLS record, and one sends nothing.
        held.extend((0..2_000).map(|n| connect(&server.listen, if n % 2 == 0 { &[0x16, 3, 1, 2, 0, 1] } else { b"" })));
    }
    assert_works(&farm, "half-open handshakes");
    for server in [farm.manager(), farm.member(1)] {
        assert!(descriptors(server) < 512, "{} has {} open", server.name, descriptors(server));
    }
    // A full sync makes new connections.
    let manager_before = farm.status();
    farm.manager().command(&["sync", "member1", "--full", "--timeout", "100s"]).success();
    assert!(farm.status().time_ms >= manager_before.time_ms);
}

#[test]
fn agent_checks_and_commands_that_stay_open_stop_nothing() {
    let farm = farm();
    let checks: Vec<_> = (0..1_130).map(|_| connect(&farm.member(1).agent_check, b"")).collect();
    assert_works(&farm, "agent checks");
    drop(checks);
    let socket = farm.manager().home.join("admin.sock");
    let idle: Vec<_> = (0..300).map(|_| UnixStream::connect(&socket).expect("the socket is offered")).collect();
    assert_works(&farm, "idle commands");
    assert!(descriptors(farm.manager()) < 512, "{} open", descriptors(farm.manager()));
    drop(idle);
}

#[test]
fn the_soft_limit_is_raised_and_doctor_shows_it() {
    let farm = farm();
    let limits = fs::read_to_string(farm.manager().process().join("limits")).expect("its limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("of files").to_owned();
    let of: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(of, ["1024", "1024"], "soft and hard: {line}");
    let shown = farm.manager().command(&["doctor"]);
    assert!(shown.stdout.contains("ok   descriptors: the agent may open 1024, and has "), "{shown}");
    // The limit is too low for the largest number of connections.
    let mut poor = Farm::plan().unformed();
    poor.server(0).init().success();
    poor.server_mut(0).start_in_script(&["env"], "ulimit -n 300");
    let shown = poor.manager().command(&["doctor"]);
    assert!(shown.stdout.contains("warn descriptors: the agent may open 300, and has "), "{shown}");
    assert!(shown.stdout.contains("LimitNOFILE="), "{shown}");
}

#[test]
fn a_name_that_was_made_to_lead_here_reads_nothing() {
    let mut farm = Farm::plan().start();
    let code = |farm: &Farm, path: &str, host: &str| ask(farm.manager(), path, host).map(|(code, _)| code);
    for path in ["/", "/status", "/metrics"] {
        let (refused, answer) = ask(farm.manager(), path, "rebound.example:80").expect("an answer");
        assert_eq!(refused, 421, "{answer}");
        assert!(!answer.contains("manager") && answer.contains("http_names"), "{answer}");
        for own in ["manager", "manager:80", "127.0.0.1", "[::1]:1", "localhost", &farm.manager().http.clone()] {
            assert_eq!(code(&farm, path, own), Ok(200), "{path} as {own}");
        }
    }
    for (path, expected) in [("/ready", 200), ("/live", 200), ("/manager", 200)] {
        assert_eq!(code(&farm, path, "balancer.example"), Ok(expected), "what a balancer asks: {path}");
    }
    for path in ["/", "/status", "/metrics", "/ready", "/live", "/manager", "/nothing"] {
        let (_, answer) = ask(farm.manager(), path, "rebound.example").expect("an answer");
        assert!(answer.to_lowercase().contains("x-content-type-options: nosniff"), "{path}: {answer}");
    }
    // The server does not know this name until agent.toml has it. The keys of agent.toml are before its tables.
    let file = farm.manager().home.join("agent.toml");
    let text = fs::read_to_string(&file).expect("agent.toml");
    fs::write(&file, format!("http_names = [\"farm.example\"]\n{text}")).expect("written");
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    wait_for("the status as farm.example", DEADLINE, || match code(&farm, "/status", "farm.example") {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
