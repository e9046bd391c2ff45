//! `bellwether doctor`: what would go wrong.

use crate::{
    common::Common,
    error::{CommandError, Kind},
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// Why it did not do what was asked.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let _ = (args, common);
    Err(CommandError::new(Kind::Failed, "`doctor` is not built yet"))
}
