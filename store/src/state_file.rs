//! Small state files: JSON with a format version and a checksum, replaced atomically. Unreadable is an error, never a
//! default.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The system's error.
    #[error("cannot {action} {path}")]
    Io {
        /// read or write.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what was written, or of another format.
    #[error("{path} is damaged ({what}); nothing was changed")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The state in `path`; none where there is no such file.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateFileError> {
    let _ = path;
    todo!()
}

/// Replaces the state in `path` (mode 0600): when this returns, the new one survives a power loss; before, the old one.
///
/// # Errors
/// It cannot be written; the old state is as it was.
pub fn save<T: Serialize>(path: &Path, state: &T) -> Result<(), StateFileError> {
    let _ = (path, state);
    todo!()
}
