//! `bellwether serve`: run the agent.

use bellwether_daemon::{config::Flags, run};

use crate::{common::Common, error::CommandError};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keys of agent.toml.
    #[command(flatten)]
    pub flags: Flags,
    /// Finish a switch that a crash interrupted, then end; for a unit that starts before the services which the sets
    /// configure
    #[arg(long)]
    pub recover_only: bool,
    /// Stop when standard input ends, for a program that starts agents and may be killed
    #[arg(long, hide = true)]
    pub until_eof: bool,
}

/// Runs the command.
///
/// # Errors
/// The agent cannot start, or cannot continue.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let config = common.config(&args.flags)?;
    let options = run::Options { recover_only: args.recover_only, until_eof: args.until_eof };
    Ok(run::run(config, options).await?)
}
