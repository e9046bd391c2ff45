//! Whether a server may take traffic.

use serde::{Deserialize, Serialize};

/// Whether this server may take traffic, from its own state only (W12), so never for the loss of the manager (W11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// In sync at some revision, and neither in a sync nor in error.
    pub ready: bool,
    /// No server has confirmed since this server's start that its revision is the newest one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// The reason, in both cases.
    pub reason: String,
}

impl Ready {
    /// In sync at some revision.
    pub fn yes(reason: impl Into<String>) -> Self {
        Self { ready: true, stale: false, reason: reason.into() }
    }

    /// Not in sync yet, in a sync, or in error.
    pub fn no(reason: impl Into<String>) -> Self {
        Self { ready: false, stale: false, reason: reason.into() }
    }
}
