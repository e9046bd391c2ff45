//! What the commands about the manager's history share: the connection, names of revisions on the command line, and a
//! revision's header for people.

use std::ffi::OsString;

use bellwether_proto::{
    entry::EntryPath,
    limits,
    revision::{Header, RevisionId, RevisionName, SignedHeader},
    v1::{DifferencesPart, DifferencesRequest, Place, SignedHeader as Wire, past_client::PastClient},
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{differences, drift};
use crate::{common::Common, error::CommandError, output};

/// Connects to the history through the agent on this machine.
pub(super) async fn connect(common: &Common) -> Result<PastClient<Channel>, CommandError> {
    Ok(PastClient::new(common.channel().await?).max_decoding_message_size(limits::MESSAGE))
}

/// Divides arguments into at most `most` names of revisions, and the paths after them. A set with such a name is written
/// with a colon (`head:`).
///
/// # Errors
/// A path is malformed.
pub(super) fn arguments(arguments: &[OsString], most: usize) -> Result<(Vec<RevisionName>, Vec<Place>), CommandError> {
    let name = |argument: &OsString| argument.to_str()?.parse().ok();
    let names: Vec<RevisionName> = arguments.iter().take(most).map_while(name).collect();
    let places = drift::places(&arguments[names.len()..])?;
    Ok((names, places))
}

/// A header from an answer.
pub(super) fn header(wire: Wire) -> Result<SignedHeader, CommandError> {
    SignedHeader::from_wire(wire).map_err(|e| CommandError::failed(&e))
}

/// The author of a revision. Those of earlier versions have none where the watch on files made them.
pub(super) fn author(header: &Header) -> String {
    if header.author.is_empty() { format!("file watch at {}", header.manager) } else { header.author.clone() }
}

/// The labels, as `NAME=VALUE`, or `NAME` where there is no value.
pub(super) fn labels(header: &Header) -> Vec<String> {
    let label = |(name, value): (&String, &String)| match value.as_str() {
        "" => name.clone(),
        value => format!("{name}={value}"),
    };
    header.labels.iter().map(label).collect()
}

/// The time of a revision.
pub(super) fn time(header: &Header) -> String {
    output::utc(i64::try_from(header.time_ms / 1_000).unwrap_or(i64::MAX))
}

/// A header as JSON.
pub(super) fn as_json(header: &SignedHeader) -> Value {
    let RevisionId(id) = header.id();
    let Header { number, parent, manager, time_ms, message, labels, .. } = header.header();
    json!({
        "revision": number,
        "id": id.to_string(),
        "parent": parent.map(|parent| parent.to_string()),
        "manager": manager,
        "time_ms": time_ms,
        "author": author(header.header()),
        "message": message,
        "labels": labels,
    })
}

/// The number of entries, for people.
pub(super) fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// The first part of an answer about differences.
pub(super) struct Between {
    pub(super) old: Option<SignedHeader>,
    pub(super) new: Option<SignedHeader>,
    pub(super) entries: u64,
    pub(super) unknown: String,
}

/// Asks for differences and prints them as they arrive, because there may be many: as JSON, or each by `text` after what
/// `head` makes of the first part.
///
/// # Errors
/// The manager's error.
pub(super) async fn show_differences(
    common: &Common,
    request: DifferencesRequest,
    head: impl Fn(&Between) -> Option<String>,
    text: impl Fn(&bellwether_proto::v1::DriftEntry) -> String,
) -> Result<(), CommandError> {
    let mut client = connect(common).await?;
    let mut parts = common.read(client.differences(request)).await?.into_inner();
    let mut first = true;
    let mut comma = "";
    while let Some(part) = common.read(parts.message()).await? {
        let DifferencesPart { old, new, entries, unknown, changes } = part;
        if std::mem::take(&mut first) {
            let (old, new) = (old.map(header).transpose()?, new.map(header).transpose()?);
            let between = Between { old, new, entries, unknown };
            if common.json {
                output::json(&begun(&between));
            } else if let Some(head) = head(&between) {
                output::line(&head);
            }
        }
        for entry in &changes {
            if common.json {
                output::json(&format!("{comma}{}", differences::as_json(entry)));
                comma = ",";
            } else {
                output::line(&text(entry));
            }
        }
        if !output::is_read() {
            return Ok(());
        }
    }
    if common.json {
        output::json("]}");
    }
    Ok(())
}

/// The document up to its list of changes.
fn begun(between: &Between) -> String {
    let side = |header: &Option<SignedHeader>| header.as_ref().map(as_json);
    let unknown = (!between.unknown.is_empty()).then_some(&between.unknown);
    let document =
        json!({ "old": side(&between.old), "new": side(&between.new), "entries": between.entries, "unknown": unknown });
    let text = document.to_string();
    format!("{},\"changes\":[", text.trim_end_matches('}'))
}

/// A place on the command line, as it is requested.
pub(super) fn place(target: &super::target::Target) -> Place {
    let path: &EntryPath = &target.path;
    Place { set: target.set.to_string(), path: bytes::Bytes::copy_from_slice(path.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(line: &[&str], most: usize) -> (Vec<String>, Vec<String>) {
        let line: Vec<OsString> = line.iter().map(OsString::from).collect();
        let (names, places) = arguments(&line, most).expect("they are sound");
        let place = |place: &Place| format!("{}:{}", place.set, String::from_utf8_lossy(&place.path));
        (names.iter().map(ToString::to_string).collect(), places.iter().map(place).collect())
    }

    #[test]
    fn revisions_come_before_paths() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(divided(&[], 2), (texts(&[]), texts(&[])));
        assert_eq!(divided(&["1.2", "head-1", "web:a"], 2), (texts(&["1.2", "head-1"]), texts(&["web:a"])));
        assert_eq!(divided(&["web", "1:a"], 2), (texts(&[]), texts(&["web:", "1:a"])));
        assert_eq!(divided(&["12", "head:"], 1), (texts(&["12"]), texts(&["head:"])));
    }

    #[test]
    fn a_list_of_changes_is_one_document() {
        let between = Between { old: None, new: None, entries: 0, unknown: String::new() };
        let document: Value = serde_json::from_str(&format!("{}]}}", begun(&between))).expect("JSON");
        assert_eq!(document["changes"], json!([]));
    }
}
