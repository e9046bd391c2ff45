//! The limit and the use of file descriptors. Each listener has its own number of slots, so connections to one take
//! nothing from another listener, from a sync, or from outgoing connections.

use std::{io, path::Path};

use bellwether_monitor::{agent_check, http, listening::Bounds};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::net::{socket, tls};

/// For files, directories that are watched or scanned, pipes and the runtime.
const FILES: usize = 256;
/// For each server of the group: a stream in, a stream out, and a question in each direction.
const SERVER: usize = 4;
/// The most slots for the group's servers.
const SERVERS: usize = 16_384;

/// All that others can make this process open, except for the group's own servers.
const fn for_others() -> usize {
    http::BOUNDS.all + agent_check::BOUNDS.all + tls::HANDSHAKES.all + tls::STRANGERS.all + socket::BOUNDS.all
}

/// The descriptors that a group of so many servers needs.
pub fn needed(servers: usize) -> u64 {
    (for_others() + FILES + SERVER * servers) as u64
}

/// The slots for connections of the group's servers within `limit` descriptors.
pub fn for_servers(limit: u64) -> Bounds {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let left = limit.saturating_sub(for_others() + FILES) / 2;
    Bounds { all: left.clamp(tls::EACH, SERVERS), each: tls::EACH }
}

/// Raises the soft limit to the hard one and returns it.
///
/// # Errors
/// The system refuses; the limit is unchanged.
pub fn raise() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// The limit and the number of open descriptors of a process; none if this user may not see it.
pub fn of(pid: i32) -> Option<(u64, usize)> {
    let process = Path::new("/proc").join(pid.to_string());
    let limits = std::fs::read_to_string(process.join("limits")).ok()?;
    let open = std::fs::read_dir(process.join("fd")).ok()?.count();
    Some((soft(&limits)?, open))
}

/// The soft limit of this process.
pub fn soft_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The hard limit, to which a process that is started here may raise its own.
pub fn here() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// The soft limit in `/proc/PID/limits` (proc(5)).
fn soft(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_their_own_within_the_usual_limit() {
        let servers = for_servers(1_024);
        assert!(for_others() + FILES + 2 * servers.all <= 1_024, "{} for others, {servers:?}", for_others());
        assert!(servers.all >= 8 * tls::EACH, "{servers:?}");
        assert_eq!(for_servers(u64::MAX).all, SERVERS);
        assert_eq!(for_servers(0).all, tls::EACH, "the manager gets in whatever the limit");
        assert!(needed(30) <= 1_024 && needed(4_096) > 1_024);
    }

    #[test]
    fn the_limit_of_a_process_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!((soft(limits), soft("")), (Some(1_024), None));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(of(own).is_some_and(|(limit, open)| open > 2 && limit >= open as u64));
    }
}
