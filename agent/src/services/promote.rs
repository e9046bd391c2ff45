//! `promote`: the role goes to another server by a handover at the manager (W18), or to this one by a takeover (W24).

use std::{sync::Arc, time::Duration};

use bellwether_manager::{Leave, roles};
use bellwether_proto::{
    name::ServerName,
    record::{Record, Role, SignedRecord},
    v1::{PromoteReply, PromoteRequest},
};
use tokio::time::timeout;
use tonic::Status;

use super::{Agent, refusal::refusal};
use crate::clock::now_ms;

/// How long the new manager is waited for after the record is durable.
const TAKE_UP: Duration = Duration::from_secs(15);

/// Answers the command.
///
/// # Errors
/// Refused, or failed; until the record is durable nothing was changed.
pub(super) async fn promote(agent: &Arc<Agent>, request: PromoteRequest) -> Result<PromoteReply, Status> {
    hand_over(agent, request).await
}

async fn hand_over(agent: &Arc<Agent>, request: PromoteRequest) -> Result<PromoteReply, Status> {
    let PromoteRequest { server, author, dry_run, leave, .. } = request;
    let to: ServerName =
        server.parse().map_err(|e: bellwether_proto::Malformed| Status::invalid_argument(e.to_string()))?;
    let leave = leave_as(&leave, Leave::Member)?;
    let current = agent.record.current();
    if current.record().manager().name == to {
        return Ok(reply(agent, &current, false).await);
    }
    let manager = agent.manager()?;
    if dry_run {
        let by = roles::By { author, time_ms: now_ms() };
        roles::hand_over(&manager.record(), &to, leave, &by).map_err(refusal)?;
        let from = &current.record().manager().name;
        let next = vec![
            format!("take no more changes at {from}, and publish what was edited"),
            format!("wait until {to} holds the head without edits of its own"),
            format!("make {to} the manager, and {from} {}, in one signed record", becomes(leave)),
            format!("tell {to} until it has the record; it begins its epoch with an empty revision"),
        ];
        let version = current.record().version.to_string();
        return Ok(PromoteReply { version, manager: to.to_string(), next, ..PromoteReply::default() });
    }
    let signed = manager.hand_over(&to, leave, &author).await.map_err(refusal)?;
    Ok(reply(agent, &signed, true).await)
}

/// What the old manager is to be.
pub(super) fn leave_as(word: &str, default: Leave) -> Result<Leave, Status> {
    match word {
        "" => Ok(default),
        "member" => Ok(Leave::Member),
        "disabled" => Ok(Leave::Disabled),
        "removed" => Ok(Leave::Removed),
        other => {
            let what = format!("the old manager becomes member, disabled or removed, not '{}'", other.escape_debug());
            Err(Status::invalid_argument(what))
        }
    }
}

fn becomes(leave: Leave) -> &'static str {
    match leave {
        Leave::Member => "a member",
        Leave::Disabled => "disabled",
        Leave::Removed => "removed from the group",
    }
}

/// Says who is the manager by `signed`, once that server leads, or does not in time.
async fn reply(agent: &Arc<Agent>, signed: &SignedRecord, changed: bool) -> PromoteReply {
    let manager = signed.record().manager().name.clone();
    let leads = !changed || leads(agent, signed).await;
    let mut next = Vec::new();
    if !leads {
        next.push(format!(
            "{manager} does not lead yet: it is told until it has the record; if it is lost now, at another candidate: \
             bellwether promote --self"
        ));
    }
    if changed {
        next.extend(after(signed.record(), agent));
    }
    let version = signed.record().version.to_string();
    PromoteReply { version, manager: manager.to_string(), leads, next, changed, ..PromoteReply::default() }
}

/// What is to be done at the new manager.
fn after(record: &Record, agent: &Agent) -> Option<String> {
    let (own, manager) = (&agent.name, &record.manager().name);
    match record.server(own).map(|server| server.role) {
        Some(Role::Disabled) => Some(format!("to bring {own} back, at {manager}: bellwether server enable {own}")),
        None => Some(format!("to bring {own} back, at {manager}: bellwether server add {own}")),
        Some(Role::Member | Role::Manager) => None,
    }
}

/// Whether the manager of `signed`, this server or one that it tells, leads by it in time.
async fn leads(agent: &Arc<Agent>, signed: &SignedRecord) -> bool {
    let version = signed.record().version;
    if signed.record().manager().key == agent.record.own_key() {
        return agent.leads(version.epoch).await;
    }
    let mut told = agent.peers.told();
    let told = timeout(TAKE_UP, told.wait_for(|told| told.is_some_and(|told| told.version >= version))).await;
    told.is_ok_and(|told| told.is_ok_and(|told| told.is_some_and(|told| told.leads)))
}
