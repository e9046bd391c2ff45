//! `bellwether server list | add | set | disable | enable | remove | replace | acknowledge`: who belongs to the group (W9, W16).

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

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The servers of the group, as this machine's copy of the record has them
    List,
    /// Take back a server that was removed or disabled: its key and address are known. Drained until it is complete
    Add(Back),
    /// Change a server's address, whether it may become manager, or where balancers have it
    Set(set::Args),
    /// Send a server nothing more and refuse what it asks; it stays in the group
    Disable(One),
    /// Make a server that was disabled a member again, and sync it. Drained until it is complete
    Enable(Back),
    /// Send a server nothing more, and refuse it from its next call on
    Remove(One),
    /// Print a token with which new hardware takes the place and the name of a server
    Replace(replace::Args),
    /// Clear warnings: the requests from outside the group were looked at
    Acknowledge(acknowledge::Args),
}

/// One server, by name.
#[derive(Debug, clap::Args)]
struct One {
    /// Its name
    name: ServerName,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// One server that comes back; where the group has balancers, by a procedure.
#[derive(Debug, clap::Args)]
struct Back {
    /// Its name
    name: ServerName,
    #[command(flatten)]
    begin: following::Begin,
}

/// Runs it.
///
/// # Errors
/// Refused: this server is not the manager, or there is no such server.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        What::List => list::run(common),
        What::Add(back) => back::add(common, &back).await,
        What::Set(args) => set::run(common, args).await,
        What::Disable(one) => disable::run(common, &one).await,
        What::Enable(back) => back::enable(common, &back).await,
        What::Remove(one) => remove::run(common, &one).await,
        What::Replace(args) => replace::run(common, args).await,
        What::Acknowledge(args) => acknowledge::run(common, args).await,
    }
}
