//! `bellwether debug pack | journal | position | record | history | state | dump`: prints the agent's files and the state of
//! the running agent as JSON, for fault finding.
//!
//! Only `dump` needs an agent. The other commands also work beside a running one: they open files for reading only, and take
//! no lock.

use clap::Subcommand;

use crate::{common::Common, error::CommandError};

mod dump;
mod header;
mod history;
mod journal;
mod pack;
mod position;
mod record;
mod state;

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The frames of one pack, each with its offset; where the file is damaged, the offset of the damage
    Pack(pack::Args),
    /// The switch that is under way, or was interrupted
    Journal,
    /// The revision that this server's sets hold as a member, and its error
    Position,
    /// The group record in force here, and the records that made each manager
    Record,
    /// The packs of this server's history, and the files there that cannot be used
    History,
    /// The files of the state directory, and whether each is whole
    State,
    /// The tasks, queues, connections and states of the agent that runs on this machine
    Dump,
}

/// Runs it.
///
/// # Errors
/// What is asked for is not there, is damaged, or cannot be read.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        What::Pack(args) => pack::run(&args, common),
        What::Journal => journal::run(common),
        What::Position => position::run(common),
        What::Record => record::run(common),
        What::History => history::run(common),
        What::State => state::run(common),
        What::Dump => dump::run(common).await,
    }
}
