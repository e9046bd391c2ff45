//! `bellwether publish`: publishes the differences from the head as a revision.

use std::time::Duration;

use bellwether_daemon::config::duration;
use bellwether_proto::v1::PublishRequest;
use serde_json::json;

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
    /// Every server goes back to the revision before by itself if nobody confirms this one within that time, such as 10m
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
    if wait == Wait::All && !dry_run && !reply.revision.is_empty() {
        farm::until_reached(&mut client, common, farm::number(&reply.revision)?, None).await?;
    }
    let document = json!({
        "revision": (!reply.revision.is_empty()).then_some(&reply.revision),
        "id": data_encoding::HEXLOWER.encode(&reply.id),
        "changed": reply.changed,
        "changes": reply.changes,
        "unread": reply.unread,
        "accepted": reply.accepted,
        "dry_run": dry_run,
    });
    let confirm = confirm_within.filter(|_| reply.changed > 0 && !dry_run);
    output::show(common.json, &document, |_| {
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
            (count, false, Wait::None | Wait::Manager) => {
                format!("published {}: {}", reply.revision, changes(count))
            }
        });
        lines.extend(confirm.map(|within| {
            let within = duration::format(within);
            format!(
                "every server goes back to the revision before in {within}, unless: bellwether confirm {}",
                reply.revision
            )
        }));
        lines.join("\n")
    });
    Ok(())
}

/// `NAME=VALUE`. The manager checks both.
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("there is no '=' in it")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn changes(count: u64) -> String {
    if count == 1 { "1 change".to_owned() } else { format!("{count} changes") }
}
