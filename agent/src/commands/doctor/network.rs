//! Ports, names, the other servers and their clock, as far as this server can try them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use bellwether_daemon::{
    config::Config,
    net::tls::{self, ConnectError},
};
use bellwether_monitor::text::duration;
use bellwether_proto::{
    clock::now_ms,
    error::chain,
    key::KeyPair,
    record::{Record, Role, Server},
    status::FarmStatus,
    v1::{StatusRequest, group_client::GroupClient},
};
use tokio::{net::lookup_host, task::JoinSet, time::timeout};
use tonic::transport::Channel;

use super::Check;

/// The time limit for a name server and for the manager.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// A larger difference of clocks, in milliseconds, makes logs and status hard to read. Nothing else depends on clocks.
const APART_MS: u64 = 2_000;

/// Checks this server's addresses. `running`: the agent answers. `dialled`: the address in the group record, if any.
pub(super) async fn own(config: &Config, running: bool, dialled: Option<&str>) -> Vec<Check> {
    let mut checks = vec![bound("listen", config.listen, bind(config.listen), running)];
    checks.push(bound("http", config.http, bind(config.http), running));
    checks.extend(config.agent_check.map(|address| bound("agent_check", address, bind(address), running)));
    checks.push(advertised(dialled.unwrap_or(&config.advertise), config.listen).await);
    checks
}

fn bind(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

fn bound(name: &str, address: SocketAddr, tried: io::Result<()>, running: bool) -> Check {
    match tried {
        Ok(()) if running => Check::warn(
            name,
            format!("{address} is free although the agent runs: it was started with another address"),
            "restart the agent, so that it takes the address of its configuration",
        ),
        Ok(()) => Check::ok(name, format!("{address} is free")),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && running => {
            Check::ok(name, format!("{address} is in use, and the agent runs"))
        }
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Check::fail(
            name,
            format!("{address} is in use, and the agent does not answer"),
            format!("`ss -ltnp 'sport = {}'` shows by whom; end it, or choose another port", address.port()),
        ),
        Err(e) => Check::fail(name, format!("{address} cannot be used: {e}"), "choose an address of this machine"),
    }
}

async fn advertised(address: &str, listen: SocketAddr) -> Check {
    let found = match timeout(PATIENCE, lookup_host(address)).await {
        Ok(found) => found.map(|addresses| addresses.collect::<Vec<_>>()),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no name server answered in time")),
    };
    match found {
        Ok(addresses) => resolved(address, listen, &addresses),
        Err(e) => Check::fail(
            "advertise",
            format!("{address} does not resolve here: {e}"),
            "others dial it: add it to DNS or to /etc/hosts everywhere, or give an address: bellwether server set NAME --address HOST:PORT",
        ),
    }
}

fn resolved(address: &str, listen: SocketAddr, addresses: &[SocketAddr]) -> Check {
    let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let what = format!("{address} is {}", list.join(", "));
    if addresses.iter().all(|address| address.ip().is_loopback()) && !listen.ip().is_loopback() {
        let todo = "other machines cannot dial it: advertise a name that others resolve to this machine";
        return Check::warn("advertise", format!("{what}, the loopback"), todo);
    }
    let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    if port != Some(listen.port()) {
        let todo = "right where a port is forwarded; otherwise make them the same";
        return Check::warn("advertise", format!("{what}, but the agent listens on port {}", listen.port()), todo);
    }
    Check::ok("advertise", what)
}

/// Dials every other server of the group with its pinned key, and compares the manager's clock.
pub(super) async fn others(key: &KeyPair, record: &Record) -> Vec<Check> {
    let own = key.public();
    let Some(me) = record.by_key(&own) else {
        let todo = "it was removed from the group: `bellwether leave`, then `bellwether join`";
        return vec![Check::fail("group", "the record does not name this server's key", todo)];
    };
    let asked = record.servers.iter().filter(|server| server.key != own && server.role != Role::Disabled);
    let mut dialling = JoinSet::new();
    for (at, server) in asked.cloned().enumerate() {
        let Ok(key) = KeyPair::from_pkcs8(key.pkcs8()) else { continue };
        let needed = me.role == Role::Manager || server.role == Role::Manager;
        dialling.spawn(async move { (at, dial(&key, &server, needed).await) });
    }
    let mut checks = dialling.join_all().await;
    checks.sort_by_key(|(at, _)| *at);
    checks.into_iter().flat_map(|(_, checks)| checks).collect()
}

async fn dial(key: &KeyPair, server: &Server, needed: bool) -> Vec<Check> {
    match tls::connect(key, &server.address, server.key).await {
        Ok(channel) => {
            let mut checks = vec![answered(server)];
            if server.role == Role::Manager {
                checks.push(clock(channel).await);
            }
            checks
        }
        Err(error) => vec![unanswered(server, &error, needed)],
    }
}

fn answered(server: &Server) -> Check {
    let what = format!("answers at {} with its own key; `bellwether doctor` there tries the way back", server.address);
    Check::ok(format!("server {}", server.name), what)
}

fn unanswered(server: &Server, error: &ConnectError, needed: bool) -> Check {
    let name = format!("server {}", server.name);
    if error.is_wrong_key() {
        let todo = "another machine has its address, or it was installed anew: then remove it at the manager and join";
        return Check::fail(name, chain(error), todo);
    }
    let todo = "does its agent run, is the port open in every firewall between, is the address right?";
    match needed {
        true => Check::fail(name, chain(error), todo),
        false => Check::warn(name, chain(error), format!("{todo} (only the manager needs to reach it)")),
    }
}

async fn clock(channel: Channel) -> Check {
    let name = "clock";
    let asked = timeout(PATIENCE, GroupClient::new(channel).status(StatusRequest {})).await;
    let todo = "see the agent's log on the manager";
    let reply = match asked {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => {
            return Check::warn(name, format!("the manager does not tell its time: {}", status.message()), todo);
        }
        Err(_) => return Check::warn(name, "the manager did not tell its time in time", todo),
    };
    match serde_json::from_slice::<FarmStatus>(&reply.json) {
        Ok(status) => apart(status.time_ms, now_ms()),
        Err(e) => Check::warn(name, format!("the manager's answer is of another version: {e}"), "upgrade this server"),
    }
}

fn apart(manager_ms: u64, here_ms: u64) -> Check {
    let difference = manager_ms.abs_diff(here_ms);
    let side = if here_ms > manager_ms { "ahead of" } else { "behind" };
    if difference <= APART_MS {
        return Check::ok("clock", format!("within {} of the manager's", duration(APART_MS)));
    }
    let what = format!("{} {side} the manager's", duration(difference));
    Check::warn("clock", what, "run a time service (chrony, systemd-timesyncd) on both")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Level;

    fn address() -> SocketAddr {
        "127.0.0.1:7440".parse().unwrap()
    }

    #[test]
    fn a_port_in_use_is_right_only_for_the_agent() {
        let in_use = || Err(io::Error::from(io::ErrorKind::AddrInUse));
        assert_eq!(bound("listen", address(), Ok(()), false).level, Level::Ok);
        assert_eq!(bound("listen", address(), in_use(), true).level, Level::Ok);
        assert_eq!(bound("listen", address(), in_use(), false).level, Level::Fail);
        assert_eq!(bound("listen", address(), Ok(()), true).level, Level::Warn);
        let elsewhere = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        assert_eq!(bound("listen", address(), elsewhere, false).level, Level::Fail);
    }

    #[test]
    fn a_port_that_is_held_is_found() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(held.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn clocks_apart_are_said_with_the_side() {
        assert_eq!(apart(10_000, 11_999).level, Level::Ok);
        assert_eq!(apart(10_000, 70_000).what, "60 s ahead of the manager's");
        assert_eq!(apart(70_000, 10_000).what, "60 s behind the manager's");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_fails_where_it_is_needed() {
        let key = KeyPair::generate();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Server {
            name: "web1".parse().unwrap(),
            key: KeyPair::generate().public(),
            address: free.to_string(),
            role: Role::Member,
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        for (needed, level) in [(true, Level::Fail), (false, Level::Warn)] {
            let checks = dial(&key, &server, needed).await;
            assert_eq!((checks.len(), checks[0].level), (1, level), "{checks:?}");
            assert!(checks[0].what.contains(&server.address), "{checks:?}");
        }
    }
}
