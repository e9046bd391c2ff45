//! `bellwether confirm`: keeps a revision that was published with `--confirm-within`.

use bellwether_proto::v1::{ConfirmReply, ConfirmRequest};
use serde_json::json;

use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision, such as 1.42; without it, the newest one
    #[arg(value_name = "REV", default_value = "")]
    pub revision: String,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or the revision cannot be confirmed (any more).
pub async fn run(Args { revision, dry_run }: Args, common: &Common) -> Result<(), CommandError> {
    let request = ConfirmRequest { revision, author: author(), dry_run };
    let reply = common.in_time(common.connect().await?.confirm(request)).await?.into_inner();
    let document = json!({ "revision": reply.revision, "changed": reply.changed, "dry_run": dry_run });
    output::show(common.json, &document, |_| text(&reply, dry_run));
    Ok(())
}

fn text(ConfirmReply { revision, changed }: &ConfirmReply, dry_run: bool) -> String {
    match (changed, dry_run) {
        (false, _) => format!("{revision} is confirmed already; nothing was changed"),
        (true, true) => format!("would confirm {revision} (nothing was changed)"),
        (true, false) => format!("{revision} is confirmed: every server keeps it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_whether_anything_was_changed() {
        let said = |changed, dry_run| text(&ConfirmReply { revision: "1.2".to_owned(), changed }, dry_run);
        assert!(
            said(false, false).ends_with("nothing was changed") && said(true, true).ends_with("(nothing was changed)")
        );
        assert_eq!(said(true, false), "1.2 is confirmed: every server keeps it");
    }
}
