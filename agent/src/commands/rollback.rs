//! `bellwether rollback [REV] [PATH…]`: earlier content as a new revision.

use std::ffi::OsString;

use bellwether_proto::v1::{RollbackReply, RollbackRequest};
use serde_json::json;

use super::{
    drift::listed,
    farm::{self, Wait},
    past,
};
use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision whose content is to be back (1.12, 12, head-2; without one, head-1), then the paths, such as
    /// nginx:conf.d; without paths, all sets
    #[arg(value_name = "REV|SET:PATH")]
    pub arguments: Vec<OsString>,
    /// Hold watching until `bellwether resume`: no edit is published by itself, and nothing later is sent to the members.
    /// At the manager only
    #[arg(long)]
    pub now: bool,
    /// The reason for the change
    #[arg(long, short, default_value = "")]
    pub message: String,
    /// Roll back although most of a set is missing then, on all servers
    #[arg(long)]
    pub accept: bool,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The progress to wait for before the command ends
    #[arg(long, default_value = "manager")]
    pub wait: Wait,
}

/// Runs the command.
///
/// # Errors
/// Refused, or not on every member in time.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let Args { arguments, now, message, accept, dry_run, wait } = args;
    let (names, places) = past::arguments(&arguments, 1)?;
    let revision = names.first().map(ToString::to_string).unwrap_or_default();
    let mut request = RollbackRequest { revision, places, author: author(), message, dry_run, accept, now };
    let mut client = past::connect(common).await?;
    if !dry_run {
        let plan = RollbackRequest { dry_run: true, ..request.clone() };
        let plan = common.in_time(client.rollback(plan)).await?.into_inner();
        if plan.entries > 0 && !common.yes {
            output::note(&planned(&plan, now));
            output::confirm("roll back?", false)?;
        }
        // Whatever the head is by now, and however often the request arrives, this revision is meant.
        request.revision = plan.to;
    }
    let reply = common.in_time(client.rollback(request)).await?.into_inner();
    if wait == Wait::All && !reply.revision.is_empty() {
        let mut status = common.connect().await?;
        farm::until_reached(&mut status, common, farm::number(&reply.revision)?, None).await?;
    }
    let document = json!({
        "to": reply.to,
        "revision": (!reply.revision.is_empty()).then_some(&reply.revision),
        "id": data_encoding::HEXLOWER.encode(&reply.id),
        "entries": reply.entries,
        "first": reply.first,
        "notes": reply.notes,
        "held": reply.held,
        "dry_run": dry_run,
    });
    output::show(common.json, &document, |_| {
        if dry_run && reply.entries > 0 {
            return format!("{}\n(nothing was changed)", planned(&reply, now));
        }
        let mut text = done(&reply, wait);
        if reply.held {
            text += "\nwatching is held: edits are not published by themselves, and later revisions go to no member, until: \
                     bellwether resume";
        }
        text
    });
    Ok(())
}

fn planned(reply: &RollbackReply, now: bool) -> String {
    let hold = if now { ", and hold watching" } else { "" };
    let head = format!("would bring back the content of {}{hold}:", reply.to);
    noted(listed(&head, &reply.first, reply.entries), reply)
}

fn done(reply: &RollbackReply, wait: Wait) -> String {
    let RollbackReply { to, revision, entries, .. } = reply;
    let text = match (entries, revision.as_str(), wait) {
        (0, ..) => format!("the head has the content of {to} there already; nothing was changed"),
        (_, "", _) => format!("the manager's sets have the content of {to} there already; nothing was published"),
        (_, revision, Wait::All) => {
            listed(&format!("{revision} has the content of {to}, and every member has it:"), &reply.first, *entries)
        }
        (_, revision, Wait::None | Wait::Manager) => {
            listed(&format!("{revision} has the content of {to}:"), &reply.first, *entries)
        }
    };
    noted(text, reply)
}

fn noted(text: String, reply: &RollbackReply) -> String {
    std::iter::once(text).chain(reply.notes.iter().cloned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(entries: u64, revision: &str) -> RollbackReply {
        let first = (0..entries).map(|at| format!("~ web:{at}.conf")).collect();
        RollbackReply { to: "1.3".into(), revision: revision.into(), entries, first, ..RollbackReply::default() }
    }

    #[test]
    fn what_was_done_is_said() {
        assert_eq!(done(&reply(1, "1.5"), Wait::Manager), "1.5 has the content of 1.3:\n  ~ web:0.conf");
        assert!(done(&reply(1, "1.5"), Wait::All).starts_with("1.5 has the content of 1.3, and every member has it:"));
        assert!(done(&reply(0, ""), Wait::Manager).contains("already; nothing was changed"));
        let noted = RollbackReply { notes: vec!["set b stays".into()], ..reply(1, "") };
        assert_eq!(
            planned(&noted, true),
            "would bring back the content of 1.3, and hold watching:\n  ~ web:0.conf\nset b stays"
        );
    }
}
