//! The one way for a test to say that it, or a part of it, cannot run on this machine.

use std::fmt::Display;

/// `TEST_SKIPS=forbidden`: whatever is skipped fails. The gate sets it.
pub const VARIABLE: &str = "TEST_SKIPS";

/// Says that `what` is not tested here, and why; the caller returns then.
///
/// # Panics
/// Nothing may be skipped, by [`VARIABLE`].
#[track_caller]
pub fn skip(what: impl Display, why: impl Display) {
    let line = line(what, why);
    assert!(!forbidden(std::env::var(VARIABLE).ok().as_deref()), "{line}; {VARIABLE} says that nothing may be");
    eprintln!("{line}");
}

fn line(what: impl Display, why: impl Display) -> String {
    format!("skipped: {what}: {why}")
}

/// A value that is not known forbids, too: it was meant to.
fn forbidden(value: Option<&str>) -> bool {
    !matches!(value, None | Some("" | "allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_forbids_and_nobody_else() {
        assert_eq!(
            [None, Some(""), Some("allowed"), Some("forbidden"), Some("forbiden")].map(forbidden),
            [false, false, false, true, true]
        );
    }

    #[test]
    fn what_and_why_are_said() {
        assert_eq!(line("mounts", "needs root"), "skipped: mounts: needs root");
    }
}
