//! The journal as it is on the disk, for people.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Journal;
use crate::{log, state::file::StateFileError};

/// A switch that was begun.
#[derive(Debug, Serialize)]
pub struct OnDisk {
    /// The log that has its journal.
    pub file: PathBuf,
    #[serde(flatten)]
    journal: Journal,
}

/// The journal in the log of the history in `directory`; none where no switch is under way.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn examine(directory: &Path) -> Result<Option<OnDisk>, StateFileError> {
    let file = log::path(directory);
    let Some(journal) = log::read(directory)?.journal::<Journal>()? else { return Ok(None) };
    let journal = journal.checked(&file)?;
    Ok(Some(OnDisk { file, journal }))
}
