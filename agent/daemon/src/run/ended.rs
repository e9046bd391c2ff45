//! The reason that the agent did not start, or ended.

use std::error::Error;

use bellwether_proto::{
    advice::{Advice, Outcome},
    error::chain,
};

/// The agent's end, for the command that ran it.
#[derive(Debug)]
pub struct Ended {
    /// Refused before anything was changed, or failed.
    pub outcome: Outcome,
    /// What happened, with its causes.
    pub message: String,
    /// What to do next.
    pub advice: Option<Advice>,
}

impl Ended {
    pub(super) fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { outcome, message: message.into(), advice: None }
    }

    pub(super) fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::new(Outcome::Failed, chain(error))
    }

    pub(super) fn refused(error: &(dyn Error + 'static)) -> Self {
        Self::new(Outcome::Refused, chain(error))
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { advice: Some(Advice::say(hint)), ..self }
    }
}
