//! `bellwether debug pack | journal | position | record | history | state | dump`: prints the agent's files and the
//! state of the running agent as JSON, for fault finding.
//!
//! Only `dump` needs an agent. The other commands also work beside a running agent: they read files and take no lock.

use bellwether_store::state::layout::Layout;
use clap::Subcommand;

use crate::{
    common::Common,
    error::{CommandError, Kind},
};

mod dump;
mod header;
mod history;
mod journal;
mod pack;
mod position;
mod record;
mod state;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the frames of one pack with their offsets, and the offset of any damage
    Pack(pack::Args),
    /// Print the journal of the current or interrupted switch
    Journal,
    /// Print the revision that this member's sets hold, and its error
    Position,
    /// Print the group record in force on this server, and the records that made each manager
    Record,
    /// Print the packs of this server's history, and the files there that cannot be used
    History,
    /// Print the files of the state directory, and whether each is whole
    State,
    /// Print the tasks, queues, connections and states of the agent that runs on this machine
    Dump,
}

/// Runs the command.
///
/// # Errors
/// The file does not exist, is damaged, or cannot be read.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::Pack(args) => pack::run(&args, common),
        Action::Journal => journal::run(common),
        Action::Position => position::run(common),
        Action::Record => record::run(common),
        Action::History => history::run(common),
        Action::State => state::run(common),
        Action::Dump => dump::run(common).await,
    }
}

/// The state directory, which must exist: a wrong path would look like a state directory without the file.
fn layout(common: &Common) -> Result<Layout, CommandError> {
    let layout = common.layout()?;
    match std::fs::read_dir(layout.state()) {
        Ok(_) => Ok(layout),
        Err(error) => {
            let state = layout.state().display();
            Err(CommandError::new(Kind::Failed, format!("cannot list the state directory {state}: {error}")))
        }
    }
}
