//! `bellwether inside-view`, which the agent calls: becomes a command that sees a staged revision at the sets' own paths.

use std::{os::unix::process::CommandExt, path::PathBuf, process::Command};

use bellwether_local::set::NO_VIEW;
use bellwether_store::apply::view;

use crate::{
    common::Common,
    error::{CommandError, Kind},
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file that describes what is staged
    pub view: PathBuf,
    /// The command, for a shell
    pub command: String,
    /// The account that runs the command
    #[arg(long)]
    pub user: Option<String>,
}

/// Becomes the command.
///
/// # Errors
/// The files cannot be shown here, or the account does not exist.
pub async fn run(args: Args, _common: &Common) -> Result<(), CommandError> {
    let failed = |what: String| CommandError::new(Kind::Failed, what);
    view::enter(&args.view).map_err(|error| failed(format!("{NO_VIEW}: {error}")))?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &args.command]);
    if let Some(name) = &args.user {
        let user = uzers::get_user_by_name(name).ok_or_else(|| failed(format!("this server has no user '{name}'")))?;
        shell.uid(user.uid()).gid(user.primary_group_id());
    }
    Err(failed(format!("/bin/sh cannot be started: {}", shell.exec())))
}
