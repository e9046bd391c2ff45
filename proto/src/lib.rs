//! The contract between servers: the messages of `bellwether/v1/*.proto`, and the domain's own types.
//!
//! All data from the wire or the disk passes through a checking conversion here (invariant 7), so that a value of a
//! domain type is well-formed, whichever server sent it.

// All output for people goes through `agent/src/output.rs` and the log.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod admission;
pub mod advice;
pub mod balancer;
pub mod clock;
pub mod entry;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod hash;
pub mod incarnation;
pub mod key;
pub mod level;
pub mod limits;
pub mod name;
pub mod protocol;
pub mod ready;
pub mod record;
pub mod revision;

pub mod status;
pub mod ticket;
pub mod time;
pub mod token;

/// The generated messages and services.
#[allow(missing_docs, unreachable_pub, clippy::pedantic, clippy::large_enum_variant)]
pub mod v1 {
    tonic::include_proto!("bellwether.v1");
}

/// A message or file that breaks the contract. `Display` names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Malformed {
    what: String,
}

/// The largest number of characters of a [`Malformed`]: it quotes foreign input, and travels in a header.
const SAID: usize = 1_000;

impl advice::Advise for Malformed {}

impl Malformed {
    /// One sentence that names the field and the rule. A long one is cut.
    pub fn new(what: impl Into<String>) -> Self {
        let mut what = what.into();
        if let Some((end, _)) = what.char_indices().nth(SAID) {
            what.truncate(end);
            what.push('…');
        }
        Self { what }
    }
}
