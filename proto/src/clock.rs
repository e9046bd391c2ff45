//! The wall clock, which no other module reads (`clippy.toml`), and elapsed time in the units of the wire.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The present time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Microseconds since `began`.
pub fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}
