//! The session tickets that this manager gave (see [`bellwether_proto::ticket`]): one small file per server in
//! `sessions/` of the state directory, written once a session, and never during an update.
//!
//! A file is named after the server's key and outlives the server's membership: within an epoch the count never goes
//! back, even if the server is renamed, removed, replaced or enters again. A file of an earlier epoch is ignored. Each
//! file has a lock, and a session counts only if no other ticket was given meanwhile, so no count is signed twice.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use bellwether_proto::{
    key::{KeyPair, PublicKey},
    record::Record,
    revision::Epoch,
    ticket::{Given, Parties},
};
use bellwether_store::{
    mutex::locked,
    state::file::{self, StateFileError},
};

/// The directory in the state directory.
pub(crate) const SESSIONS: &str = "sessions";
/// The most servers' files that are written at once.
const AT_ONCE: usize = 64;

/// The kept tickets of all servers.
pub(crate) struct Sessions {
    directory: PathBuf,
    /// One of them is held while a server's file is changed.
    turns: [Mutex<()>; AT_ONCE],
}

/// The tickets of one server, and their parties.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) parties: Parties,
    pub(crate) given: Given,
}

/// A session does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BegunError {
    /// The file fails.
    #[error(transparent)]
    File(#[from] StateFileError),
    /// Another connection was quicker; the next session is offered another ticket.
    #[error("another session with it has begun meanwhile")]
    Overtaken,
}

impl Sessions {
    pub(crate) fn new(state: &Path) -> Self {
        Self { directory: state.join(SESSIONS), turns: [const { Mutex::new(()) }; AT_ONCE] }
    }

    /// The tickets of that server in `epoch`; the offered one is durable when this returns. Blocks.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn open(&self, parties: Parties, epoch: Epoch, key: &KeyPair) -> Result<Opened, StateFileError> {
        let _turn = self.turn(&parties.server);
        if let Some(given) = self.kept(&parties, epoch)? {
            return Ok(Opened { parties, given });
        }
        let given = Given::first(&parties, epoch, key);
        make(&self.directory).map_err(|source| self.failed("create", source))?;
        file::save(&self.path(&parties.server), &given)?;
        Ok(Opened { parties, given })
    }

    /// Notes durably that a session has begun with the offered ticket. Blocks.
    ///
    /// # Errors
    /// The file cannot be written, or the offer is not the newest any more; the session does not count.
    pub(crate) fn begun(&self, opened: &Opened, key: &KeyPair) -> Result<Opened, BegunError> {
        let Opened { parties, given } = opened;
        let _turn = self.turn(&parties.server);
        let kept = self.kept(parties, given.next.epoch())?.filter(|kept| kept.next == given.next);
        let kept = kept.ok_or(BegunError::Overtaken)?;
        // If it has entered since the offer, the ticket that it showed is an older one.
        let next = Given { anew: kept.anew && !given.anew, ..kept.begun(parties, key) };
        file::save(&self.path(&parties.server), &next)?;
        Ok(Opened { parties: *parties, given: next })
    }

    /// Notes that the server enters: its next session may be without a ticket. Its given tickets stay known. Blocks.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn entered(&self, parties: &Parties, epoch: Epoch) -> Result<(), StateFileError> {
        let _turn = self.turn(&parties.server);
        match self.kept(parties, epoch)? {
            Some(given) if !given.anew => file::save(&self.path(&parties.server), &given.entered()),
            Some(_) | None => Ok(()),
        }
    }

    /// Removes the files of servers outside the group that are of an earlier epoch than the record's. Blocks.
    ///
    /// # Errors
    /// The system fails. An unreadable file stays.
    pub(crate) fn tidy(&self, record: &Record) -> io::Result<()> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let over =
                |given: Given| given.next.epoch() < record.version.epoch && record.by_key(&given.server).is_none();
            if file::load(&path).ok().flatten().is_some_and(over) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn kept(&self, parties: &Parties, epoch: Epoch) -> Result<Option<Given>, StateFileError> {
        let kept: Option<Given> = file::load(&self.path(&parties.server))?;
        Ok(kept.filter(|given| given.continues(parties, epoch)))
    }

    fn turn(&self, server: &PublicKey) -> MutexGuard<'_, ()> {
        let turn = usize::from(server.as_bytes()[0]) % AT_ONCE;
        locked(&self.turns[turn])
    }

    fn path(&self, server: &PublicKey) -> PathBuf {
        self.directory.join(format!("{}.json", data_encoding::HEXLOWER.encode(server.as_bytes())))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> StateFileError {
        StateFileError::Io { action, path: self.directory.clone(), source }
    }
}

fn make(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match directory.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
