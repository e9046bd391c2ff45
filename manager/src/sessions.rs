//! The session tickets that this manager gave (see [`bellwether_proto::ticket`]): one small file a server in `sessions/` of
//! the state directory, written once a session, never on the way of an update. A file of another key, or of an earlier
//! epoch, counts for nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bellwether_proto::{
    key::KeyPair,
    name::ServerName,
    revision::Epoch,
    ticket::{Given, Parties},
};
use bellwether_store::state_file::{self, StateFileError};

/// The directory in the state directory.
pub(crate) const SESSIONS: &str = "sessions";

/// One server's tickets, as kept.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    path: PathBuf,
    parties: Parties,
    pub(crate) given: Given,
}

impl Sessions {
    /// What was given to that server in `epoch`; the first ticket is durable when this returns. Blocks.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(crate) fn open(
        state: &Path,
        name: &ServerName,
        parties: Parties,
        epoch: Epoch,
        key: &KeyPair,
    ) -> Result<Self, StateFileError> {
        let path = path(state, name);
        let kept: Option<Given> = state_file::load(&path)?;
        if let Some(given) = kept.filter(|given| given.continues(&parties, epoch)) {
            return Ok(Self { path, parties, given });
        }
        let given = Given::first(&parties, epoch, key);
        let directory = state.join(SESSIONS);
        make(&directory).map_err(|source| StateFileError::Io { action: "create", path: directory.clone(), source })?;
        state_file::save(&path, &given)?;
        Ok(Self { path, parties, given })
    }

    /// Between whom.
    pub(crate) fn parties(&self) -> &Parties {
        &self.parties
    }

    /// A session has begun with the ticket that was offered: noted durably. Blocks.
    ///
    /// # Errors
    /// It cannot be written; the next session is offered the same ticket.
    pub(crate) fn begun(&mut self, key: &KeyPair) -> Result<(), StateFileError> {
        let given = self.given.begun(&self.parties, key);
        state_file::save(&self.path, &given)?;
        self.given = given;
        Ok(())
    }
}

fn path(state: &Path, name: &ServerName) -> PathBuf {
    state.join(SESSIONS).join(format!("{name}.json"))
}

fn make(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match directory.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Forgets what that server was given: it enters the group anew, without a state. Blocks.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn forget(state: &Path, name: &ServerName) -> Result<(), StateFileError> {
    let path = path(state, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StateFileError::Io { action: "remove", path, source: error })
        }
        _ => Ok(()),
    }
}
