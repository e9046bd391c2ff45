//! `bellwether diff [REV] [REV] [PATH…]`: the differences between two revisions, or of the manager's sets from the head.

use std::ffi::OsString;

use bellwether_proto::v1::DifferencesRequest;

use super::{
    differences,
    past::{self, Between},
};
use crate::{common::Common, error::CommandError};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Revisions (1.12, 12, head, head-1), then paths. Without a revision, the head is compared with the manager's sets as
    /// they are now; with one, that revision with the head; with two, the first with the second. Paths such as nginx:conf.d
    /// limit the output. Texts of more than 512 KiB are named, not compared, and one diff has at most 64 KiB
    #[arg(value_name = "REV|SET:PATH")]
    pub arguments: Vec<OsString>,
}

/// Runs the command.
///
/// # Errors
/// There is no such revision.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let (names, places) = past::arguments(&args.arguments, 2)?;
    let (old, new) = match names.as_slice() {
        [] => ("head".to_owned(), String::new()),
        [old] => (old.to_string(), "head".to_owned()),
        [old, new, ..] => (old.to_string(), new.to_string()),
    };
    let request = DifferencesRequest { old, new, places, diffs: true };
    past::show_differences(common, request, head, differences::block).await
}

/// What is said where nothing differs; otherwise the differences speak for themselves.
fn head(between: &Between) -> Option<String> {
    let old = between.old.as_ref().map(|old| old.number().to_string()).unwrap_or_default();
    let new = between.new.as_ref().map_or("the manager's sets".to_owned(), |new| new.number().to_string());
    (between.entries == 0).then(|| format!("nothing differs between {old} and {new}"))
}
