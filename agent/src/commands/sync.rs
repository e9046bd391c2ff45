//! `bellwether sync`: brings servers to the manager's state from any state. A procedure first drains a server whose
//! responses would change meanwhile (W12).

use std::collections::BTreeSet;

use bellwether_proto::{
    name::ServerName,
    record::Role,
    status::{FarmStatus, RolloutState},
    v1::{SyncRequest, SyncServers, admin_client::AdminClient, start_procedure_request::Procedure},
};
use serde_json::json;
use tonic::transport::Channel;

use super::{
    farm::{self, Wait},
    following, record,
};
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The servers; without names, all members. The manager, if it is named, runs the commands of its own sets again
    #[arg(value_name = "NAME")]
    pub servers: Vec<ServerName>,
    /// Hash every byte, even of files whose times did not change
    #[arg(long)]
    pub full: bool,
    /// Show what would be done and change nothing; with each step if servers are drained
    #[arg(long)]
    pub dry_run: bool,
    /// The progress to wait for before the command ends
    #[arg(long, default_value = "all")]
    pub wait: Wait,
}

/// Runs the command.
///
/// # Errors
/// Refused, or not on every server in time; or an error of the procedure that drains servers.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let Args { servers, full, dry_run, wait } = args;
    let mut client = common.connect().await?;
    if servers.is_empty() {
        may_sync_all(&common.within(farm::status(&mut client)).await?)?;
    }
    let drains = Procedure::Sync(SyncServers { servers: servers.iter().map(ToString::to_string).collect() });
    let mut planned = following::planned(common, drains.clone()).await?;
    if let Some(begun) = &planned
        && !dry_run
        && following::is_begun(common, begun).await?
    {
        // The same command again: a procedure that goes on or has stopped comes first, then the other servers.
        let begun = following::start(common, drains.clone()).await?;
        if wait != Wait::All {
            let said = format!("{} goes on; see: bellwether procedure show {}", begun.id, begun.id);
            output::show(common.json, &json!({ "procedure": begun.id.to_string() }), |_| said);
            return Ok(());
        }
        let end = begun.steps.len();
        following::until(common, begun, end).await?;
        planned = following::planned(common, drains.clone()).await?;
    }
    let drained: BTreeSet<ServerName> = planned.iter().flat_map(|planned| planned.servers().cloned()).collect();
    let others = others(&mut client, common, &servers, &drained).await?;
    if dry_run {
        return show_plan(common, planned.as_ref(), &others).await;
    }
    let begun = match planned {
        Some(_) => Some(following::start(common, drains).await?),
        None => None,
    };
    let asked = if others.is_empty() { Vec::new() } else { ask(&mut client, common, &others, full).await? };
    let id = begun.as_ref().map(|begun| begun.id);
    let mut at = None;
    if wait == Wait::All {
        if let Some(begun) = begun {
            let end = begun.steps.len();
            following::until(common, begun, end).await?;
        }
        if !(asked.is_empty() && drained.is_empty()) {
            let head = common.within(farm::status(&mut client)).await?.head.ok_or_else(no_revision)?;
            farm::until_reached(&mut client, common, head, Some(&asked)).await?;
            at = Some(head);
        }
    }
    let all: Vec<String> = asked.iter().chain(&drained).map(ToString::to_string).collect();
    let document = json!({ "servers": all, "revision": at, "procedure": id.map(|id| id.to_string()) });
    output::show(common.json, &document, |_| match (all.is_empty(), at, id) {
        (true, ..) => "there is no server to bring to the manager's state".to_owned(),
        (false, Some(head), _) => format!("in sync at {head}: {}", all.join(", ")),
        (false, None, None) => format!("asked {}; `bellwether monitor` shows their progress", all.join(", ")),
        (false, None, Some(id)) => format!("asked {}; see: bellwether procedure show {id}", all.join(", ")),
    });
    Ok(())
}

/// Whether all members may be brought to the head: not to a revision whose rollout is stopped.
fn may_sync_all(farm: &FarmStatus) -> Result<(), CommandError> {
    let stopped = farm.rollout.as_ref().filter(|rollout| rollout.state == RolloutState::Stopped);
    let Some(rollout) = stopped else { return Ok(()) };
    let text = format!("the rollout of {} is stopped; no server was asked", rollout.revision);
    Err(CommandError::new(Kind::Refused, text)
        .hint("to bring some servers to it, name them; to go on: bellwether rollout continue, or: bellwether rollback"))
}

/// The named servers that need no drain.
async fn others(
    client: &mut AdminClient<Channel>,
    common: &Common,
    named: &[ServerName],
    drained: &BTreeSet<ServerName>,
) -> Result<Vec<ServerName>, CommandError> {
    let meant = if named.is_empty() {
        let status = common.within(farm::status(client)).await?;
        let members = status.servers.into_iter().filter(|server| server.role == Role::Member);
        members.map(|server| server.name).collect()
    } else {
        named.to_vec()
    };
    Ok(meant.into_iter().filter(|name| !drained.contains(name)).collect())
}

/// Asks servers for a sync; returns those that were asked.
async fn ask(
    client: &mut AdminClient<Channel>,
    common: &Common,
    servers: &[ServerName],
    full: bool,
) -> Result<Vec<ServerName>, CommandError> {
    let servers = servers.iter().map(ToString::to_string).collect();
    let request = SyncRequest { servers, full, verify_only: false };
    let asked = common.in_time(client.sync(request)).await?.into_inner().servers;
    asked.iter().map(|name| name.parse()).collect::<Result<_, _>>().map_err(|e| CommandError::failed(&e))
}

async fn show_plan(
    common: &Common,
    planned: Option<&bellwether_group::procedure::Procedure>,
    others: &[ServerName],
) -> Result<(), CommandError> {
    if let Some(planned) = planned {
        return following::show_plan(common, planned).await;
    }
    let whom: Vec<&str> = others.iter().map(ServerName::as_str).collect();
    let whom = if whom.is_empty() { "nobody".to_owned() } else { whom.join(", ") };
    record::show_plan(common, &format!("bring {whom} to the manager's state"));
    Ok(())
}

fn no_revision() -> CommandError {
    CommandError::new(Kind::Refused, "there is no revision yet").hint("`bellwether publish` makes one")
}
