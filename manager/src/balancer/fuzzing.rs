//! Entry points for fuzzing the readers of balancers' answers (`fuzz/`). Each returns whether the input was accepted.

use super::{haproxy, nginx};

/// HAProxy's answer to `show servers state`, and after a line `===` to `show stat`.
pub(crate) fn haproxy(text: &str) -> bool {
    haproxy::fuzz(text)
}

/// An upstream file: marking a line and unmarking it changes no other.
pub(crate) fn nginx(text: &str) -> bool {
    nginx::fuzz(text)
}
