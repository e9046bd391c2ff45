//! The only way for a test to report that it, or a part of it, cannot run on this machine.

use std::fmt::Display;

/// With `TEST_SKIPS=forbidden`, as the gate sets it, a skip fails the test.
pub const VARIABLE: &str = "TEST_SKIPS";

/// Reports that `what` is not tested here, with the reason. The caller returns after it.
///
/// # Panics
/// [`VARIABLE`] forbids skips.
#[track_caller]
pub fn skip(what: impl Display, why: impl Display) {
    let line = line(what, why);
    assert!(!forbidden(std::env::var(VARIABLE).ok().as_deref()), "{line}; {VARIABLE} says that nothing may be");
    eprintln!("{line}");
}

fn line(what: impl Display, why: impl Display) -> String {
    format!("skipped: {what}: {why}")
}

/// An unknown value forbids skips, too, since it was meant to.
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
