//! `bellwether pause`: hold propagation; edits are collected, the monitor shows the lag (W6).

use bellwether_proto::v1::PauseRequest;

use super::{farm, record};
use crate::{
    common::{Common, author},
    error::CommandError,
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs it.
///
/// # Errors
/// Refused: this server is not the manager.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    if args.dry_run {
        let now = common.in_time(farm::status(&mut client)).await?.paused;
        record::show_plan(common, if now == true { "nothing: propagation is held already" } else { "hold propagation" });
        return Ok(());
    }
    let request = PauseRequest { paused: true, author: author() };
    let reply = common.in_time(client.pause(request)).await?.into_inner();
    record::show(common, "propagation is held", &reply);
    Ok(())
}
