//! A network for each server of a farm, joined by a bridge that can fall into parts. It needs root.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use bellwether_skip::skip;

use super::run;

/// The directory with the namespaces' names.
const NAMES: &str = "/run/netns";
/// The port on which agents listen for servers, each at its own address.
const PORT: u16 = 7100;
/// The most parts of the network.
const PARTS: usize = 3;

/// The network of one farm, which is removed with it.
#[derive(Debug)]
pub(crate) struct Network {
    /// The namespace of the bridges, one for each part.
    hub: String,
    /// The namespace of each server.
    nodes: Vec<String>,
}

impl Network {
    /// A network for that number of servers; none if it cannot be made here, with the reason printed.
    pub(crate) fn new(servers: usize) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            skip("a network for each server", "it needs root");
            return None;
        }
        let prefix = format!("bw{}x{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let hub = format!("{prefix}hub");
        if let Err(why) = try_ip(&format!("netns add {hub}")) {
            skip("a network for each server", format!("this system makes no network namespaces: {why}"));
            return None;
        }
        let mut network = Self { hub, nodes: Vec::new() };
        for part in 0..PARTS {
            network.hub(&format!("link add part{part} type bridge"));
            network.hub(&format!("link set part{part} up"));
        }
        for index in 0..servers {
            network.add(&format!("{prefix}n{index}"));
        }
        Some(network)
    }

    fn add(&mut self, node: &str) {
        let index = self.nodes.len();
        ip(&format!("netns add {node}"));
        self.nodes.push(node.to_owned());
        self.hub(&format!("link add port{index} type veth peer name eth0 netns {node}"));
        self.hub(&format!("link set port{index} master part0"));
        self.hub(&format!("link set port{index} up"));
        ip(&format!("-n {node} link set lo up"));
        ip(&format!("-n {node} addr add {}/24 dev eth0", address(index)));
        ip(&format!("-n {node} link set eth0 up"));
    }

    fn hub(&self, line: &str) {
        ip(&format!("-n {} {line}", self.hub));
    }

    /// The address at which server `index` listens.
    pub(crate) fn listen(index: usize) -> String {
        format!("{}:{PORT}", address(index))
    }

    /// The namespace of server `index`.
    pub(crate) fn namespace(&self, index: usize) -> PathBuf {
        Path::new(NAMES).join(&self.nodes[index])
    }

    /// Splits the network into these parts, without any traffic between them. A server in no part is with the first.
    pub(crate) fn split(&self, parts: &[&[usize]]) {
        assert!(parts.len() <= PARTS, "at most {PARTS} parts");
        for index in 0..self.nodes.len() {
            let part = parts.iter().position(|part| part.contains(&index)).unwrap_or(0);
            self.hub(&format!("link set port{index} master part{part}"));
        }
    }

    /// Makes the network whole again.
    pub(crate) fn heal(&self) {
        self.split(&[]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.nodes.iter().chain([&self.hub]) {
            // The test is over, so the rest is only reported.
            if let Err(why) = try_ip(&format!("netns del {name}")) {
                eprintln!("the network namespace {name} is left over: {why}");
            }
        }
    }
}

fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

#[track_caller]
fn ip(line: &str) {
    try_ip(line).unwrap_or_else(|why| panic!("ip {line}: {why}"));
}

fn try_ip(line: &str) -> Result<(), String> {
    let output = run(Command::new("ip").args(line.split_whitespace()));
    if output.code == Some(0) { Ok(()) } else { Err(output.stderr.trim().to_owned()) }
}
