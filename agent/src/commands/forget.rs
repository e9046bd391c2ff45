//! `bellwether forget SET:PATH`: erases the earlier contents of a place from every history, such as a leaked secret.

use std::{ffi::OsString, time::Duration};

use bellwether_proto::{
    name::ServerName,
    revision::RevisionName,
    status::FarmStatus,
    v1::{EarlierContent, ForgetReply, ForgetRequest},
};
use serde_json::{Value, json};

use super::{differences, farm, past, target};
use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// The time that the other servers have to erase the content before the command names those that still hold it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time between two looks at the status.
const LOOK: Duration = Duration::from_millis(200);

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, or a directory with all below it, such as nginx:conf.d/app.conf
    #[arg(value_name = "SET:PATH")]
    pub place: OsString,
    /// Erase only the content that it had in this revision: 1.12, 12, or head-1 for the one before the head. Without it, all
    /// contents but the present one
    #[arg(long, value_name = "REV")]
    pub at: Option<RevisionName>,
    /// Show what would be erased and which revisions that costs, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or the head still has the content.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let place = past::place(&target::parse(&args.place)?);
    let at = args.at.map(|at| at.to_string()).unwrap_or_default();
    let request = ForgetRequest { place: Some(place), author: author(), dry_run: args.dry_run, at };
    let mut client = past::connect(common).await?;
    let plan = client.forget(ForgetRequest { dry_run: true, ..request.clone() });
    let plan = common.in_time(plan).await?.into_inner();
    if args.dry_run {
        output::show(common.json, &document(&plan, &[]), |_| format!("{}\n(nothing was changed)", shown(&plan)));
        return Ok(());
    }
    if !common.yes {
        output::note(&shown(&plan));
        output::confirm("erase it on every server, and drop these revisions?", false)?;
    }
    let reply = common.in_time(client.forget(request)).await?.into_inner();
    let holders = holders(common, reply.id).await?;
    output::show(common.json, &document(&reply, &holders), |_| done(&reply, &holders));
    Ok(())
}

/// The servers that still hold the content after a while, with reasons.
async fn holders(common: &Common, id: u64) -> Result<Vec<(ServerName, String)>, CommandError> {
    let mut client = common.connect().await?;
    let mut left = of(&farm::status(&mut client).await?, id);
    let looking = async {
        while !left.is_empty() {
            tokio::time::sleep(LOOK).await;
            left = of(&farm::status(&mut client).await?, id);
        }
        Ok::<_, CommandError>(())
    };
    // Servers that do not answer erase it when they are back.
    if let Ok(looked) = tokio::time::timeout(common.timeout.unwrap_or(PATIENCE), looking).await {
        looked?;
    }
    Ok(left)
}

fn of(status: &FarmStatus, id: u64) -> Vec<(ServerName, String)> {
    let forget = status.forgets.iter().find(|forget| forget.id == id);
    forget.map(|forget| forget.holders.clone()).unwrap_or_default()
}

fn document(reply: &ForgetReply, holders: &[(ServerName, String)]) -> Value {
    let content = |content: &EarlierContent| {
        json!({
            "set": content.set,
            "path": differences::path(&content.path),
            "size": content.size,
            "first": content.first,
            "last": content.last,
        })
    };
    let holders: Vec<_> = holders.iter().map(|(server, why)| json!({ "server": server, "reason": why })).collect();
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "contents": reply.contents.iter().map(content).collect::<Vec<_>>(),
        "contents_total": reply.contents_total,
        "stays": reply.stays.iter().map(content).collect::<Vec<_>>(),
        "revisions": reply.revisions,
        "oldest": some(&reply.oldest),
        "newest": some(&reply.newest),
        "begins": reply.begins,
        "id": (reply.id > 0).then_some(reply.id),
        "holders": holders,
    })
}

/// What is erased, what stays, and the revisions that this costs.
fn shown(reply: &ForgetReply) -> String {
    let name = |content: &EarlierContent| format!("{}:{}", content.set, differences::path(&content.path));
    let mut lines = vec!["erases on every server, from the history and from kept copies:".to_owned()];
    lines.extend(reply.contents.iter().map(|content| {
        let EarlierContent { size, first, last, .. } = content;
        let revisions =
            if first == last { format!("in revision {first}") } else { format!("in revisions {first} to {last}") };
        format!("  {}  {} {revisions}", name(content), bytes(*size))
    }));
    let more = reply.contents_total.saturating_sub(reply.contents.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.extend(reply.stays.iter().map(|content| {
        let EarlierContent { size, first, .. } = content;
        format!(
            "stays, so make sure that the secret is not in it: {}  {} since revision {first}",
            name(content),
            bytes(*size)
        )
    }));
    lines.push(cost(reply, "costs"));
    lines.join("\n")
}

fn bytes(size: u64) -> String {
    if size == 1 { "1 byte".to_owned() } else { format!("{size} bytes") }
}

/// The revisions that are dropped.
fn cost(ForgetReply { revisions, oldest, newest, begins, .. }: &ForgetReply, verb: &str) -> String {
    match revisions {
        0 => format!("{verb} no revision: the history begins at {begins}"),
        1 => format!("{verb} revision {oldest}: the history begins at {begins} then"),
        _ => format!("{verb} the {revisions} revisions {oldest} to {newest}: the history begins at {begins} then"),
    }
}

fn done(reply: &ForgetReply, holders: &[(ServerName, String)]) -> String {
    let mut lines = vec![cost(reply, "erased; this dropped")];
    lines.extend(holders.iter().map(|(server, why)| format!("{server} still holds it: {why}")));
    lines.push(match holders.is_empty() {
        true => "no server of the group holds it any more".to_owned(),
        false => "these servers erase it as soon as they can; `bellwether status` names them until then".to_owned(),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64, first: &str, last: &str) -> EarlierContent {
        let (set, path) = ("web".to_owned(), "a.key".into());
        EarlierContent { set, path, size, first: first.to_owned(), last: last.to_owned() }
    }

    fn reply(revisions: u64) -> ForgetReply {
        ForgetReply {
            contents: vec![content(25, "1.2", "1.4"), content(1, "1.5", "1.5")],
            contents_total: 2,
            stays: vec![content(22, "1.6", "1.7")],
            revisions,
            oldest: "1.1".to_owned(),
            newest: "1.6".to_owned(),
            begins: "1.7".to_owned(),
            id: 3,
        }
    }

    #[test]
    fn the_plan_says_what_goes_what_stays_and_the_cost() {
        assert_eq!(
            shown(&reply(6)),
            "erases on every server, from the history and from kept copies:\n  \
             web:a.key  25 bytes in revisions 1.2 to 1.4\n  \
             web:a.key  1 byte in revision 1.5\n\
             stays, so make sure that the secret is not in it: web:a.key  22 bytes since revision 1.6\n\
             costs the 6 revisions 1.1 to 1.6: the history begins at 1.7 then"
        );
        assert!(shown(&reply(0)).ends_with("costs no revision: the history begins at 1.7"));
    }

    #[test]
    fn servers_that_hold_it_are_named() {
        let holders = [("web3".parse().expect("a name"), "it does not answer".to_owned())];
        let text = done(&reply(6), &holders);
        assert!(text.contains("\nweb3 still holds it: it does not answer\n"), "{text}");
        assert!(done(&reply(1), &[]).ends_with("no server of the group holds it any more"));
        assert_eq!(document(&reply(1), &holders)["holders"][0]["server"], "web3");
    }
}
