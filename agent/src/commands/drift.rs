//! `bellwether drift show | keep | revert`: edits that were made on members (W3).

use std::ffi::OsString;

use bellwether_monitor::text::plain;
use bellwether_proto::{
    name::ServerName,
    v1::{
        DriftEntry, DriftRequest, KeepRequest, Place, RecoveryPoint, RevertRequest, ServerDrift,
        edited_client::EditedClient,
    },
};
use clap::Subcommand;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    differences,
    farm::{self, Wait},
    target,
};
use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show every path that differs from the revision, with a diff, and the kept copies
    Show {
        /// The servers; without names, this server, or at the manager all that have drifted
        #[arg(value_name = "NAME")]
        servers: Vec<ServerName>,
    },
    /// Publish a member's edits as a revision for all servers
    Keep {
        /// The member
        name: ServerName,
        /// The paths, such as nginx:conf.d; without them, all edits
        #[arg(value_name = "SET:PATH")]
        paths: Vec<OsString>,
        /// The reason for the change
        #[arg(long, short, default_value = "")]
        message: String,
        /// Publish the edits although most of a set is missing then, on all servers
        #[arg(long)]
        accept: bool,
        /// Show what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
        /// The progress to wait for before the command ends
        #[arg(long, default_value = "manager")]
        wait: Wait,
    },
    /// Put the manager's state back on a member; its edits are saved there as a kept copy
    Revert {
        /// The member
        name: ServerName,
        /// The paths, such as nginx:conf.d; without them, all edits
        #[arg(value_name = "SET:PATH")]
        paths: Vec<OsString>,
        /// Show what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// Refused, with the reason; or the named server does not answer.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::Show { servers } => show(common, &servers).await,
        Action::Keep { name, paths, message, accept, dry_run, wait } => {
            let (server, places, author) = (name.to_string(), places(&paths)?, author());
            let request = KeepRequest { server, places, author, message, dry_run, accept };
            keep(common, request, wait).await
        }
        Action::Revert { name, paths, dry_run } => {
            let places = places(&paths)?;
            revert(common, RevertRequest { server: name.to_string(), places, author: author(), dry_run }).await
        }
    }
}

pub(super) fn places(paths: &[OsString]) -> Result<Vec<Place>, CommandError> {
    let place = |path: &OsString| {
        let target = target::parse(path)?;
        Ok(Place { set: target.set.to_string(), path: bytes::Bytes::copy_from_slice(target.path.as_bytes()) })
    };
    paths.iter().map(place).collect()
}

async fn connect(common: &Common) -> Result<EditedClient<Channel>, CommandError> {
    let channel = common.channel().await?;
    Ok(EditedClient::new(channel).max_decoding_message_size(bellwether_proto::limits::MESSAGE))
}

async fn show(common: &Common, servers: &[ServerName]) -> Result<(), CommandError> {
    let mut client = connect(common).await?;
    let request = DriftRequest { servers: servers.iter().map(ToString::to_string).collect(), places: Vec::new() };
    let mut answers = common.read(client.show(request)).await?.into_inner();
    let mut shown = Vec::new();
    while let Some(answer) = common.read(answers.message()).await? {
        shown.push(answer);
    }
    let document: Vec<_> = shown.iter().map(as_json).collect();
    output::show(common.json, &document, |_| match shown.as_slice() {
        [] => "no server is known to have drifted".to_owned(),
        shown => shown.iter().map(as_text).collect::<Vec<_>>().join("\n\n"),
    });
    match shown.iter().filter(|server| !server.error.is_empty()).count() {
        0 => Ok(()),
        failed if failed == shown.len() => Err(CommandError::told(Kind::Failed)),
        _ => Err(CommandError::told(Kind::Partly)),
    }
}

async fn keep(common: &Common, request: KeepRequest, wait: Wait) -> Result<(), CommandError> {
    let (server, dry_run) = (request.server.clone(), request.dry_run);
    let reply = common.in_time(connect(common).await?.keep(request)).await?.into_inner();
    if wait == Wait::All && !reply.revision.is_empty() {
        let mut client = common.connect().await?;
        farm::until_reached(&mut client, common, farm::number(&reply.revision)?, None).await?;
    }
    let document = json!({
        "server": server,
        "revision": (!reply.revision.is_empty()).then_some(&reply.revision),
        "id": data_encoding::HEXLOWER.encode(&reply.id),
        "entries": reply.entries,
        "first": reply.first,
        "dry_run": dry_run,
    });
    output::show(common.json, &document, |_| {
        let done = match (reply.entries, dry_run, reply.revision.as_str()) {
            (0, _, _) => return format!("{server} has no edits there that the manager lacks; nothing was changed"),
            (_, true, _) => format!("would publish the edits on {server} as a revision (nothing was changed)"),
            (_, false, "") => format!("the edits on {server} are in the head revision"),
            (_, false, revision) => format!("the edits on {server} are revision {revision}"),
        };
        listed(&done, &reply.first, reply.entries)
    });
    Ok(())
}

async fn revert(common: &Common, request: RevertRequest) -> Result<(), CommandError> {
    let (server, dry_run) = (request.server.clone(), request.dry_run);
    let reply = common.in_time(connect(common).await?.revert(request)).await?.into_inner();
    let document = json!({
        "server": server,
        "revision": reply.revision,
        "entries": reply.entries,
        "first": reply.first,
        "kept": reply.kept,
        "dry_run": dry_run,
    });
    output::show(common.json, &document, |_| {
        if reply.entries == 0 {
            return format!("{server} has no differences from {} there; nothing was changed", reply.revision);
        }
        if dry_run {
            let plan = format!(
                "would put back the state of {} on {server} at these edits (nothing was changed)",
                reply.revision
            );
            return listed(&plan, &reply.first, reply.entries);
        }
        let done = format!("{server} holds {} again at these edits", reply.revision);
        let mut text = listed(&done, &reply.first, reply.entries);
        if !reply.kept.is_empty() {
            text += &format!("\nthe edits are kept on {server} in");
            reply.kept.iter().for_each(|path| text += &format!("\n  {}", plain(path)));
        }
        text
    });
    Ok(())
}

pub(super) fn listed(head: &str, first: &[String], count: u64) -> String {
    let mut text = head.to_owned();
    first.iter().for_each(|line| text += &format!("\n  {}", plain(line)));
    let more = count.saturating_sub(first.len() as u64);
    if more > 0 {
        text += &format!("\n  and {more} more");
    }
    text
}

fn as_json(server: &ServerDrift) -> Value {
    let point = |point: &RecoveryPoint| {
        json!({
            "path": point.path,
            "when": point.when,
            "why": point.why,
            "entries": point.entries,
            "first": point.first,
        })
    };
    json!({
        "server": server.server,
        "revision": server.revision,
        "entries": server.entries,
        "first": server.first.iter().map(differences::as_json).collect::<Vec<_>>(),
        "policy": server.policy,
        "held": server.held,
        "kept_copies": server.points.iter().map(point).collect::<Vec<_>>(),
        "kept_copies_total": server.points_total,
        "error": (!server.error.is_empty()).then_some(&server.error),
    })
}

fn as_text(server: &ServerDrift) -> String {
    let ServerDrift { server: name, revision, entries, first, policy, held, points, points_total, error } = server;
    if !error.is_empty() {
        return format!("{name}: {}", error);
    }
    let count = match entries {
        0 => "nothing differs".to_owned(),
        1 => "1 entry differs".to_owned(),
        more => format!("{more} entries differ"),
    };
    let held = if *held { ", it takes no updates" } else { "" };
    let mut lines = vec![format!("{name} at {}: {count} (policy {}{held})", revision, policy)];
    for entry in first {
        lines.push(entry_line(entry));
        lines.extend(entry.diff.lines().map(|line| format!("    {line}")));
    }
    let more = entries.saturating_sub(first.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    if *points_total > 0 {
        lines.push(format!("  kept copies: {points_total}, the newest first"));
        lines.extend(points.iter().map(point_line));
    }
    lines.join("\n")
}

fn entry_line(entry: &DriftEntry) -> String {
    let DriftEntry { set, path: at, kinds, .. } = entry;
    let facts = differences::facts(entry);
    let facts = if facts.is_empty() { String::new() } else { format!("  ({})", facts.join("; ")) };
    format!("  {}", plain(&format!("{:<8} {set}:{}{facts}", kinds.join(", "), differences::path(at))))
}

fn point_line(point: &RecoveryPoint) -> String {
    let RecoveryPoint { path, why, entries, first, .. } = point;
    let more = entries.saturating_sub(first.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    // One that cannot be read has no entries, and a reason.
    let what = if first.is_empty() { why.clone() } else { format!("{}{more}", first.join(", ")) };
    format!("    {}", plain(format!("{path}  {what}").trim_end()))
}

#[cfg(test)]
mod tests {
    use bellwether_proto::v1::TreeEntry;

    use super::*;

    fn entry() -> DriftEntry {
        let side = |mode, size| TreeEntry {
            kind: "file".into(),
            mode,
            size,
            hash: "0123456789ab".into(),
            ..TreeEntry::default()
        };
        DriftEntry {
            set: "web".into(),
            path: "a\u{1b}[2J".into(),
            kinds: vec!["changed".into(), "mode".into()],
            before: Some(side(0o644, 3)),
            now: Some(side(0o600, 4)),
            diff: String::new(),
            note: "not a text".into(),
        }
    }

    #[test]
    fn a_line_says_in_what_an_entry_differs_and_nothing_a_terminal_would_obey() {
        let line = entry_line(&entry());
        assert!(line.starts_with("  changed, mode web:a\\x1b[2J"), "{line}");
        assert!(line.ends_with("(3 bytes 01234567 → 4 bytes 01234567; 0644 → 0600; not a text)"), "{line}");
    }

    #[test]
    fn a_diff_is_shown_as_lines_of_its_entry() {
        let entry = DriftEntry { diff: "--- a\n+\u{1b}[2Jx\ty\n".into(), ..entry() };
        let server =
            ServerDrift { server: "web2".into(), entries: 1_003, first: vec![entry], ..ServerDrift::default() };
        let text = as_text(&server);
        assert!(text.contains("    --- a\n    +\u{1b}[2Jx\ty"), "{text}");
        assert!(text.contains("1003 entries differ") && text.contains("and 1002 more"), "{text}");
        assert_eq!(as_json(&server)["first"][0]["kinds"], json!(["changed", "mode"]));
    }

    #[test]
    fn who_could_not_be_asked_is_said() {
        let server = ServerDrift { server: "web2".into(), error: "no answer".into(), ..ServerDrift::default() };
        assert_eq!(as_text(&server), "web2: no answer");
    }
}
