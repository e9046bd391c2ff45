//! The number of this incarnation: how often this server's state was opened. It reveals a state directory that was
//! restored from a backup or copied (W14).

use bellwether_proto::{incarnation, level::State};
use bellwether_store::state::{
    file::{self, StateFileError},
    layout::Layout,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Incarnation {
    opened: u64,
}

impl State for Incarnation {}

/// Counts this opening, durably, and returns its number (see [`incarnation`]).
///
/// # Errors
/// The state file cannot be read or written.
pub fn next(layout: &Layout) -> Result<u64, StateFileError> {
    let path = layout.incarnation();
    let before: Incarnation = file::load(&path)?.unwrap_or_default();
    let now = Incarnation { opened: before.opened + 1 };
    file::save(&path, &now)?;
    Ok(incarnation::number(now.opened))
}
