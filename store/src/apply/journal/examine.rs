//! The journal as it is on the disk, for people: nothing is renamed.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Journal, first_path, path};
use crate::state::file::{self, StateFileError};

/// A switch that was begun.
#[derive(Debug, Serialize)]
pub struct OnDisk {
    /// Where its journal is: under its name, or still under its temporary one.
    pub file: PathBuf,
    #[serde(flatten)]
    journal: Journal,
}

/// The journal in the state directory `state`; none where no switch is under way.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn examine(state: &Path) -> Result<Option<OnDisk>, StateFileError> {
    let (file, found) = match file::load::<Journal>(&path(state))? {
        None => (first_path(state), Journal::unnamed(state)?),
        found => (path(state), found),
    };
    let Some(journal) = found else { return Ok(None) };
    let journal = journal.checked(&file)?;
    Ok(Some(OnDisk { file, journal }))
}
