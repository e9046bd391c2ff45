//! `bellwether server disable`: begins a member's maintenance (W21).

use bellwether_proto::v1::edit_record_request::Edit;

use super::{One, record};
use crate::{common::Common, error::CommandError, output};

/// Disables a server.
pub(super) async fn run(common: &Common, One { name, dry_run }: &One) -> Result<(), CommandError> {
    let edit = Edit::DisableServer(name.to_string());
    if *dry_run {
        record::edit(common, edit, true).await?;
        record::show_plan(common, &format!("disable {name}: it gets no changes, and its requests are refused"));
        return Ok(());
    }
    output::confirm(&format!("disable {name}? It gets nothing more until it is enabled."), common.yes)?;
    let reply = record::edit(common, edit, false).await?;
    let done = format!("{name} is disabled: it gets nothing more until bellwether server enable {name}");
    record::show(common, &done, &reply);
    Ok(())
}
