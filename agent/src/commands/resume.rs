//! `bellwether resume`: let changes go to the members again (W6).

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
        record::show_plan(common, if now == false { "nothing: changes go to the members already" } else { "let changes go to the members again" });
        return Ok(());
    }
    let request = PauseRequest { paused: false, author: author() };
    let reply = common.in_time(client.pause(request)).await?.into_inner();
    record::show(common, "changes go to the members again", &reply);
    Ok(())
}
