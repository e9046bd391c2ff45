//! `bellwether rm SET:FILE`: remove one file through any server (W5).

use std::ffi::OsString;

use super::{
    change::{self, Becomes, Expect, FileChange, Options},
    target,
};
use crate::{common::Common, error::CommandError};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file in the set, such as nginx:conf.d/a.conf
    #[arg(value_name = "SET:FILE")]
    pub file: OsString,
    /// Remove the file only if it still has this BLAKE3 hash (`get --hash`)
    #[arg(long, value_name = "HASH")]
    pub expect: Option<Expect>,
    /// Remove the file although most of the set is missing then, on all servers
    #[arg(long)]
    pub accept: bool,
    /// The common arguments of a change.
    #[command(flatten)]
    pub options: Options,
}

/// Runs the command.
///
/// # Errors
/// Refused: the file is not the expected one, or no change is possible now (W8, W11).
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let target = target::file(&args.file)?;
    let Args { expect, accept, options, .. } = args;
    let becomes = Becomes::Nothing;
    change::run(common, FileChange { target: &target, expect, becomes, accept, options }).await
}
