//! `bellwether log [SET:PATH]`: the revisions of the manager's history, newest first.

use std::ffi::OsString;

use bellwether_monitor::text::plain;
use bellwether_proto::{revision::SignedHeader, v1::LogRequest};
use serde_json::{Value, json};

use super::{past, target};
use crate::{common::Common, error::CommandError, output};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List only revisions that changed something there, such as nginx:conf.d
    #[arg(value_name = "SET:PATH")]
    pub place: Option<OsString>,
    /// The most revisions to list; 0 lists all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub limit: u64,
}

/// A revision in the list.
struct Logged {
    header: SignedHeader,
    changes: u64,
    /// The number counts all entries, because the revision before is not in the history.
    whole: bool,
}

/// Runs the command.
///
/// # Errors
/// The manager does not answer.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let place = args.place.as_deref().map(target::parse).transpose()?;
    let request = LogRequest { limit: args.limit, place: place.as_ref().map(past::place) };
    let mut client = past::connect(common).await?;
    let mut parts = common.read(client.log(request)).await?.into_inner();
    let (mut revisions, mut ends, mut more) = (Vec::new(), String::new(), false);
    while let Some(part) = common.read(parts.message()).await? {
        (ends, more) = (part.ends, part.more);
        let Some(logged) = part.revision else { continue };
        let header = past::header(logged.header.unwrap_or_default())?;
        revisions.push(Logged { header, changes: logged.changes, whole: logged.whole });
    }
    let document = json!({
        "revisions": revisions.iter().map(as_json).collect::<Vec<_>>(),
        "more": more,
        "ends": (!ends.is_empty()).then_some(&ends),
    });
    output::show(common.json, &document, |_| {
        let mut lines: Vec<String> = revisions.iter().map(as_text).collect();
        if more {
            lines.push("there are older revisions: --limit lists more".to_owned());
        } else if !ends.is_empty() {
            lines.push(ends.clone());
        }
        match (lines.is_empty(), &place) {
            (true, Some(place)) => format!("no revision in the history changed {place}"),
            _ => lines.join("\n"),
        }
    });
    Ok(())
}

fn as_json(logged: &Logged) -> Value {
    let mut value = past::as_json(&logged.header);
    value["changed"] = json!(logged.changes);
    value["whole"] = json!(logged.whole);
    value
}

fn as_text(logged: &Logged) -> String {
    let header = logged.header.header();
    let what = if logged.whole { "in it" } else { "changed" };
    let count = format!("{} {what}", past::entries(logged.changes));
    let mut lines =
        vec![format!("{:<8} {}  {}, {count}", header.number, past::time(header), plain(&past::author(header)))];
    lines.extend(header.message.lines().map(|line| format!("         {}", plain(line))));
    let labels = past::labels(header);
    if !labels.is_empty() {
        lines.push(format!("         {}", plain(&labels.join(" "))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{key::KeyPair, revision::Header};
    use bellwether_random::headers::header;

    use super::*;

    #[test]
    fn a_revision_is_said_with_its_author_its_reason_and_its_labels() {
        let header = Header {
            time_ms: 1_000,
            author: "alice at web1".into(),
            message: "new cache\nfor images".into(),
            labels: [("accepted".to_owned(), String::new()), ("ticket".to_owned(), "OPS-1".to_owned())].into(),
            ..header(1, 12)
        };
        let logged =
            |header| Logged { header: SignedHeader::sign(header, &KeyPair::generate()), changes: 1, whole: false };
        assert_eq!(
            as_text(&logged(header.clone())),
            "1.12     1970-01-01 00:00:01  alice at web1, 1 entry changed\n         new cache\n         for images\n         \
             accepted ticket=OPS-1"
        );
        let watched = as_text(&logged(Header { author: String::new(), ..header }));
        assert!(watched.contains("file watch at "), "{watched}");
    }
}
