//! `bellwether debug position`: the revision that this server's sets hold as a member, and its error.

use bellwether_member::HeldPosition;
use bellwether_store::log;
use serde_json::json;

use super::header;
use crate::{common::Common, error::CommandError, output};

/// Prints the position.
pub(super) fn run(common: &Common) -> Result<(), CommandError> {
    let layout = super::layout(common)?;
    let file = log::path(&layout.history());
    let found = log::read(&layout.history()).and_then(|records| records.position::<HeldPosition>());
    let found = found.map_err(|e| CommandError::failed(&e))?;
    let is_there = found.is_some();
    let HeldPosition { at, fault, leads, unconfirmed, owed } = found.unwrap_or_default();
    let at = at.as_ref().map(header::as_json);
    let owed = owed.map(|owed| {
        json!({
            "sets": owed.sets,
            "validate": owed.validate,
            "before": owed.before.as_ref().map(header::as_json),
            "refused": owed.refused.map(|refused| {
                json!({ "revision": header::as_json(&refused.header), "reason": refused.complaint.reason })
            }),
        })
    });
    let unconfirmed = unconfirmed.map(|unconfirmed| {
        let before = header::as_json(&unconfirmed.before);
        json!({ "before": before, "until_ms_since_boot": unconfirmed.until_ms, "boot": unconfirmed.boot })
    });
    output::document(&json!({
        "file": file,
        "is_there": is_there,
        "leads": leads,
        "at": at,
        "fault": fault,
        "unconfirmed": unconfirmed,
        "owed": owed,
    }));
    Ok(())
}
