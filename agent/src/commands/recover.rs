//! `bellwether recover member | manager`: recovers from the loss of a server (W22–W25, W27).

use bellwether_proto::{
    name::ServerName,
    v1::{RecoverManager, RecoverMember, start_procedure_request::Procedure},
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
    /// At the manager: drain and disable a lost member, and bring it back when it is repaired
    Member {
        /// The member
        name: ServerName,
        #[command(flatten)]
        lost: Lost,
        #[command(flatten)]
        begin: Begin,
    },
    /// At a candidate: take over from a lost manager. Changes that only the lost manager had are listed, not published
    Manager {
        #[command(flatten)]
        lost: Lost,
        /// Take over although the manager answers (two managers are possible then), or although another candidate has newer
        /// changes (they are lost)
        #[arg(long)]
        force: bool,
        /// Publish the edits that were made on this server, for all servers
        #[arg(long)]
        accept: bool,
        #[command(flatten)]
        begin: Begin,
    },
}

#[derive(Debug, clap::Args)]
struct Lost {
    /// Your statement that the lost machine is off the network and out of the load balancer; the text is recorded
    #[arg(long, value_name = "TEXT", default_value = "")]
    attest: String,
    /// Remove the server from the group instead of disabling it
    #[arg(long)]
    remove: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused before anything was done; failed or stopped at a step or a question; timed out while the agent goes on.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::Member { name, lost: Lost { attest, remove }, begin } => {
            let member = RecoverMember { server: name.into(), remove };
            following::begin(common, &begin, &attest, Procedure::Member(member)).await
        }
        Action::Manager { lost: Lost { attest, remove }, force, accept, begin } => {
            let manager = RecoverManager { remove, force, accept };
            following::begin(common, &begin, &attest, Procedure::Manager(manager)).await
        }
    }
}
