//! What can go wrong at a balancer, said so that a person knows what to do.

use std::{error::Error, fmt::Write as _, io, path::PathBuf, time::Duration};

use bellwether_proto::{
    balancer::{Backend, BackendServer},
    name::{BalancerName, ServerName},
};

/// What went wrong at one balancer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody answers there.
    #[error("it cannot be reached at {address} from this machine")]
    Unreachable {
        /// The runtime API's address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It took the command and said nothing in time.
    #[error("it did not answer `{command}` within {} s", .patience.as_secs_f32())]
    Silent {
        /// What it was asked.
        command: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The answer has no end.
    #[error("it closed the connection before its answer to `{0}` had ended")]
    Cut(String),
    /// More than any HAProxy has to say.
    #[error("its answer to `{command}` is longer than {} MiB", super::haproxy::ANSWER >> 20)]
    TooLong {
        /// What it was asked.
        command: String,
    },
    /// The socket's level.
    #[error("it does not allow `{0}` over this socket: it has to be `level admin` (stats socket …)")]
    Level(String),
    /// It said no.
    #[error("it answered `{command}` with: {answer}")]
    Refused {
        /// What it was asked.
        command: String,
        /// What it said.
        answer: String,
    },
    /// Not what a runtime API says.
    #[error("its answer to `{command}` is not HAProxy's: {what}")]
    Rubbish {
        /// What it was asked.
        command: String,
        /// What is wrong with it.
        what: String,
    },
    /// A backend of the record that it does not have.
    #[error("it has no servers in a backend {0}, which the group record names; see: bellwether group show")]
    NoBackend(Backend),
    /// It took the command and did something else.
    #[error("it took the command, but {place} is {found} there, not {wanted}")]
    Ignored {
        /// Where.
        place: String,
        /// What it was told.
        wanted: &'static str,
        /// What it says now.
        found: String,
    },
    /// Somebody else's decision.
    #[error(
        "{0} is in maintenance there, which was set at the balancer and is left as it is; when it may serve again, set \
         it ready there, then ask again"
    )]
    Maintenance(String),
    /// Ready, and no traffic all the same.
    #[error("{place} is ready, but the balancer still holds it for down after {} s: {note}", .waited.as_secs_f32())]
    StillDown {
        /// Where.
        place: String,
        /// What the balancer says.
        note: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The record names it, this machine does not know how.
    #[error("agent.toml on this machine has no [[balancer]] named {name} of the kind {kind}")]
    NotHere {
        /// The balancer.
        name: BalancerName,
        /// nginx or command.
        kind: &'static str,
    },
    /// The upstream file, or the pid file.
    #[error("cannot {action} {path}")]
    File {
        /// read or write.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The upstream file has another form.
    #[error("{path}, line {line}: {what}; the file is as it was")]
    Upstream {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A command that ended badly, or not.
    #[error("{what} (`{command}`) {how}{}", said(.output))]
    Command {
        /// What it was for.
        what: &'static str,
        /// The command.
        command: String,
        /// How it ended.
        how: String,
        /// The last of what it printed.
        output: String,
    },
    /// A command that cannot be started.
    #[error("cannot run `{command}`")]
    Start {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// The upstream file is as it was; why it could not be put in force.
    #[error("{path} was put back as it was")]
    PutBack {
        /// The file.
        path: PathBuf,
        /// What failed.
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
        /// What it printed.
        line: String,
    },
    /// This process is stopping.
    #[error("this agent is stopping")]
    Stopping,
}

fn said(output: &str) -> String {
    if output.is_empty() { ", and printed nothing".to_owned() } else { format!(": {output}") }
}

/// What was asked of balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// No new traffic.
    Drain,
    /// Traffic again.
    Ready,
    /// Only a look.
    Look,
}

/// Why a server is not as it was asked to be at all balancers. Asking again is safe: what is done is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// No balancer has it.
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
    /// Servers of backends that no balancer has.
    #[error(
        "no balancer ({}) has {}, which the group record gives {server}; see: bellwether server set {server} --backend BACKEND/SERVER",
        list(.balancers), list(.places)
    )]
    NoPlace {
        /// The server.
        server: ServerName,
        /// Those that are not there.
        places: Vec<BackendServer>,
        /// All balancers.
        balancers: Vec<BalancerName>,
    },
    /// Some balancers failed.
    #[error("{}", failed(*.action, .server, .faults, .done))]
    Failed {
        /// What was asked.
        action: Action,
        /// For which server.
        server: ServerName,
        /// Which balancers did not do it, and why.
        faults: Vec<(BalancerName, Fault)>,
        /// Which did.
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
        // Whoever was to be looked at: it is about the balancer.
        return said;
    }
    let mut text = format!("{server} could not be {asked}; {said}");
    if !done.is_empty() {
        let _ = write!(text, "; at {} it {is}", list(done));
    }
    text
}

/// A fault with its causes, each said once.
pub fn chain(fault: &Fault) -> String {
    let mut text = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
