//! Waits for a state, and never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The time limit for a state that a farm reaches by itself, and for an answer. It is far longer than needed on a busy
/// machine, and only ends a test that hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// Calls `look` again and again until it returns `Ok`; panics at the deadline with the last error.
pub(crate) fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(value) => return value,
            Err(last) => last,
        };
        assert!(start.elapsed() < deadline, "waited {deadline:?} for: {what}\nlast seen: {last}");
        thread::sleep(Duration::from_millis(15));
    }
}
