//! The names of the files in the state directory (0700), and the group that this server belongs to.

use std::{
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use bellwether_proto::{
    key::PublicKey,
    level::State,
    record::{Level, SignedRecord},
};
use serde::{Deserialize, Serialize};

use crate::{
    beneath, durable,
    history::{self, HistoryError},
    log,
    state::file::{self, StateFileError},
};

/// The state directory.
#[derive(Debug, Clone)]
pub struct Layout {
    state: PathBuf,
}

/// The content of a place in the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A state file.
    State,
    /// A directory of state files.
    States,
    /// A directory of packs, with the log.
    History,
    /// A cache, made anew by a program that does not read it.
    Cache,
    /// Another file or directory.
    Other,
}

macro_rules! places {
    ($($(#[$doc:meta])* $place:ident = $file:literal: $content:expr;)*) => {
        impl Layout {
            $($(#[$doc])* pub fn $place(&self) -> PathBuf { self.state.join($file) })*

            /// All places that an agent keeps in its state directory, with their content.
            pub fn places(&self) -> Vec<(PathBuf, Content)> {
                vec![$((self.$place(), $content)),*]
            }
        }
    };
}

places! {
    /// This server's private key, 0600.
    key = "key.pem": Content::Other;
    /// The held group record, with the chain that led to it: a [`Held`].
    group = "group.json": Content::State;
    /// Packs: the revisions. And the log: the revision that the sets hold, the error that this server is in, a switch that is
    /// under way.
    history = "history": Content::History;
    /// The sets as last scanned.
    index = "index": Content::Cache;
    /// Outlines of chunks, at the manager.
    outlines = "outlines": Content::Cache;
    /// The identity of each set's directory.
    roots = "roots.json": Content::State;
    /// The join tokens of this manager.
    tokens = "tokens.json": Content::State;
    /// The progress of procedures.
    procedures = "procedures.json": Content::State;
    /// The state of a rollout in waves, at the manager.
    rollout = "rollout.json": Content::State;
    /// The batch, at the manager.
    batch = "batch.json": Content::State;
    /// The directories in which a manager's sets are edited, where these are not the sets' paths.
    sources = "sources.json": Content::State;
    /// Revisions that were only heard of.
    seen = "seen.json": Content::State;
    /// The note that the revision was confirmed when the agent ended (W12).
    confirmed = "confirmed.json": Content::State;
    /// The ticket of the last session with a manager (W14).
    ticket = "ticket.json": Content::State;
    /// The tickets that this manager gave.
    sessions = "sessions": Content::States;
    /// The halt: this manager's state went back.
    halted = "halted.json": Content::State;
    /// Unexpected ends of the agent, and the quarantine.
    ends = "ends.json": Content::State;
    /// The number of this server's incarnation (W14).
    incarnation = "incarnation": Content::State;
    /// The kept copies (invariant 4).
    recovery = "recovery": Content::Other;
    /// Held by the one process that may change this directory.
    lock = "lock": Content::Other;
}

impl Layout {
    /// Of the state directory `state`.
    pub fn new(state: PathBuf) -> Self {
        Self { state }
    }

    /// The directory itself.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Checks that no newer bellwether made these files, before any write: an unreadable file must not be replaced.
    ///
    /// # Errors
    /// A file that a newer bellwether made, or that cannot be read.
    pub fn check_levels(&self) -> Result<(), NotReadable> {
        for (place, content) in self.places() {
            match content {
                Content::State => file::check_level(&place)?,
                Content::States => listed(&place)?.iter().try_for_each(|file| file::check_level(file))?,
                Content::History => listed(&place)?.iter().try_for_each(|pack| history::check_version(pack))?,
                Content::Cache | Content::Other => {}
            }
        }
        Ok(())
    }

    /// The group that this server belongs to; none if it belongs to no group.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn held(&self) -> Result<Option<Held>, StateFileError> {
        file::load(&self.group())
    }

    /// Durably makes this server one of the group.
    ///
    /// # Errors
    /// It cannot be written; the held record is unchanged.
    pub fn hold(&self, held: &Held) -> Result<(), StateFileError> {
        file::save(&self.group(), held)
    }
}

/// This program does not touch a state directory.
#[derive(Debug, thiserror::Error)]
pub enum NotReadable {
    /// A state file.
    #[error(transparent)]
    File(#[from] StateFileError),
    /// A pack of the history.
    #[error(transparent)]
    Pack(#[from] HistoryError),
}

/// The content of a directory in the state directory; empty if there is none.
fn listed(directory: &Path) -> Result<Vec<PathBuf>, StateFileError> {
    let failed = |source| StateFileError::Io { action: "read", path: directory.to_owned(), source };
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let paths: io::Result<Vec<PathBuf>> = entries.map_err(failed)?.map(|entry| Ok(entry?.path())).collect();
            paths.map_err(failed)
        }
    }
}

/// The group is not forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// A switch was interrupted: the sets may hold two revisions, and have to be brought to one first.
    #[error("a switch was interrupted (see bellwether debug journal; it is in {0}); nothing was changed")]
    Interrupted(PathBuf),
    /// The system's error.
    #[error("cannot remove {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Layout {
    /// The existing files of the group, which [`Layout::forget`] removes.
    pub fn of_the_group(&self) -> Vec<PathBuf> {
        // The record goes first: after that this server belongs to no group, whenever the rest is removed.
        let places = [
            self.group(),
            self.tokens(),
            self.procedures(),
            self.rollout(),
            self.batch(),
            self.sources(),
            self.seen(),
            self.confirmed(),
            self.ticket(),
            self.sessions(),
            self.halted(),
            self.ends(),
            self.incarnation(),
            self.index(),
            self.roots(),
            self.history(),
        ];
        places.into_iter().filter(|place| place.symlink_metadata().is_ok()).collect()
    }

    /// Durably forgets the group (W22): its record, tokens, history and position go. The key, the kept copies and the
    /// sets stay. Safe to repeat. Returns the removed paths.
    ///
    /// # Errors
    /// A switch was interrupted, or the system's; earlier removals remain.
    pub fn forget(&self) -> Result<Vec<PathBuf>, ForgetError> {
        if !log::read(&self.history()).is_ok_and(|records| !records.is_switching()) {
            return Err(ForgetError::Interrupted(log::path(&self.history())));
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ForgetError::Io { path, source }
        };
        let places = self.of_the_group();
        if places.is_empty() {
            return Ok(places);
        }
        let state = beneath::open_root(&self.state).map_err(failed(&self.state))?;
        for place in &places {
            let name = place.file_name().map(OsStr::as_bytes).unwrap_or_default();
            durable::remove_all(state.as_fd(), name).map_err(failed(place))?;
            durable::sync_directory(state.as_fd()).map_err(failed(place))?;
        }
        Ok(places)
    }
}

/// The group record in force here, and the records that made each manager, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The record in force.
    pub current: SignedRecord,
    /// The chain of managers: the last record before and the first after every change of epoch.
    pub chain: Vec<SignedRecord>,
}

impl State for Held {
    fn level(&self) -> Level {
        self.current.record().level
    }

    /// The record in force is written again, at its level.
    fn oldest() -> Level {
        Level::OLDEST
    }
}

impl Held {
    /// Whether the server of that key is the manager.
    pub fn is_manager(&self, key: &PublicKey) -> bool {
        self.current.record().manager().key == *key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(directory.path().to_owned());
        for file in [layout.key(), layout.group(), layout.tokens(), layout.ticket()] {
            std::fs::write(file, "x").expect("written");
        }
        std::fs::create_dir_all(layout.history().join("a/b")).expect("made");
        std::fs::create_dir_all(layout.recovery().join("1.5")).expect("made");
        (directory, layout)
    }

    #[test]
    fn a_newer_file_in_any_place_is_found() {
        let newer = format!("{{\"format\":{},", Level::NEWEST.0 + 1);
        for (place, content) in Layout::new(PathBuf::new()).places() {
            let directory = tempfile::tempdir().expect("a directory");
            let layout = Layout::new(directory.path().to_owned());
            layout.check_levels().expect("there is nothing");
            let (file, bytes) = match content {
                Content::State => (place, newer.as_str()),
                Content::States => (place.join("a"), newer.as_str()),
                Content::History => (log::path(&place), "BWL9"),
                Content::Cache | Content::Other => continue,
            };
            let file = layout.state().join(file);
            std::fs::create_dir_all(file.parent().expect("a directory")).expect("made");
            std::fs::write(&file, bytes).expect("written");
            let refused = layout.check_levels().expect_err("it is newer").to_string();
            assert!(refused.contains("made by a newer bellwether"), "{}: {refused}", file.display());
        }
    }

    #[test]
    fn forgetting_leaves_the_key_and_the_kept_copies() {
        let (directory, layout) = filled();
        assert_eq!(layout.forget().expect("forgotten").first(), Some(&layout.group()));
        let mut left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["key.pem", "recovery"]);
        assert_eq!(layout.forget().expect("safe to repeat"), [] as [PathBuf; 0]);
    }

    #[test]
    fn nothing_is_forgotten_while_a_switch_may_be_interrupted() {
        let (_directory, layout) = filled();
        // It cannot be read, so nobody can say that there is none.
        std::fs::create_dir(log::path(&layout.history())).expect("made");
        assert!(matches!(layout.forget(), Err(ForgetError::Interrupted(_))));
        assert!(layout.group().exists());
    }
}
