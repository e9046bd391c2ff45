//! Two networks: the manager's, which is this program's own, and the members', with an address for each. One link joins them;
//! its rate can be limited in both directions, and its bytes are counted.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::{
    problem::{Problem, Result},
    run::{run, what},
};

/// The manager's address.
pub(crate) const MANAGER: &str = "10.89.0.1";
/// The manager's end of the link.
const NEAR: &str = "manager0";
/// The members' end.
const FAR: &str = "members0";
/// The name of the members' network.
const NAME: &str = "members";

/// The address of member `index`, counted from 1.
pub(crate) fn member(index: usize) -> String {
    format!("10.89.1.{index}")
}

/// The rate of the link between the manager and all members together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Link {
    /// The machine's own speed.
    Unlimited,
    /// 1 Gbit/s.
    Gigabit,
    /// 100 Mbit/s.
    Fast,
}

impl Link {
    /// The rate's word in tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unlimited => "unlimited",
            Self::Gigabit => "1 Gbit/s",
            Self::Fast => "100 Mbit/s",
        }
    }

    /// The rate in tc's form.
    fn rate(self) -> Option<&'static str> {
        match self {
            Self::Unlimited => None,
            Self::Gigabit => Some("1gbit"),
            Self::Fast => Some("100mbit"),
        }
    }
}

/// The side of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Manager,
    Members,
}

/// The networks.
#[derive(Debug)]
pub(crate) struct Network {
    members: File,
}

impl Network {
    /// Makes the networks, with addresses for that number of members.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(members: usize) -> Result<Self> {
        let ip = |line: &str| run(Command::new("ip").args(line.split_whitespace())).map(drop);
        ip("link set lo up")?;
        ip(&format!("netns add {NAME}"))?;
        ip(&format!("link add {NEAR} type veth peer name {FAR} netns {NAME}"))?;
        ip(&format!("addr add {MANAGER}/16 dev {NEAR}"))?;
        ip(&format!("link set {NEAR} up"))?;
        ip(&format!("-n {NAME} link set lo up"))?;
        for index in 1..=members {
            ip(&format!("-n {NAME} addr add {}/16 dev {FAR}", member(index)))?;
        }
        ip(&format!("-n {NAME} link set {FAR} up"))?;
        let path = std::path::Path::new("/run/netns").join(NAME);
        let members = File::open(&path).map_err(Problem::with("open", &path))?;
        Ok(Self { members })
    }

    /// Sets the rate of the link.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn set(&self, link: Link) -> Result<()> {
        for (side, device) in [(Side::Manager, NEAR), (Side::Members, FAR)] {
            let mut tc = Command::new("tc");
            // A veth without a limit has only its usual queue, which cannot be deleted.
            let _ = self.output(side, Command::new("tc").args(["qdisc", "del", "dev", device, "root"]));
            let Some(rate) = link.rate() else { continue };
            tc.args(["qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]);
            self.output(side, &mut tc)?;
        }
        Ok(())
    }

    fn output(&self, side: Side, command: &mut Command) -> Result<String> {
        self.at(side, || run(command))?
    }

    /// Starts a program on one side.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn spawn(&self, side: Side, command: &mut Command) -> Result<Child> {
        let what = what(command);
        self.at(side, || command.spawn())?.map_err(|e| Problem::new(format!("cannot start {what}: {e}")))
    }

    /// Runs `f` on one side: a thread's children are in the thread's network.
    fn at<T: Send>(&self, side: Side, action: impl FnOnce() -> T + Send) -> Result<T> {
        if side == Side::Manager {
            return Ok(action());
        }
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(self.members.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok::<T, io::Error>(action())
            });
            there.join().expect("it does not panic").map_err(|e| Problem::new(format!("cannot enter a network: {e}")))
        })
    }

    /// Bytes on the link, in both directions.
    pub(crate) fn bytes(&self) -> u64 {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        counted(&table, NEAR).unwrap_or(0)
    }
}

/// Bytes received and sent, from the table of /proc/net/dev.
fn counted(table: &str, device: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let mut columns = line.split_whitespace().map(|column| column.parse::<u64>().unwrap_or(0));
    Some(columns.next()? + columns.nth(7)?)
}

/// Waits until a program listens there.
///
/// # Errors
/// No program listens after `patience`.
pub(crate) fn wait_listening(address: &str, patience: Duration) -> Result<()> {
    let parsed: SocketAddr = address.parse().map_err(|e| Problem::new(format!("{address}: {e}")))?;
    let began = Instant::now();
    while let Err(error) = TcpStream::connect_timeout(&parsed, patience) {
        if began.elapsed() > patience {
            return Err(Problem::new(format!("nothing listens at {address} after {patience:?}: {error}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_both_directions_count() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets …\n    lo: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n\
                     manager0:     100 1 0 0 0 0 0 0 23 4 0 0 0 0 0 0\n";
        assert_eq!(counted(table, "manager0"), Some(123));
        assert_eq!(counted(table, "lo"), Some(10));
        assert_eq!(counted(table, "eth0"), None);
    }
}
