//! Format levels: how servers of version N−1 and N work in one group.
//!
//! The group record names the level in force; without a name it is the first. A program reads the levels
//! [`Levels::OWN`] and writes at the record's level. A later level's features are used only after an administrator has
//! raised the group's level, and a later field is omitted while it has its default. So a group at the old level can go
//! back to version N−1, and every server that reads the level knows all that it meets.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Malformed,
    revision::SignedHeader,
    ticket::{Given, Ticket},
};

/// A format level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u32);

impl Level {
    /// The level of a document that does not name one.
    pub const FIRST: Self = Self(1);
    /// The oldest level that this program reads: the one before [`Level::NEWEST`].
    pub const OLDEST: Self = Self(1);
    /// The newest level that this program reads and writes.
    pub const NEWEST: Self = Self(if cfg!(feature = "level-next") { 2 } else { 1 });

    /// Whether a document omits the level.
    pub fn is_first(&self) -> bool {
        *self == Self::FIRST
    }

    /// Checks that this program reads `what`, which is of this level.
    ///
    /// # Errors
    /// The level is too new or too old; the error names the program to upgrade.
    pub fn check(self, what: &str) -> Result<(), Malformed> {
        if Levels::OWN.read(self) {
            return Ok(());
        }
        let own = Program::own();
        let (made_by, next) = if self > Self::NEWEST {
            ("a newer bellwether", "; upgrade bellwether on this server")
        } else {
            ("a version that is too old", "")
        };
        Err(Malformed::new(format!(
            "{what} was made by {made_by}: it is of level {self}, and this server's bellwether is {own}{next}"
        )))
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::FIRST
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Reads a JSON document. Its field `level` (none: the first) is checked first: a newer document may have any form.
///
/// # Errors
/// This program does not read the document's level, or the document is malformed, which `otherwise` describes.
pub fn read<T: DeserializeOwned>(json: &str, what: &str, otherwise: &str) -> Result<T, Malformed> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        level: Level,
    }
    let wrong = |error: serde_json::Error| Malformed::new(format!("{otherwise}: {error}"));
    let Document { level } = serde_json::from_str(json).map_err(wrong)?;
    level.check(what)?;
    serde_json::from_str(json).map_err(wrong)
}

/// The content of a file of this program.
pub trait State: Serialize + DeserializeOwned {
    /// The oldest level whose programs read this content: later than the first only if it uses a later feature.
    fn level(&self) -> Level {
        Level::FIRST
    }

    /// Reads a body of `level`. A type that changes keeps its former form as a type of its own, and converts it here.
    ///
    /// # Errors
    /// The body is malformed.
    fn read(_level: Level, body: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(body)
    }
}

impl State for Ticket {}
impl State for Given {}
impl State for Vec<SignedHeader> {}

/// The levels that a program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The oldest level.
    pub oldest: Level,
    /// The newest level, which it also writes at most.
    pub newest: Level,
}

impl Levels {
    /// The levels of this program.
    pub const OWN: Self = Self { oldest: Level::OLDEST, newest: Level::NEWEST };

    /// The levels of a message; an absent number means the first level.
    pub fn from_wire(oldest: u32, newest: u32) -> Self {
        Self { oldest: Level(oldest).max(Level::FIRST), newest: Level(newest).max(Level::FIRST) }
    }

    /// Whether a program of these levels reads `level`.
    pub fn read(&self, level: Level) -> bool {
        (self.oldest..=self.newest).contains(&level)
    }
}

impl std::fmt::Display for Levels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest { write!(f, "level {newest}") } else { write!(f, "levels {oldest} to {newest}") }
    }
}

/// A server's program, as the server reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// The levels that it reads.
    pub levels: Levels,
}

impl Program {
    /// This program.
    pub fn own() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), levels: Levels::OWN }
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, which reads {}", self.version, self.levels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_the_newest_level_and_the_one_before() {
        let levels = [Level::FIRST, Level::OLDEST, Level::NEWEST];
        assert!(levels.is_sorted() && levels[2].0 <= levels[1].0 + 1);
        for level in [Level::OLDEST, Level::NEWEST] {
            assert_eq!(level.check("a record"), Ok(()));
            assert!(Levels::OWN.read(level));
        }
    }

    #[test]
    fn what_is_newer_is_never_called_damaged_and_names_the_program_to_upgrade() {
        let later = Level(Level::NEWEST.0 + 1);
        let said = later.check("the group record").unwrap_err().to_string();
        for words in ["made by a newer bellwether", &format!("level {later}"), env!("CARGO_PKG_VERSION"), "upgrade"] {
            assert!(said.contains(words), "no '{words}' in {said}");
        }
        assert!(!said.contains("damaged"), "{said}");
        assert!(Level(0).check("it").unwrap_err().to_string().contains("too old"));
    }

    #[test]
    fn a_server_that_names_no_levels_reads_the_first() {
        assert_eq!(Levels::from_wire(0, 0), Levels { oldest: Level(1), newest: Level(1) });
        assert_eq!(Levels::from_wire(2, 3).to_string(), "levels 2 to 3");
    }
}
