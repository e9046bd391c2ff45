//! The wait before an unreachable server is dialled again: 100 ms after the first failure, then doubled each time up to
//! 30 s, always with jitter, so a farm does not come back in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// The number of failures since the server was last reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure; `random` is any number.
    pub(crate) fn failed(&mut self, random: u64) -> Duration {
        let base = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // Between three quarters of it and all of it.
        base - base / 4 * u32::try_from(random % 1000).unwrap_or(0) / 1000
    }

    /// The server was reached.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_thirty_seconds_and_starts_anew_when_reached() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..11).map(|_| backoff.failed(0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.failed(0), FIRST);
    }

    #[test]
    fn jitter_takes_at_most_a_quarter() {
        for random in 0..1000 {
            let wait = Backoff::default().failed(random);
            assert!(wait <= FIRST && wait >= FIRST * 3 / 4, "{random}: {wait:?}");
        }
    }
}
