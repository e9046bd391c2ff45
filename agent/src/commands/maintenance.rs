//! `bellwether maintenance start | finish`: takes a server out of service and the group, and brings it back (W18–W21).

use bellwether_proto::{
    name::ServerName,
    v1::{StartMaintenance, start_procedure_request::Procedure},
};
use clap::Subcommand;

use super::following::{self, Begin};
use crate::{common::Common, error::CommandError};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Drain a server and disable it; the manager first hands its role over
    Start {
        /// The server
        name: ServerName,
        /// The new manager, if NAME is the manager
        #[arg(long, value_name = "OTHER")]
        promote: Option<ServerName>,
        /// Remove the server from the group instead of disabling it
        #[arg(long)]
        remove: bool,
        #[command(flatten)]
        begin: Begin,
    },
    /// Add a server again, sync it, wait until it is complete, and undrain it
    Finish {
        /// The server
        name: ServerName,
        #[command(flatten)]
        begin: Begin,
    },
}

/// Runs the command.
///
/// # Errors
/// Refused before anything was done; failed or stopped at a step; timed out while the agent goes on.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::Start { name, promote, remove, begin } => {
            let promote = promote.map(String::from).unwrap_or_default();
            let start = StartMaintenance { server: name.into(), promote, remove };
            following::begin(common, &begin, "", Procedure::Start(start)).await
        }
        Action::Finish { name, begin } => following::begin(common, &begin, "", Procedure::Finish(name.into())).await,
    }
}
