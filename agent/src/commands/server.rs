//! `bellwether server list | add | set | disable | enable | remove | replace | acknowledge` (W9, W16).

use bellwether_proto::name::ServerName;
use clap::Subcommand;

use super::{following, record};
use crate::{common::Common, error::CommandError};

mod acknowledge;
mod back;
mod disable;
mod list;
mod remove;
mod replace;
mod set;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the servers in this machine's copy of the group record
    List,
    /// Add a server again that was removed or disabled. It stays drained until it is complete
    Add(Back),
    /// Change a server's address, its candidacy, or its places at the balancers
    Set(set::Args),
    /// Disable a server: it stays in the group, gets no changes, and its requests are refused
    Disable(One),
    /// Make a disabled server a member again and sync it. It stays drained until it is complete
    Enable(Back),
    /// Remove a server from the group: it gets no changes, and its requests are refused
    Remove(One),
    /// Print a token with which new hardware takes the name of a server
    Replace(replace::Args),
    /// Clear the warnings about requests from outside the group
    Acknowledge(acknowledge::Args),
}

/// One server, by name.
#[derive(Debug, clap::Args)]
struct One {
    /// The name of the server
    name: ServerName,
    /// Show what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// One server that comes back; if the group has balancers, by a procedure.
#[derive(Debug, clap::Args)]
struct Back {
    /// The name of the server
    name: ServerName,
    #[command(flatten)]
    begin: following::Begin,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or there is no such server.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::List => list::run(common),
        Action::Add(back) => back::add(common, &back).await,
        Action::Set(args) => set::run(common, args).await,
        Action::Disable(one) => disable::run(common, &one).await,
        Action::Enable(back) => back::enable(common, &back).await,
        Action::Remove(one) => remove::run(common, &one).await,
        Action::Replace(args) => replace::run(common, args).await,
        Action::Acknowledge(args) => acknowledge::run(common, args).await,
    }
}
