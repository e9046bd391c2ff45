//! The contenders: how each is set up and asked to work.

pub(crate) mod bellwether;
pub(crate) mod cp;
pub(crate) mod lsyncd;
pub(crate) mod rsync;

use std::time::Duration;

/// How long one piece of work may take; the largest, over the slowest link, takes minutes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1_200);
/// How long a program may take to be ready.
pub(crate) const START: Duration = Duration::from_secs(60);
