//! `bellwether show REV`: one revision, and the entries that it changed.

use bellwether_monitor::text::plain;
use bellwether_proto::{
    revision::{RevisionId, RevisionName},
    v1::DifferencesRequest,
};

use super::{
    differences,
    past::{self, Between},
};
use crate::{common::Common, error::CommandError};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision: 1.12, 12, head, or head-1 for the one before the head
    #[arg(value_name = "REV", default_value = "head")]
    pub revision: RevisionName,
    /// Show the differences of texts, too; of a file of more than 512 KiB only the sizes
    #[arg(long)]
    pub diff: bool,
}

/// Runs the command.
///
/// # Errors
/// There is no such revision.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let new = args.revision.to_string();
    let request = DifferencesRequest { new, diffs: args.diff, ..DifferencesRequest::default() };
    let text = |entry: &_| {
        let line = differences::line(entry);
        let indented = entry.diff.lines().map(|line| format!("    {line}"));
        std::iter::once(line).chain(indented).collect::<Vec<_>>().join("\n")
    };
    past::show_differences(common, request, head, text).await
}

fn head(between: &Between) -> Option<String> {
    let revision = between.new.as_ref()?;
    let (header, RevisionId(id)) = (revision.header(), revision.id());
    let mut lines = vec![
        format!("revision {}", header.number),
        format!("id       {id}"),
        format!("made     {} by {}", past::time(header), plain(&past::author(header))),
        format!("manager  {}", header.manager),
    ];
    let labels = past::labels(header);
    if !labels.is_empty() {
        lines.push(format!("labels   {}", plain(&labels.join(" "))));
    }
    lines.extend(header.message.lines().map(|line| format!("    {}", plain(line))));
    let count = past::entries(between.entries);
    lines.push(match (&between.old, between.unknown.as_str()) {
        (_, unknown) if !unknown.is_empty() => format!("its changes are not known: {unknown}"),
        (Some(old), _) => format!("{count} changed since {}:", old.number()),
        (None, _) => format!("the first revision, with {count}:"),
    });
    Some(lines.join("\n"))
}
