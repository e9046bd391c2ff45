//! `bellwether discard`: drops edits of the manager's sets that are not published.

use std::ffi::OsString;

use bellwether_proto::v1::{DiscardReply, DiscardRequest};
use serde_json::json;

use super::{
    drift::{self, listed},
    past,
};
use crate::{common::Common, error::CommandError, output};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The edits to drop, with all below them, such as nginx:conf.d; without paths, all edits
    #[arg(value_name = "SET:PATH")]
    pub places: Vec<OsString>,
    /// Show what would be dropped and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or the sets cannot hold what the head holds.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let Args { places, dry_run } = args;
    let request = DiscardRequest { places: drift::places(&places)?, dry_run };
    let mut client = past::connect(common).await?;
    if !dry_run && !common.yes {
        let plan = client.discard(DiscardRequest { dry_run: true, ..request.clone() });
        let plan = common.in_time(plan).await?.into_inner();
        if plan.entries > 0 {
            output::note(&listed("would drop the edits of:", &plan.first, plan.entries));
            output::confirm("drop them?", false)?;
        }
    }
    let reply = common.in_time(client.discard(request)).await?.into_inner();
    let DiscardReply { entries, first, kept } = &reply;
    let document = json!({ "entries": entries, "first": first, "kept_copies": kept, "dry_run": dry_run });
    output::show(common.json, &document, |_| text(&reply, dry_run));
    Ok(())
}

fn text(DiscardReply { entries, first, kept }: &DiscardReply, dry_run: bool) -> String {
    match (entries, dry_run) {
        (0, _) => "there are no edits: the sets equal the head revision; nothing was changed".to_owned(),
        (_, true) => format!("{}\n(nothing was changed)", listed("would drop the edits of:", first, *entries)),
        (_, false) => {
            let dropped = listed("as in the head revision again:", first, *entries);
            let kept = kept.iter().map(|path| format!("the dropped content is kept in {path}"));
            std::iter::once(dropped).chain(kept).collect::<Vec<_>>().join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_the_entries_and_the_kept_copies() {
        let reply = DiscardReply { entries: 1, first: vec!["~ web:a".into()], kept: vec!["/var/x".into()] };
        assert_eq!(
            text(&reply, false),
            "as in the head revision again:\n  ~ web:a\nthe dropped content is kept in /var/x"
        );
        assert!(text(&reply, true).ends_with("(nothing was changed)"));
        assert!(text(&DiscardReply::default(), false).starts_with("there are no edits"));
    }
}
