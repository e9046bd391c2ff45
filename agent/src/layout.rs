//! The names of what is in the state directory (0700), and the group that this server belongs to.

use std::path::{Path, PathBuf};

use bellwether_proto::{key::PublicKey, record::SignedRecord};
use bellwether_store::state_file::{self, StateFileError};
use serde::{Deserialize, Serialize};

/// The state directory.
#[derive(Debug, Clone)]
pub struct Layout {
    state: PathBuf,
}

macro_rules! places {
    ($($(#[$doc:meta])* $place:ident = $file:literal;)*) => {
        impl Layout {
            $($(#[$doc])* pub fn $place(&self) -> PathBuf { self.state.join($file) })*
        }
    };
}

places! {
    /// This server's private key, 0600.
    key = "key.pem";
    /// The group record that is held, with the chain that led to it: a [`Held`].
    group = "group.json";
    /// The join tokens of this manager.
    tokens = "tokens.json";
    /// The revision that the sets hold, the highest epoch seen, the error that this server is in.
    position = "position.json";
    /// How often the manager's state was opened (W14).
    incarnation = "incarnation";
    /// Packs: the revisions.
    history = "history";
    /// What was last scanned.
    index = "index";
    /// A switch that is under way.
    journal = "journal";
    /// What was replaced and is kept (invariant 4).
    recovery = "recovery";
    /// Held by the one process that may change this directory.
    lock = "lock";
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

    /// The group that this server belongs to; none: to no group.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn held(&self) -> Result<Option<Held>, StateFileError> {
        state_file::load(&self.group())
    }

    /// Durably makes this server one of the group.
    ///
    /// # Errors
    /// It cannot be written; what was held is held.
    pub fn hold(&self, held: &Held) -> Result<(), StateFileError> {
        state_file::save(&self.group(), held)
    }
}

/// The group record that is in force here, and the records that made each manager, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// In force.
    pub current: SignedRecord,
    /// Who made whom manager: the first record of every epoch.
    pub chain: Vec<SignedRecord>,
}

impl Held {
    /// Whether the server of that key is the manager.
    pub fn is_manager(&self, key: &PublicKey) -> bool {
        self.current.record().manager().key == *key
    }
}
