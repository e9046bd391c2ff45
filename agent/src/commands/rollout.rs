//! `bellwether rollout show | continue | stop`: the rollout of the head revision in waves.

use bellwether_monitor::table::described;
use bellwether_proto::v1::DecideRolloutRequest;
use clap::Subcommand;
use serde_json::json;

use super::status;
use crate::{
    common::{Common, author},
    error::CommandError,
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
    /// Show the wave that the newest revision has come to, the servers that are late, and those that failed
    Show,
    /// Continue a stopped rollout; the failures up to now are accepted
    Continue(Decided),
    /// Stop the rollout: the newest revision goes to no further member
    Stop(Decided),
}

#[derive(Debug, clap::Args)]
struct Decided {
    /// Show what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or there is no rollout to decide on.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::Show => show(common).await,
        Action::Continue(Decided { dry_run }) => decide(common, false, dry_run).await,
        Action::Stop(Decided { dry_run }) => decide(common, true, dry_run).await,
    }
}

async fn show(common: &Common) -> Result<(), CommandError> {
    let farm = status::once(common).await?;
    output::show(common.json, &farm.rollout, |rollout| {
        let Some(rollout) = rollout else {
            return "no rollout is under way; without waves, a revision goes to all members as soon as those with a validate \
                    command have validated it; waves: bellwether group set --canary 1 --batch 25%"
                .to_owned();
        };
        let some = [("late", &rollout.late), ("failed", &rollout.failed)]
            .into_iter()
            .filter(|(_, servers)| !servers.is_empty());
        let lines = some.map(|(what, servers)| {
            let names: Vec<_> = servers.iter().map(|server| server.as_str()).collect();
            format!("{what}: {}", names.join(", "))
        });
        std::iter::once(described(rollout, farm.time_ms)).chain(lines).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

async fn decide(common: &Common, stop: bool, dry_run: bool) -> Result<(), CommandError> {
    let request = DecideRolloutRequest { stop, author: author(), dry_run };
    let reply = common.in_time(common.connect().await?.decide_rollout(request)).await?.into_inner();
    let document = json!({ "changed": reply.changed, "dry_run": dry_run });
    output::show(common.json, &document, |_| text(stop, reply.changed, dry_run).to_owned());
    Ok(())
}

fn text(stop: bool, changed: bool, dry_run: bool) -> &'static str {
    match (stop, changed, dry_run) {
        (true, false, _) => "the rollout is stopped already; nothing was changed",
        (false, false, _) => "the rollout is not stopped; nothing was changed",
        (true, true, true) => "would stop the rollout (nothing was changed)",
        (false, true, true) => "would continue the rollout (nothing was changed)",
        (true, true, false) => {
            "the rollout is stopped: the revision goes to no further member, and edits are not published by themselves, until: \
             bellwether rollout continue, or: bellwether rollback"
        }
        (false, true, false) => "the rollout continues",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_that_changes_nothing_says_so() {
        for (stop, dry_run) in [(true, true), (true, false), (false, true), (false, false)] {
            assert!(text(stop, false, dry_run).ends_with("nothing was changed"));
            assert_eq!(text(stop, true, dry_run).contains("nothing was changed"), dry_run);
        }
    }
}
