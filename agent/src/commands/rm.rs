//! `bellwether rm SET:FILE`: remove one file through any server (W5).

use std::ffi::OsString;

use bellwether_proto::v1::{ChangeRequest, change_request::Change};

use super::{
    change::{self, Expect, Options},
    target,
};
use crate::{
    common::{Common, author},
    error::CommandError,
};

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
    let request = ChangeRequest {
        set: target.set.to_string(),
        path: target.path.as_bytes().to_vec().into(),
        expected: args.expect.map(Expect::into_wire),
        change: Some(Change::Remove(true)),
        author: author(),
        message: args.options.message,
        accept: args.accept,
    };
    change::run(common, &target, request, change::Becomes::Nothing, args.options.dry_run, args.options.wait).await
}
