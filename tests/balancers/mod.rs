//! A web site in front of a farm: a real HAProxy, an nginx on each server that serves the server's set, and a client that
//! sends requests through HAProxy without a pause.
//!
//! ```text
//! client ═══ several connections ═══▶ HAProxy ──▶ nginx of each server ──▶ its set `web`
//!                                        └─ checks GET /bellwether/ready at nginx, which asks the server's agent
//! ```

mod client;
mod haproxy;
mod nginx;

use std::{collections::BTreeMap, path::PathBuf};

use bellwether_manager::balancer::{Balancers, Locals, Patience};
use bellwether_proto::{balancer::Balancer, record};
use serde_json::Value;

pub(crate) use client::{Client, Slow};
pub(crate) use haproxy::{Check, Haproxy, program as haproxy_program};
pub(crate) use nginx::{Nginx, program as nginx_program};

use crate::farm::{Farm, Server};

/// The page that clients request.
pub(crate) const PAGE: &str = "index.html";

/// A site.
pub(crate) struct Site {
    /// The balancer.
    pub(crate) haproxy: Haproxy,
    nginxes: BTreeMap<String, Nginx>,
    places: Vec<haproxy::BackendServer>,
    home: PathBuf,
}

impl Site {
    /// An nginx for every server of the farm, and a HAProxy that asks their agents through nginx. When this returns, all
    /// servers take traffic.
    pub(crate) fn start(farm: &Farm) -> Self {
        let site = Self::checked(farm, Check::Relay);
        site.nginxes.keys().for_each(|server| site.haproxy.wait_status(server, "UP"));
        site
    }

    /// As [`Site::start`], with another way of checking the servers, and without waiting for them.
    pub(crate) fn checked(farm: &Farm, check: Check) -> Self {
        if !farm.manager().web(PAGE).exists() {
            farm.manager().write(PAGE, "<p>page</p>");
            farm.wait_equal();
        }
        let home = farm.directory().join("site");
        let servers: Vec<&Server> = std::iter::once(farm.manager()).chain(farm.members()).collect();
        let nginx = |server: &&Server| (server.name.clone(), Nginx::start(&home, server));
        let nginxes: BTreeMap<_, _> = servers.iter().map(nginx).collect();
        let places = servers.iter().map(|server| haproxy::BackendServer {
            name: server.name.clone(),
            address: nginxes[&server.name].address.clone(),
            agent_check: server.agent_check.clone(),
        });
        let places: Vec<_> = places.collect();
        let haproxy = Haproxy::start(&home, "lb1", places.clone(), check);
        Self { haproxy, nginxes, places, home }
    }

    /// Another HAProxy in front of the same servers.
    pub(crate) fn another(&self, name: &str) -> Haproxy {
        let haproxy = Haproxy::start(&self.home, name, self.places.clone(), Check::Relay);
        self.nginxes.keys().for_each(|server| haproxy.wait_status(server, "UP"));
        haproxy
    }

    /// The nginx of that server.
    pub(crate) fn nginx(&mut self, server: &str) -> &mut Nginx {
        self.nginxes.get_mut(server).unwrap_or_else(|| panic!("no nginx on {server}"))
    }

    /// Clients that request [`PAGE`] from now on.
    pub(crate) fn client(&self) -> Client {
        Client::start(&self.haproxy.address)
    }

    /// A session that lasts until it is dropped, and its server.
    pub(crate) fn slow_session(&self) -> Slow {
        Slow::open(&self.haproxy.address)
    }

    /// Names the balancer in the group record.
    pub(crate) fn register(&self, farm: &Farm) {
        farm.manager().command(&["group", "set", "--balancer", &self.haproxy.text()]).success();
    }

    /// The balancer as the record would name it; the test drives it.
    pub(crate) fn balancers(&self) -> Balancers {
        balancers(&[&self.haproxy.text()])
    }
}

/// Balancers as the record would name them; the test drives them.
pub(crate) fn balancers(texts: &[&str]) -> Balancers {
    let balancers: Vec<Balancer> = texts.iter().map(|text| text.parse().expect("a balancer")).collect();
    Balancers::patient(&balancers, &Locals::default(), Patience::default())
}

/// That server in the group record.
pub(crate) fn in_record(farm: &Farm, name: &str) -> record::Server {
    let output = farm.manager().command(&["server", "list", "--json"]).success();
    let list: Value = serde_json::from_str(&output.stdout).expect("the list as JSON");
    let servers: Vec<record::Server> = serde_json::from_value(list["servers"].clone()).expect("servers");
    servers.into_iter().find(|server| server.name.as_str() == name).unwrap_or_else(|| panic!("no {name} in {output}"))
}

/// Runs what is asynchronous to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}
