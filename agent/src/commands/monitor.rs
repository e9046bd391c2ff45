//! `bellwether monitor`: the farm, live (W15).

use crate::{
    common::Common,
    error::{CommandError, Kind},
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds between two looks, 1 to 9999; otherwise at every change
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=9999))]
    pub interval: Option<u16>,
}

/// Runs it.
///
/// # Errors
/// Why it did not do what was asked.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let _ = (args, common);
    Err(CommandError::new(Kind::Failed, "`monitor` is not built yet"))
}
