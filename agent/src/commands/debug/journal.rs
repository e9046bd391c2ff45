//! `bellwether debug journal`: the current or interrupted switch.

use bellwether_store::apply::journal;
use serde_json::json;

use crate::{common::Common, error::CommandError, output};

/// Prints the journal, or that there is none.
pub(super) fn run(common: &Common) -> Result<(), CommandError> {
    let layout = super::layout(common)?;
    let found = journal::examine(&layout.history()).map_err(|e| CommandError::failed(&e))?;
    output::document(&json!({ "under_way": found.is_some(), "journal": found }));
    Ok(())
}
