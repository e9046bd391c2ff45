//! A farm of real agents on loopback. Each server has its own directory, ports and processes, which are removed with the farm.

mod balancer;
pub(crate) mod compare;
pub(crate) mod gate;
mod http;
mod network;
mod ports;
mod program;
pub(crate) mod random;
mod server;
mod wait;

use std::{path::PathBuf, sync::Arc};

use bellwether_proto::status::{FarmStatus, ServerStatus, State};
use tempfile::TempDir;

pub(crate) use balancer::Balancer;
pub(crate) use http::{Answer, get, get_as};
pub(crate) use network::Network;
pub(crate) use ports::free as free_port;
use program::bellwether_inside;
pub(crate) use program::{Output, PROGRAM, bellwether, run, run_with_input};
pub(crate) use server::Server;
pub(crate) use wait::{DEADLINE, wait_for};

/// The plan of a farm.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    sets: Vec<String>,
    members: usize,
    network: Option<Arc<Network>>,
}

impl Plan {
    /// Whether each server is in its own network.
    pub(crate) fn on(mut self, network: &Arc<Network>) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Sets the number of members beside the manager.
    pub(crate) fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Uses these sets instead of the one named `web`.
    pub(crate) fn sets(mut self, names: &[&str]) -> Self {
        self.sets = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Makes only the servers' directories, for tests of `init` and `join` themselves.
    pub(crate) fn unformed(self) -> Farm {
        let dir = tempfile::Builder::new().prefix("farm-").tempdir().expect("a directory for the farm");
        let name = |index: usize| if index == 0 { "manager".to_owned() } else { format!("member{index}") };
        let server = |index| {
            let mut server = Server::new(dir.path(), &name(index), &self.sets);
            if let Some(network) = &self.network {
                server.put_into(network.namespace(index), Network::listen(index));
            }
            server
        };
        let servers = (0..=self.members).map(server).collect();
        Farm { servers, leads: 0, dir: Some(dir), _network: self.network }
    }

    /// Forms the group at the manager, admits every member and waits until all are in sync.
    pub(crate) fn start(self) -> Farm {
        self.start_with(|_| {})
    }

    /// As [`Plan::start`], but `fill` fills the manager's directories before the group is formed.
    pub(crate) fn start_with(self, fill: impl FnOnce(&Server)) -> Farm {
        let mut farm = self.unformed();
        fill(farm.manager());
        farm.form();
        for index in 1..farm.servers.len() {
            farm.admit(index);
        }
        farm.wait_in_sync();
        farm
    }
}

/// The servers of one test. The first one is the manager, until the test changes that.
pub(crate) struct Farm {
    servers: Vec<Server>,
    leads: usize,
    dir: Option<TempDir>,
    /// Removed after the servers.
    _network: Option<Arc<Network>>,
}

impl Farm {
    /// The plan of a manager without members and with one set, `web`.
    pub(crate) fn plan() -> Plan {
        Plan { sets: vec!["web".to_owned()], members: 0, network: None }
    }

    /// Runs `init` at the manager and starts its agent.
    pub(crate) fn form(&mut self) {
        let manager = &mut self.servers[0];
        manager.init().success();
        manager.start();
    }

    /// Creates a token, runs `join` at that member and starts its agent.
    pub(crate) fn admit(&mut self, index: usize) {
        let token = self.token(&[]);
        let member = &mut self.servers[index];
        member.join(&token).success();
        member.start();
    }

    /// A new join token, created with these arguments.
    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        let arguments = [&["token", "create"], arguments].concat();
        self.manager().command(&arguments).success().stdout.trim().to_owned()
    }

    /// The manager.
    pub(crate) fn manager(&self) -> &Server {
        &self.servers[self.leads]
    }

    /// Makes server `index` the manager for the test from now on.
    pub(crate) fn led_by(&mut self, index: usize) {
        self.leads = index;
    }

    /// Server `index` in any role.
    pub(crate) fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    /// Member `index`, counted from 1.
    pub(crate) fn member(&self, index: usize) -> &Server {
        assert!(index > 0, "members are counted from 1");
        &self.servers[index]
    }

    /// Server `index`; 0 is the manager.
    pub(crate) fn server_mut(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }

    /// All members.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().enumerate().filter(|(index, _)| *index != self.leads).map(|(_, server)| server)
    }

    /// The directory of the farm.
    pub(crate) fn directory(&self) -> PathBuf {
        self.dir.as_ref().expect("a farm has its directory until it is dropped").path().to_owned()
    }

    /// The manager's status of the farm.
    pub(crate) fn status(&self) -> FarmStatus {
        self.manager().status().expect("the manager's status")
    }

    /// Waits until server `index` considers itself the manager, in an epoch above the first.
    pub(crate) fn wait_leads(&self, index: usize) -> FarmStatus {
        let server = &self.servers[index];
        wait_for(&format!("{} leading", server.name), DEADLINE, || {
            let status = server.status()?;
            let own = status.observer == status.manager && status.observer.as_str() == server.name;
            let leads = own && status.head.is_some_and(|head| head.epoch.0 > 1);
            if leads { Ok(status) } else { Err(summary(&status)) }
        })
    }

    /// The manager's status of one server.
    pub(crate) fn status_of(&self, server: &Server) -> ServerStatus {
        one(&self.status(), &server.name).cloned().unwrap_or_else(|| panic!("no {} in the status", server.name))
    }

    /// Waits until the manager's status fulfils `fits`, and returns it.
    pub(crate) fn wait_status(&self, what: &str, fits: impl Fn(&FarmStatus) -> bool) -> FarmStatus {
        wait_for(what, DEADLINE, || {
            let status = self.manager().status()?;
            if fits(&status) { Ok(status) } else { Err(summary(&status)) }
        })
    }

    /// Waits until the manager shows `server` in a state that `fits`.
    pub(crate) fn wait_server(
        &self,
        server: &Server,
        what: &str,
        fits: impl Fn(&ServerStatus) -> bool,
    ) -> ServerStatus {
        let status = self.wait_status(&format!("{}: {what}", server.name), |s| one(s, &server.name).is_some_and(&fits));
        one(&status, &server.name).cloned().expect("it was just there")
    }

    /// Waits until the manager has published everything, and every server that gets revisions is in sync at the head.
    pub(crate) fn wait_in_sync(&self) -> FarmStatus {
        self.wait_status("every server in sync at the head", |status| self.all_in_sync(status))
    }

    fn all_in_sync(&self, status: &FarmStatus) -> bool {
        let in_sync = |s: &ServerStatus| s.state == State::InSync && s.revision == status.head;
        status.head.is_some()
            && status.unpublished.is_none()
            && status.servers.len() >= self.servers.iter().filter(|s| s.runs()).count()
            && status.servers.iter().all(|s| s.state == State::Disabled || in_sync(s))
    }

    /// Whether every server is in sync at this moment.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.manager().status().is_ok_and(|status| self.all_in_sync(&status))
    }

    /// Waits until every running member holds the content of the manager's directories, and the monitor agrees.
    pub(crate) fn wait_equal(&self) -> FarmStatus {
        for member in self.members().filter(|m| m.runs()) {
            self.wait_same(member);
        }
        self.wait_in_sync()
    }

    /// Waits until `member`'s sets hold the same as the manager's.
    pub(crate) fn wait_same(&self, member: &Server) {
        wait_for(&format!("{} holding the manager's content", member.name), DEADLINE, || {
            match self.first_difference(member) {
                None => Ok(()),
                Some(difference) => {
                    let state = self.manager().status().map_or_else(|e| e, |s| summary(&s));
                    Err(format!("{difference}\n{state}"))
                }
            }
        });
    }

    /// Waits until `member` has the manager's content of one file in the set `web`.
    pub(crate) fn wait_same_file(&self, member: &Server, path: &str) {
        let expected = std::fs::read(self.manager().web(path)).expect("the manager's file");
        wait_for(&format!("{}: {path}", member.name), DEADLINE, || match std::fs::read(member.web(path)) {
            Ok(found) if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }

    fn first_difference(&self, member: &Server) -> Option<String> {
        self.manager().sets.iter().find_map(|set| {
            compare::difference(&set.path, member.set(&set.name)).map(|what| format!("set {}: {what}", set.name))
        })
    }

    /// Asserts by rsync that every running member's sets equal the manager's.
    pub(crate) fn assert_equal(&self) {
        for member in self.members().filter(|m| m.runs()) {
            for set in &self.manager().sets {
                compare::assert_equal_by_rsync(&set.path, member.set(&set.name));
            }
        }
    }
}

/// That server in a status.
pub(crate) fn one<'a>(status: &'a FarmStatus, name: &str) -> Option<&'a ServerStatus> {
    status.servers.iter().find(|s| s.name.as_str() == name)
}

/// A status in a few lines, for a failed wait.
pub(crate) fn summary(status: &FarmStatus) -> String {
    let head = status.head.map_or("none".to_owned(), |n| n.to_string());
    let mut text = format!(
        "head {head}, paused {}, unpublished {:?}, watching {}",
        status.paused, status.unpublished, status.watching
    );
    for s in &status.servers {
        let revision = s.revision.map_or("none".to_owned(), |n| n.to_string());
        text += &format!("\n  {}: {:?} at {revision}, {} behind", s.name, s.state, s.lag_revisions);
        if let Some(reason) = &s.reason {
            text += &format!(" ({reason})");
        }
        if s.drift_entries > 0 {
            text += &format!(", drift {:?}", s.drift);
        }
    }
    text
}

impl Drop for Farm {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.kill();
        }
        if std::thread::panicking() {
            self.servers.iter().for_each(Server::print_log);
        }
        if std::env::var_os("KEEP_FARM").is_some() {
            eprintln!("the farm is kept in {}", self.dir.take().expect("not dropped yet").keep().display());
        }
    }
}
