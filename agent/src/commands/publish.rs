//! `bellwether publish`: publishes the differences from the head as a revision.

use std::time::Duration;

use bellwether_daemon::config::duration;
use bellwether_proto::v1::{PublishReply, PublishRequest};
use serde_json::{Value, json};

use super::farm::{self, Wait};
use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The reason for the change
    #[arg(long, short, default_value = "")]
    pub message: String,
    /// A label that is signed with the revision, such as ticket=OPS-12; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Every server goes back to the revision before by itself if nobody confirms this one within that time, such as 10m (from 10s to 24h)
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub confirm_within: Option<Duration>,
    /// Publish although most files of a set are missing: they are removed on all servers. Also accept the place where each
    /// set is now; at a member, accept the places of its sets
    #[arg(long)]
    pub accept: bool,
    /// Show what would be published and change nothing
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
    let mut client = common.connect().await?;
    let Args { message, labels, confirm_within, accept, dry_run, wait } = args;
    let labels = labels.into_iter().collect();
    let confirm_within_ms = confirm_within.map(|time| time.as_millis() as u64);
    let request = PublishRequest { message, accept, dry_run, author: author(), labels, confirm_within_ms };
    let reply = common.in_time(client.publish(request)).await?.into_inner();
    if !dry_run {
        until(common, wait, &reply).await?;
    }
    let confirm = confirm_within.filter(|_| reply.changed > 0 && !dry_run).map(|within| {
        let within = duration::format(within);
        format!(
            "\nevery server goes back to the revision before in {within}, unless: bellwether confirm {}",
            reply.revision
        )
    });
    output::show(common.json, &document(&reply, dry_run), |_| {
        text(&reply, dry_run, wait) + &confirm.unwrap_or_default()
    });
    Ok(())
}

/// Waits for a published revision, as far as `wait` says.
pub(super) async fn until(common: &Common, wait: Wait, reply: &PublishReply) -> Result<(), CommandError> {
    if wait != Wait::All || reply.revision.is_empty() {
        return Ok(());
    }
    farm::until_reached(&mut common.connect().await?, common, farm::number(&reply.revision)?, None).await
}

/// The answer to a publish, for scripts.
pub(super) fn document(reply: &PublishReply, dry_run: bool) -> Value {
    json!({
        "revision": (!reply.revision.is_empty()).then_some(&reply.revision),
        "id": data_encoding::HEXLOWER.encode(&reply.id),
        "changed": reply.changed,
        "changes": reply.changes,
        "unread": reply.unread,
        "accepted": reply.accepted,
        "dry_run": dry_run,
    })
}

/// The answer to a publish, for people.
pub(super) fn text(reply: &PublishReply, dry_run: bool, wait: Wait) -> String {
    if !reply.accepted.is_empty() {
        let sets = reply.accepted.join(", ");
        return format!("accepted at their places on this server: {sets}; differences there are shown as drift");
    }
    let mut lines = reply.changes.clone();
    let more = reply.changed.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("… and {more} more"));
    }
    lines.extend(reply.unread.iter().map(|line| format!("stays as it was: {line}")));
    lines.push(match (reply.changed, dry_run, wait) {
        (0, ..) if !reply.unread.is_empty() => "nothing was published: the changes cannot be read yet".to_owned(),
        (0, ..) => "nothing to publish: the sets equal the head revision".to_owned(),
        (count, true, _) => format!("would publish {} (nothing was changed)", changes(count)),
        (count, false, Wait::All) => format!("{} with {} is on every member", reply.revision, changes(count)),
        (count, false, Wait::None | Wait::Manager) => format!("published {}: {}", reply.revision, changes(count)),
    });
    lines.join("\n")
}

/// `NAME=VALUE`. The manager checks both.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("there is no '=' in it")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn changes(count: u64) -> String {
    if count == 1 { "1 change".to_owned() } else { format!("{count} changes") }
}
