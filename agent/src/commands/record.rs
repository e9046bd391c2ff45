//! Requests for changes of the group record, and their answers.

use bellwether_proto::{
    name::ServerName,
    record::Role,
    v1::{EditRecordRequest, RecordReply, edit_record_request::Edit},
};
use bellwether_store::state::layout::Held;
use serde_json::json;

use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

/// Asks the manager's agent for an edit of the record.
///
/// # Errors
/// Refused.
pub(super) async fn edit(common: &Common, edit: Edit, dry_run: bool) -> Result<RecordReply, CommandError> {
    let request = EditRecordRequest { edit: Some(edit), author: author(), dry_run };
    Ok(common.in_time(common.connect().await?.edit_record(request)).await?.into_inner())
}

/// Prints the result, and the servers that do not know it yet.
pub(super) fn show(common: &Common, done: &str, reply: &RecordReply) {
    let document =
        json!({ "done": done, "record": reply.version, "lacking": reply.lacking, "left_open": reply.left_open });
    output::show(common.json, &document, |_| {
        let mut text = format!("{done} (group record {})", reply.version);
        if !reply.lacking.is_empty() {
            text += &format!("\nnot known yet to {}: they get it when they are reached", reply.lacking.join(", "));
        }
        for id in &reply.left_open {
            text += &format!(
                "\ntoken {id}, which it has used, still admits other servers; to end that: bellwether token revoke {id}"
            );
        }
        text
    });
}

/// Prints the plan.
pub(super) fn show_plan(common: &Common, plan: &str) {
    output::show(common.json, &json!({ "plan": plan }), |_| format!("would {plan} (nothing was changed)"));
}

/// Whether a server that is to come back is in the group already; if so, prints that. The manager's record decides.
pub(super) fn is_there_already(common: &Common, name: &ServerName) -> Result<bool, CommandError> {
    let held = held(common)?;
    let record = held.current.record();
    let Some(server) = record.server(name).filter(|server| server.role != Role::Disabled) else { return Ok(false) };
    let document = json!({ "done": format!("{name} is in the group"), "record": record.version.to_string() });
    output::show(common.json, &document, |_| {
        let role = if server.role == Role::Manager { "the manager" } else { "a member" };
        let drained = format!("; it is drained still, until: bellwether maintenance finish {name}");
        let drained = if server.drained { drained } else { String::new() };
        format!("{name} is {role} already{drained} (nothing was changed)")
    });
    Ok(true)
}

/// The group that this machine belongs to, from its state directory, whether the agent runs or not.
pub(super) fn held(common: &Common) -> Result<Held, CommandError> {
    let layout = common.layout()?;
    layout.held().map_err(|e| CommandError::failed(&e))?.ok_or_else(|| {
        let text = format!("this machine belongs to no group ({} is not there)", layout.group().display());
        CommandError::new(Kind::Failed, text).hint("`bellwether init` forms one, `bellwether join` enters one")
    })
}
