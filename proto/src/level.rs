//! Format levels: how servers of version N−1 and N work in one group.
//!
//! The group record names the level in force; without a name it is the first. A program works in groups of the levels
//! [`Levels::OWN`] and writes at the record's level. A later level's features are used only after an administrator has
//! raised the group's level, and a later field is omitted while it has its default. So a group at the old level can go
//! back to version N−1, and every server that works at the level knows all that it meets.
//!
//! What was written at an older level stays readable for ever: a chain of managers, the procedures of a candidate and a
//! state file may be older than the record in force. So no field or kind of a signed document is taken away or renamed.

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
    /// The oldest level of a group in which this program works: the one before [`Level::NEWEST`].
    pub const OLDEST: Self = Self(Self::NEWEST.0 - 1);
    /// The newest level that this program reads and writes: the one that is not closed yet.
    pub const NEWEST: Self = Self(if cfg!(feature = "level-next") { 3 } else { 2 });

    /// Whether a document omits the level.
    pub fn is_first(&self) -> bool {
        *self == Self::FIRST
    }

    /// Checks that this program reads `what`, which is of this level.
    ///
    /// # Errors
    /// The level is too new; the error names the program to upgrade.
    pub fn check(self, what: &str) -> Result<(), Malformed> {
        self.check_from(Self::FIRST, what)
    }

    /// Checks that this program works in a group whose record `what` is of this level.
    ///
    /// # Errors
    /// The level is too new or too old; the error names the program to upgrade.
    pub fn check_in_force(self, what: &str) -> Result<(), Malformed> {
        self.check_from(Self::OLDEST, what)
    }

    fn check_from(self, oldest: Self, what: &str) -> Result<(), Malformed> {
        if (oldest..=Self::NEWEST).contains(&self) {
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
/// The document is of a later level, or malformed, which `otherwise` describes.
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

    /// The oldest level of a body that [`State::read`] reads.
    fn oldest() -> Level {
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

/// The levels of the groups in which a program works.
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

    /// Whether a program of these levels works in a group of `level`.
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
    /// Its levels.
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
            assert_eq!((level.check("a record"), level.check_in_force("a record")), (Ok(()), Ok(())));
            assert!(Levels::OWN.read(level));
        }
    }

    #[test]
    fn what_is_older_is_read_and_is_not_in_force() {
        for level in (1..).map(Level).take_while(|level| *level < Level::OLDEST) {
            assert_eq!(level.check("a link"), Ok(()));
            assert!(level.check_in_force("a record").unwrap_err().to_string().contains("too old"));
        }
        for check in [Level::check, Level::check_in_force] {
            assert!(check(Level(0), "it").unwrap_err().to_string().contains("too old"), "there is none");
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
    }

    #[test]
    fn a_server_that_names_no_levels_reads_the_first() {
        assert_eq!(Levels::from_wire(0, 0), Levels { oldest: Level(1), newest: Level(1) });
        assert_eq!(Levels::from_wire(2, 3).to_string(), "levels 2 to 3");
    }
}
