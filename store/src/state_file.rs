//! Small state files: JSON with a format version and a checksum, replaced atomically. Unreadable is an error, never a
//! default.
//!
//! On disk: `{"format":1,"checksum":"<BLAKE3 of the body's bytes>","body":<JSON>}` and a newline.

#[cfg(fuzzing)]
pub mod fuzzing;

use std::{
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use bellwether_proto::hash::Hash;
use serde::{Serialize, de::DeserializeOwned};

use crate::durable;

/// The only format there is so far.
const FORMAT: &str = "{\"format\":1,";

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
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateFileError::Io { action: "read", path: path.to_owned(), source }),
        Ok(bytes) => bytes,
    };
    decode(&bytes).map(Some).map_err(|what| StateFileError::Damaged { path: path.to_owned(), what })
}

/// Replaces the state in `path` (mode 0600): when this returns, the new one survives a power loss; before, the old one.
///
/// # Errors
/// It cannot be written; the old state is as it was.
pub fn save<T: Serialize>(path: &Path, state: &T) -> Result<(), StateFileError> {
    let failed = |source| StateFileError::Io { action: "write", path: path.to_owned(), source };
    let bytes = encode(state).map_err(|error| failed(error.into()))?;
    let (directory, name) = (path.parent(), path.file_name());
    let (Some(directory), Some(name)) = (directory, name) else {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let held = std::fs::File::open(directory).map_err(failed)?;
    durable::replace_file(held.as_fd(), name.as_bytes(), &bytes).map_err(failed)
}

/// Replaces what is noted in `path` (mode 0600), for what may be lost: it is not fsync'd, so that after a power loss there
/// may be the note before, a damaged one, or none.
///
/// # Errors
/// It cannot be written; the one before is as it was.
pub fn note<T: Serialize>(path: &Path, state: &T) -> Result<(), StateFileError> {
    let failed = |source| StateFileError::Io { action: "write", path: path.to_owned(), source };
    let bytes = encode(state).map_err(|error| failed(error.into()))?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = open.and_then(|mut file| file.write_all(&bytes)).and_then(|()| std::fs::rename(&new, path));
    written.map_err(failed)
}

/// The bytes of a state file that holds `state`.
pub(crate) fn encode<T: Serialize>(state: &T) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_vec(state)?;
    let head = format!("{FORMAT}\"checksum\":\"{}\",\"body\":", Hash::of(&body));
    Ok([head.as_bytes(), &body, b"}\n"].concat())
}

/// Takes the frame apart by its bytes: what was not written by [`encode`] is damaged, however well-formed.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let rest = bytes.strip_prefix(FORMAT.as_bytes()).ok_or("it is not of format 1")?;
    let rest = rest.strip_prefix(b"\"checksum\":\"").ok_or("it has no checksum")?;
    let (checksum, rest) = rest.split_at_checked(64).ok_or("it is cut short")?;
    let body =
        rest.strip_prefix(b"\",\"body\":").and_then(|rest| rest.strip_suffix(b"}\n")).ok_or("it is cut short")?;
    if Hash::of(body).to_string().as_bytes() != checksum {
        return Err("its checksum does not fit".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_nobody_else_may_read_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        assert!(load::<Vec<u32>>(&path).unwrap().is_none());
        for (state, write) in [(vec![1u32, 2, 3], save as fn(&Path, &_) -> _), (vec![4], note), (vec![], save)] {
            write(&path, &state).unwrap();
            assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(state));
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn one_changed_or_missing_byte_is_damage() {
        let bytes = encode(&"some state").unwrap();
        assert_eq!(decode::<String>(&bytes).unwrap(), "some state");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode::<String>(&changed).is_err(), "byte {at}");
            assert!(decode::<String>(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn damage_names_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        std::fs::write(&path, "").unwrap();
        let error = load::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("state is damaged (it is not of format 1)"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
            proptest::prop_assert!(decode::<u32>(&bytes).is_err());
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        save(&path, &1u32).unwrap();
        // Create, write, fsync, rename.
        for k in 0..4 {
            let result = durable::recording::failing(home.path(), k, k + 1, || save(&path, &2u32));
            assert!(matches!(result, Err(StateFileError::Io { action: "write", .. })), "{k}");
            assert_eq!(load::<u32>(&path).unwrap(), Some(1), "{k}");
        }
    }
}
