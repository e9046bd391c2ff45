//! The balancers of this machine's agent.toml: files and commands that never come from the network.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bellwether_proto::name::BalancerName;
use tokio::sync::Mutex;

/// One `[[balancer]]` of agent.toml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its name in the group.
    pub name: BalancerName,
    /// The way it is driven from here.
    pub kind: LocalKind,
}

/// The way a balancer is driven from this machine.
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
    /// The pid file of its master.
    pub pid: PathBuf,
    /// The command that tests the configuration.
    pub test: String,
    /// The command that reloads it.
    pub reload: String,
    /// The limit for each of the two commands.
    pub timeout: Duration,
}

/// A command for any other balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCommand {
    /// A line for the shell.
    pub command: String,
    /// The limit of its time.
    pub timeout: Duration,
}

/// A definition, and the lock under which its file is changed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) kind: LocalKind,
    pub(super) turn: Mutex<()>,
}

/// The balancers that this machine's agent.toml defines. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Locals(Arc<BTreeMap<BalancerName, Arc<Kept>>>);

impl Locals {
    /// Takes the definitions of agent.toml.
    pub fn new(definitions: impl IntoIterator<Item = Local>) -> Self {
        let kept = |Local { name, kind }| (name, Arc::new(Kept { kind, turn: Mutex::default() }));
        Self(Arc::new(definitions.into_iter().map(kept).collect()))
    }

    pub(super) fn get(&self, name: &BalancerName) -> Option<Arc<Kept>> {
        self.0.get(name).cloned()
    }
}
