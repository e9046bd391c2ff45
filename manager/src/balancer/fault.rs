//! Faults of a balancer, with what to do.

use std::{error::Error, fmt::Write as _, io, path::PathBuf, time::Duration};

use bellwether_proto::{
    balancer::{Backend, BackendServer},
    name::{BalancerName, ServerName},
};

/// A fault of one balancer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nothing answers at the address.
    #[error("it cannot be reached at {address} from this machine")]
    Unreachable {
        /// The runtime API's address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// It took the command and did not answer in time.
    #[error("it did not answer `{command}` within {} s", .patience.as_secs_f32())]
    Silent {
        /// The command.
        command: String,
        /// The time waited.
        patience: Duration,
    },
    /// The answer has no end.
    #[error("it closed the connection before its answer to `{0}` had ended")]
    Cut(String),
    /// The answer is longer than any HAProxy sends.
    #[error("its answer to `{command}` is longer than {} MiB", super::haproxy::ANSWER >> 20)]
    TooLong {
        /// The command.
        command: String,
    },
    /// The socket's level is too low.
    #[error("it does not allow `{0}` over this socket: it has to be `level admin` (stats socket …)")]
    Level(String),
    /// It refused.
    #[error("it answered `{command}` with: {answer}")]
    Refused {
        /// The command.
        command: String,
        /// The answer.
        answer: String,
    },
    /// The answer is not one of a runtime API.
    #[error("its answer to `{command}` is not HAProxy's: {what}")]
    Rubbish {
        /// The command.
        command: String,
        /// The error in it.
        what: String,
    },
    /// It lacks a backend of the record.
    #[error("it has no servers in a backend {0}, which the group record names; see: bellwether group show")]
    NoBackend(Backend),
    /// It took the command and had another result.
    #[error("it took the command, but {place} is {found} there, not {wanted}")]
    Ignored {
        /// The place.
        place: String,
        /// The wanted standing.
        wanted: &'static str,
        /// The standing found.
        found: String,
    },
    /// The server is in maintenance by another decision.
    #[error(
        "{0} is in maintenance there, which was set at the balancer and is left as it is; when it may serve again, set \
         it ready there, then ask again"
    )]
    Maintenance(String),
    /// The server is ready, but gets no traffic.
    #[error("{place} is ready, but the balancer still considers it down after {} s: {note}", .waited.as_secs_f32())]
    StillDown {
        /// The place.
        place: String,
        /// The balancer's note.
        note: String,
        /// The time waited.
        waited: Duration,
    },
    /// The record names it, but agent.toml here does not define it.
    #[error("agent.toml on this machine has no [[balancer]] named {name} of the kind {kind}")]
    NotHere {
        /// The balancer.
        name: BalancerName,
        /// nginx or command.
        kind: &'static str,
    },
    /// The upstream file or the pid file fails.
    #[error("cannot {action} {path}")]
    File {
        /// read or write.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The upstream file has another form.
    #[error("{path}, line {line}: {what}; the file is as it was")]
    Upstream {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The error.
        what: String,
    },
    /// A command that failed or did not end.
    #[error("{what} (`{command}`) {how}{}", said(.output))]
    Command {
        /// Its purpose.
        what: &'static str,
        /// The command.
        command: String,
        /// How it ended.
        how: String,
        /// The end of its output.
        output: String,
    },
    /// A command that cannot be started.
    #[error("cannot run `{command}`")]
    Start {
        /// The command.
        command: String,
        /// The cause.
        source: io::Error,
    },
    /// The upstream file could not be put in force and was put back.
    #[error("{path} was put back as it was")]
    PutBack {
        /// The file.
        path: PathBuf,
        /// The failure.
        source: Box<Fault>,
    },
    /// The nginx of the pid file.
    #[error("{0}")]
    Nginx(String),
    /// The command's status.
    #[error(
        "the last line that `{command}` printed for BELLWETHER_ACTION=status is '{line}'; it has to be serving, drained, \
         maintenance, down or absent, and behind that the number of sessions"
    )]
    Status {
        /// The command.
        command: String,
        /// Its output.
        line: String,
    },
    /// This process is stopping.
    #[error("this agent is stopping")]
    Stopping,
}

fn said(output: &str) -> String {
    if output.is_empty() { ", and printed nothing".to_owned() } else { format!(": {output}") }
}

/// A request to balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send no new traffic.
    Drain,
    /// Send traffic again.
    Ready,
    /// Only look.
    Look,
}

/// Not all balancers treat the server as requested. A repeated request is safe: a finished part is not done again.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// No balancer has the server.
    #[error(
        "no balancer ({}) has a server named {server}; nothing was changed; if it has another name there: bellwether \
         server set {server} --backend BACKEND/SERVER; if it takes no traffic: --backend none", list(.balancers)
    )]
    Absent {
        /// The server.
        server: ServerName,
        /// All of them.
        balancers: Vec<BalancerName>,
    },
    /// No balancer has some of the server's backend servers.
    #[error(
        "no balancer ({}) has {}, which the group record gives {server}; see: bellwether server set {server} --backend BACKEND/SERVER",
        list(.balancers), list(.places)
    )]
    NoPlace {
        /// The server.
        server: ServerName,
        /// The missing ones.
        places: Vec<BackendServer>,
        /// All balancers.
        balancers: Vec<BalancerName>,
    },
    /// Some balancers failed.
    #[error("{}", failed(*.action, .server, .faults, .done))]
    Failed {
        /// The request.
        action: Action,
        /// Its server.
        server: ServerName,
        /// The balancers that failed, and why.
        faults: Vec<(BalancerName, Fault)>,
        /// The balancers that succeeded.
        done: Vec<BalancerName>,
    },
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn failed(action: Action, server: &ServerName, faults: &[(BalancerName, Fault)], done: &[BalancerName]) -> String {
    let (asked, is) = match action {
        Action::Drain => ("drained", "is drained"),
        Action::Ready | Action::Look => ("made ready", "is ready"),
    };
    let said: Vec<_> = faults.iter().map(|(name, fault)| format!("balancer {name}: {}", chain(fault))).collect();
    let said = said.join("; ");
    if action == Action::Look {
        // A look concerns the balancer, not the server.
        return said;
    }
    let mut text = format!("{server} could not be {asked}; {said}");
    if !done.is_empty() {
        let _ = write!(text, "; at {} it {is}", list(done));
    }
    text
}

/// A fault with its causes, each once.
pub fn chain(fault: &Fault) -> String {
    let mut text = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
