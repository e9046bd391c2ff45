//! What fuzzing feeds to the readers of what balancers say (`fuzz/`). Each function says whether it
//! was taken.

use super::{haproxy, nginx};

/// What HAProxy answers to `show servers state`, and after a line `===` to `show stat`.
pub(crate) fn haproxy(text: &str) -> bool {
    haproxy::fuzz(text)
}

/// An upstream file: marking a line and unmarking it changes no other.
pub(crate) fn nginx(text: &str) -> bool {
    nginx::fuzz(text)
}
