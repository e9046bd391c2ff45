//! `bellwether wait`: until servers are in sync, for scripts. How long at most is `--timeout`, which every command takes.

use crate::{
    common::Common,
    error::{CommandError, Kind},
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision to wait for, as EPOCH.SEQUENCE; otherwise the newest
    #[arg(long, value_name = "REV")]
    pub revision: Option<bellwether_proto::revision::Number>,
    /// Only these servers, separated by commas
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub servers: Vec<bellwether_proto::name::ServerName>,
}

/// Runs it.
///
/// # Errors
/// Why it did not do what was asked.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let _ = (args, common);
    Err(CommandError::new(Kind::Failed, "`wait` is not built yet"))
}
