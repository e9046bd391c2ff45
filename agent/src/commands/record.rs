//! How a change of the group record is answered.

use bellwether_proto::v1::RecordReply;
use serde_json::json;

use crate::{
    common::Common,
    error::{CommandError, Kind},
    layout::Held,
    output,
};

/// Says what was done, and which servers do not know it yet.
pub(super) fn show(common: &Common, done: &str, reply: &RecordReply) {
    let document = json!({ "done": done, "record": reply.version, "lacking": reply.lacking });
    output::show(common.json, &document, |_| {
        let mut text = format!("{done} (group record {})", reply.version);
        if !reply.lacking.is_empty() {
            text += &format!("\nnot known yet to {}: they get it when they are reached", reply.lacking.join(", "));
        }
        text
    });
}

/// Says what would be done.
pub(super) fn show_plan(common: &Common, plan: &str) {
    output::show(common.json, &json!({ "plan": plan }), |_| format!("would {plan} (nothing was changed)"));
}

/// The group that this machine belongs to, from its state directory: known whether the agent runs or not.
pub(super) fn held(common: &Common) -> Result<Held, CommandError> {
    let layout = common.layout()?;
    layout.held().map_err(|e| CommandError::failed(&e))?.ok_or_else(|| {
        let text = format!("this machine belongs to no group ({} is not there)", layout.group().display());
        CommandError::new(Kind::Failed, text).hint("`bellwether init` forms one, `bellwether join` enters one")
    })
}
