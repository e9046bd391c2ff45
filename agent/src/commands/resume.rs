//! `bellwether resume`: lets changes go to the members again (W6).

use super::pause::{self, Args as PauseArgs};
use crate::{common::Common, error::CommandError};

/// The arguments: those of `pause`.
pub type Args = PauseArgs;

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    pause::set(common, false, args.dry_run).await
}
