//! The command line: one file per command, each with its arguments and `run`.

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{common::Common, error::CommandError};

pub mod demo;
pub mod doctor;
pub mod monitor;
pub mod serve;
pub mod status;
pub mod wait;

/// Keeps the configuration directories of a web farm alike.
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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A farm on this machine, to try it
    Demo(demo::Args),
    /// What would go wrong: ports, names, clock, disk, watches, permissions
    Doctor(doctor::Args),
    /// Run the agent
    Serve(serve::Args),
    /// The farm, once
    Status(status::Args),
    /// The farm, live
    Monitor(monitor::Args),
    /// Wait until servers are in sync, for scripts
    Wait(wait::Args),
}

/// Runs one command.
///
/// # Errors
/// Why it did not do what was asked.
pub async fn run(command: Command, common: &Common) -> Result<(), CommandError> {
    match command {
        Command::Demo(args) => demo::run(args, common).await,
        Command::Doctor(args) => doctor::run(args, common).await,
        Command::Serve(args) => serve::run(args, common).await,
        Command::Status(args) => status::run(args, common).await,
        Command::Monitor(args) => monitor::run(args, common).await,
        Command::Wait(args) => wait::run(args, common).await,
    }
}

/// Sends the log to standard error: what `BELLWETHER_LOG` says, otherwise warnings, and for the daemon its life.
pub fn log_to_stderr(command: &Command) {
    let default = if matches!(command, Command::Serve(_)) { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("BELLWETHER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}
