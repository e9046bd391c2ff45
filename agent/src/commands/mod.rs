//! The command line: one file per command, with its arguments and `run`, and the modules that commands share.

use std::io::IsTerminal;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{common::Common, error::CommandError, output::Log};

mod change;
mod differences;
mod farm;
mod following;
mod past;
mod rebuild;
mod record;
mod starter;
mod target;

pub mod batch;
pub mod confirm;
pub mod debug;
pub mod demo;
pub mod diff;
pub mod discard;
pub mod doctor;
pub mod drift;
pub mod edit;
pub mod forget;
pub mod get;
pub mod group;
pub mod init;
pub mod inside_view;
pub mod join;
pub mod leave;
pub mod log;
pub mod maintenance;
pub mod monitor;
pub mod pause;
pub mod procedure;
pub mod promote;
pub mod publish;
pub mod put;
pub mod quarantine;
pub mod recover;
pub mod resume;
pub mod rm;
pub mod rollback;
pub mod rollout;
pub mod serve;
pub mod server;
pub mod show;
pub mod status;
pub mod sync;
pub mod token;
pub mod tree;
pub mod verify;
pub mod wait;

/// Keeps configuration directories identical on all servers of a web farm.
#[derive(Debug, Parser)]
#[command(name = "bellwether", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Declares the commands: their order in the enum, their line of help, and their module.
macro_rules! commands {
    ($($(#[$attribute:meta])* $name:ident = $module:ident;)*) => {
        /// The commands.
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $($(#[$attribute])* $name($module::Args),)*
        }

        /// Runs one command.
        ///
        /// # Errors
        /// The reason why the command did not do its work.
        pub async fn run(command: Command, common: &Common) -> Result<(), CommandError> {
            match command {
                $(Command::$name(args) => $module::run(args, common).await,)*
            }
        }
    };
}

commands! {
    /// Run a farm on this machine, to try Bellwether
    Demo = demo;
    /// Check this server: ports, names, clock, disk, watches, permissions
    Doctor = doctor;
    /// Form a group on this server, which becomes its manager
    Init = init;
    /// Enter a group with a token
    Join = join;
    /// Run the agent
    Serve = serve;
    /// Forget the group on this machine; its configuration does not change
    Leave = leave;
    /// Show the state of all servers
    Status = status;
    /// Show the state of all servers live
    Monitor = monitor;
    /// Wait until servers are in sync, for scripts
    Wait = wait;
    /// Publish the edits in the manager's directories as a revision
    Publish = publish;
    /// Confirm a revision that was published with --confirm-within: no server goes back
    Confirm = confirm;
    /// Drop edits in the manager's directories that are not published
    Discard = discard;
    /// Run a command, then publish its edits once if it succeeds, or put them back
    Batch = batch;
    /// Hold propagation: send no changes to the members
    Pause = pause;
    /// End a pause: send changes to the members again
    Resume = resume;
    /// Bring servers to the manager's state
    Sync = sync;
    /// Hash the files on the disks of servers and compare them with the revision
    Verify = verify;
    /// Change one file through any server
    Put = put;
    /// Print one file of the head revision, or of an earlier one
    Get = get;
    /// Remove one file through any server
    Rm = rm;
    /// Edit one file through any server
    Edit = edit;
    /// Show edits that were made on members, publish them, or put the manager's state back
    Drift = drift;
    /// List the entries of the revision that this server holds, or of an earlier one
    Tree = tree;
    /// List the revisions of the manager's history, newest first
    Log = log;
    /// Show one revision: who made it, when and why, and the entries that it changed
    Show = show;
    /// Show the differences between two revisions, or of the manager's sets from the head
    Diff = diff;
    /// Publish the content of an earlier revision as a new one
    Rollback = rollback;
    /// Erase the earlier contents of a file, such as a leaked secret, from every history
    Forget = forget;
    /// Show, continue and stop the rollout of a revision in waves
    Rollout = rollout;
    /// Make another server the manager, or this server when the manager is lost
    Promote = promote;
    /// List and change the servers of the group
    Server = server;
    /// Take a server out of service for maintenance, and bring it back
    Maintenance = maintenance;
    /// Recover from the loss of a member (at the manager) or of the manager (at a candidate)
    Recover = recover;
    /// List, resume and abort procedures of maintenance and recovery
    Procedure = procedure;
    /// List and lift quarantines: input that ended the agent three times and is ignored now
    Quarantine = quarantine;
    /// Show and change the group record and its settings
    Group = group;
    /// Create, list and revoke join tokens
    Token = token;
    /// Print the agent's files and the state of the running agent as JSON
    Debug = debug;
    /// Run a command that sees staged files at their places (the agent calls this)
    #[command(hide = true)]
    InsideView = inside_view;
}

impl Command {
    /// The runtime for the command. A command that only asks an agent needs no threads, and ends sooner without them.
    pub fn runtime(&self) -> tokio::runtime::Builder {
        if matches!(self, Self::Serve(_) | Self::Demo(_) | Self::Doctor(_) | Self::Init(_) | Self::Join(_)) {
            tokio::runtime::Builder::new_multi_thread()
        } else {
            tokio::runtime::Builder::new_current_thread()
        }
    }
}

/// The variable that holds the filter of the log. docs/maintainers.md describes its syntax.
const FILTER: &str = "BELLWETHER_LOG";

/// Sends the log to standard error, filtered by `BELLWETHER_LOG`, otherwise warnings, and for the daemon its main
/// events. A line names its module and its spans.
pub fn log_to_stderr(command: &Command) {
    let default = if matches!(command, Command::Serve(_)) { "info" } else { "warn" };
    let asked = std::env::var(FILTER).ok().filter(|filter| !filter.is_empty());
    let (filter, wrong) = match asked.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(default), Some(error)),
        None => (EnvFilter::new(default), None),
    };
    let coloured = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(Log { coloured }).with_ansi(coloured).init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "{FILTER} cannot be parsed and is ignored");
    }
}

#[cfg(test)]
mod advice;
#[cfg(test)]
mod tests;
