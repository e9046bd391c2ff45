//! Waiting for a state: never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for a state that a farm reaches by itself, or for an answer: far longer than it takes on a busy
/// machine, where every other process has more to do, too. It decides when a test that hangs is given up, nothing else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// Looks again and again until `look` returns `Ok`; panics at the deadline with what was seen last.
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
