//! This server's identity: one Ed25519 key, made once, mode 0600, in a state directory of mode 0700.

use std::{
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use bellwether_proto::{Malformed, key::KeyPair};
use bellwether_store::{beneath, durable, state::layout::Layout};
use data_encoding::BASE64;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

/// The key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Others may read it, or it has another owner.
    #[error("{path} must belong to user {uid} and be closed to others, but has owner {owner} and mode {mode:04o}")]
    Open {
        /// The key, or the state directory.
        path: PathBuf,
        /// The right owner.
        uid: u32,
        /// The present owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// The file is not a key.
    #[error("{path} is not this server's key any more: {what}")]
    Damaged {
        /// The key.
        path: PathBuf,
        /// The cause.
        what: String,
    },
    /// The system's error.
    #[error("cannot {action} {path}")]
    Io {
        /// The action: read, write, create …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl IdentityError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Open { path, .. } => format!("find out who could have read it, then: chmod go= {}", path.display()),
            Self::Damaged { path, .. } => {
                format!("put {} back from a backup; without it this server has to join again", path.display())
            }
            Self::Io { .. } => "run it as root, or as the user that the agent runs as".to_owned(),
        }
    }
}

/// Makes the state directory (0700) if it is missing, and checks that no other user may read it.
///
/// # Errors
/// It cannot be made, or others may read it.
pub fn prepare(layout: &Layout) -> Result<(), IdentityError> {
    let state = layout.state();
    let failed = |source| IdentityError::Io { action: "create the state directory", path: state.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(failed)?;
    check_closed(state)
}

/// This server's key; none if it has not been made yet.
///
/// # Errors
/// It cannot be read, others may read it, or it is damaged.
pub fn load(layout: &Layout) -> Result<Option<KeyPair>, IdentityError> {
    let path = layout.key();
    let pem = match durable::read_regular(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|source| IdentityError::Io { action: "read", path: path.clone(), source })?,
    };
    check_closed(layout.state())?;
    check_closed(&path)?;
    decode(&pem).map(Some).map_err(|what| IdentityError::Damaged { path, what })
}

/// This server's key, made durable first if there is none. The caller holds the lock of the state directory.
///
/// # Errors
/// As [`load`], or the key cannot be written.
pub fn load_or_create(layout: &Layout) -> Result<KeyPair, IdentityError> {
    prepare(layout)?;
    if let Some(key) = load(layout)? {
        return Ok(key);
    }
    let key = KeyPair::generate();
    let failed = |source| IdentityError::Io { action: "write", path: layout.key(), source };
    let directory = beneath::open_root(layout.state()).map_err(failed)?;
    durable::replace_file(directory.as_fd(), b"key.pem", encode(&key).as_bytes()).map_err(failed)?;
    Ok(key)
}

fn check_closed(path: &Path) -> Result<(), IdentityError> {
    let found =
        path.metadata().map_err(|source| IdentityError::Io { action: "look at", path: path.to_owned(), source })?;
    let (uid, owner, mode) = (rustix::process::geteuid().as_raw(), found.uid(), found.mode() & 0o7777);
    if owner == uid && mode & 0o077 == 0 {
        return Ok(());
    }
    Err(IdentityError::Open { path: path.to_owned(), uid, owner, mode })
}

/// PKCS#8 in PEM (RFC 7468, section 10).
fn encode(key: &KeyPair) -> String {
    let text = BASE64.encode(key.pkcs8());
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

fn decode(pem: &[u8]) -> Result<KeyPair, String> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|e| e.to_string())?;
    KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|e: Malformed| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(directory.path().join("state"));
        (directory, layout)
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    #[test]
    fn the_key_is_made_once_and_closed_to_others() {
        let (_directory, layout) = state();
        assert!(load(&layout).expect("nothing is there").is_none());
        let made = load_or_create(&layout).expect("made");
        assert_eq!(load_or_create(&layout).expect("loaded").public(), made.public());
        let mode = |path: &Path| path.metadata().expect("there").mode() & 0o7777;
        assert_eq!((mode(&layout.key()), mode(layout.state())), (0o600, 0o700));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let (_directory, layout) = state();
        load_or_create(&layout).expect("made");
        chmod(&layout.key(), 0o640);
        assert!(matches!(load(&layout), Err(IdentityError::Open { mode: 0o640, .. })));
        chmod(&layout.key(), 0o600);
        chmod(layout.state(), 0o755);
        assert!(matches!(load_or_create(&layout), Err(IdentityError::Open { mode: 0o755, .. })));
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays() {
        let (_directory, layout) = state();
        load_or_create(&layout).expect("made");
        let pem = std::fs::read(layout.key()).expect("read");
        for damaged in [&pem[..pem.len() / 2], b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(layout.key(), damaged).expect("written");
            assert!(matches!(load_or_create(&layout), Err(IdentityError::Damaged { .. })));
            assert_eq!(std::fs::read(layout.key()).expect("read"), damaged);
        }
    }
}
