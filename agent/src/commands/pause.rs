//! `bellwether pause`: holds propagation; edits are collected, and the monitor shows the lag (W6).

use bellwether_proto::v1::edit_record_request::Edit;

use super::{farm, record};
use crate::{common::Common, error::CommandError};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    set(common, true, args.dry_run).await
}

/// Holds propagation, or lets it continue.
pub(super) async fn set(common: &Common, paused: bool, dry_run: bool) -> Result<(), CommandError> {
    let done = if paused { "propagation is held" } else { "changes go to the members" };
    if dry_run {
        let now = common.within(farm::status(&mut common.connect().await?)).await?.paused;
        let plan = match (now == paused, paused) {
            (true, _) => format!("do nothing: {done} already"),
            (false, true) => "hold propagation".to_owned(),
            (false, false) => "let changes go to the members".to_owned(),
        };
        record::show_plan(common, &plan);
        return Ok(());
    }
    record::show(common, done, &record::edit(common, Edit::Paused(paused), false).await?);
    Ok(())
}
