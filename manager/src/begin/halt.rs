//! The file of the halt, which outlives a restart.

use std::{io, path::Path};

use bellwether_group::halt::Halt;
use bellwether_store::state::file::{self, StateFileError};

const HALTED: &str = "halted.json";

/// The halt in force, if there is one. Blocks.
///
/// # Errors
/// It cannot be read.
pub fn load(state: &Path) -> Result<Option<Halt>, StateFileError> {
    file::load(&state.join(HALTED))
}

/// Puts a halt in force, durably. Blocks.
///
/// # Errors
/// It cannot be written.
pub fn save(state: &Path, halt: &Halt) -> Result<(), StateFileError> {
    file::save(&state.join(HALTED), halt)
}

/// Ends the halt: the group is rebuilt, or this server is not the manager any more. Blocks.
///
/// # Errors
/// The system fails.
pub fn clear(state: &Path) -> io::Result<()> {
    match std::fs::remove_file(state.join(HALTED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bellwether_group::halt::Proof;

    use super::*;

    #[test]
    fn a_halt_is_in_force_until_it_is_cleared() {
        let state = tempfile::tempdir().unwrap();
        let halt = Halt::new("web2".parse().unwrap(), Proof::Session(7));
        assert_eq!(load(state.path()).unwrap(), None);
        save(state.path(), &halt).unwrap();
        assert_eq!(load(state.path()).unwrap(), Some(halt));
        clear(state.path()).unwrap();
        clear(state.path()).unwrap();
        assert_eq!(load(state.path()).unwrap(), None);
    }
}
