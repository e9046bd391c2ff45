//! `bellwether recover member | manager`: a server is lost (W22–W25, W27).

use bellwether_proto::{
    name::ServerName,
    v1::{RecoverManager, RecoverMember, start_procedure_request::Procedure},
};
use clap::Subcommand;

use super::following::{self, Begin};
use crate::{common::Common, error::CommandError};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// At the manager: a member is lost; out of service, out of the group, and back when it is repaired
    Member {
        /// The member
        name: ServerName,
        #[command(flatten)]
        lost: Lost,
        #[command(flatten)]
        begin: Begin,
    },
    /// At the candidate that takes over: the manager is lost
    Manager {
        #[command(flatten)]
        lost: Lost,
        /// Although the manager answers, or another candidate has seen more
        #[arg(long)]
        force: bool,
        /// What was edited on this server becomes the truth
        #[arg(long)]
        accept: bool,
        #[command(flatten)]
        begin: Begin,
    },
}

#[derive(Debug, clap::Args)]
struct Lost {
    /// That the lost machine is off the network and out of the load balancer, in your words: it is recorded
    #[arg(long, value_name = "TEXT", default_value = "")]
    attest: String,
    /// Remove it from the group instead of disabling it
    #[arg(long)]
    remove: bool,
}

/// Runs it.
///
/// # Errors
/// Refused before anything was done; failed or stopped at a step, or at a question; timed out while it goes on in the
/// agent.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        What::Member { name, lost: Lost { attest, remove }, begin } => {
            let member = RecoverMember { server: name.into(), remove };
            following::begin(common, &begin, &attest, Procedure::Member(member)).await
        }
        What::Manager { lost: Lost { attest, remove }, force, accept, begin } => {
            let manager = RecoverManager { remove, force, accept };
            following::begin(common, &begin, &attest, Procedure::Manager(manager)).await
        }
    }
}
