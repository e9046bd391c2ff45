//! `bellwether demo`: a farm on this machine, to try it.

use crate::{
    common::Common,
    error::{CommandError, Kind},
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many members follow the manager
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub members: u16,
    /// Your own configuration tree; it is copied
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<std::path::PathBuf>,
    /// Ask nothing and end; the exit code says that it worked
    #[arg(long)]
    pub once: bool,
}

/// Runs it.
///
/// # Errors
/// Why it did not do what was asked.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let _ = (args, common);
    Err(CommandError::new(Kind::Failed, "`demo` is not built yet"))
}
