//! The contenders: their setup and their work.

pub(crate) mod bellwether;
pub(crate) mod cp;
pub(crate) mod lsyncd;
pub(crate) mod rsync;

use std::time::Duration;

/// The time limit of one piece of work; the largest takes minutes over the slowest link.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1_200);
/// The time limit for a program to be ready.
pub(crate) const START: Duration = Duration::from_secs(60);
