//! What `bellwether serve` runs.

use crate::{
    config::Config,
    error::{CommandError, Kind},
};

/// How the daemon is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Finish what a crash interrupted, then end; ordered before the services whose configuration it is.
    pub recover_only: bool,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// It cannot start, or cannot go on.
pub async fn run(config: Config, options: Options) -> Result<(), CommandError> {
    let _ = (config, options);
    Err(CommandError::new(Kind::Failed, "the daemon is not built yet"))
}
