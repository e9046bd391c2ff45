//! What this machine's agent.toml says of balancers: the files and commands that never come from the network.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bellwether_proto::name::BalancerName;
use tokio::sync::Mutex;

/// One `[[balancer]]` of agent.toml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its name in the group.
    pub name: BalancerName,
    /// How it is driven from here.
    pub kind: LocalKind,
}

/// How a balancer is driven from this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalKind {
    /// By an upstream file.
    Nginx(LocalNginx),
    /// By a command.
    Command(LocalCommand),
}

/// An nginx on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNginx {
    /// The upstream file.
    pub file: PathBuf,
    /// Where its master's process id is.
    pub pid: PathBuf,
    /// Tests the configuration.
    pub test: String,
    /// Has it read anew.
    pub reload: String,
    /// For each of the two commands.
    pub timeout: Duration,
}

/// A command for any other balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCommand {
    /// A line for the shell.
    pub command: String,
    /// How long it may take.
    pub timeout: Duration,
}

/// A definition, and whose turn it is: one file is changed by one at a time.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) kind: LocalKind,
    pub(super) turn: Mutex<()>,
}

/// The balancers that this machine's agent.toml defines. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Locals(Arc<BTreeMap<BalancerName, Arc<Kept>>>);

impl Locals {
    /// Those of agent.toml.
    pub fn new(definitions: impl IntoIterator<Item = Local>) -> Self {
        let kept = |Local { name, kind }| (name, Arc::new(Kept { kind, turn: Mutex::default() }));
        Self(Arc::new(definitions.into_iter().map(kept).collect()))
    }

    pub(super) fn get(&self, name: &BalancerName) -> Option<Arc<Kept>> {
        self.0.get(name).cloned()
    }
}
