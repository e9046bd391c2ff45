//! The present boot of this machine: its identity, and a clock that counts from its beginning.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// The file with the identity of the boot.
const ID: &str = "/proc/sys/kernel/random/boot_id";

/// The identity of this boot; empty if the system does not tell.
pub fn id() -> String {
    fs::read_to_string(ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Milliseconds since the boot. No change of the wall clock matters, and the time in which the machine was suspended counts.
pub fn elapsed_ms() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    let (s, ns) = (u64::try_from(since.tv_sec).unwrap_or_default(), u64::try_from(since.tv_nsec).unwrap_or_default());
    s.saturating_mul(1_000) + ns / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_within_one_boot() {
        let (before, boot) = (elapsed_ms(), id());
        assert!(before > 0 && elapsed_ms() >= before);
        assert_eq!(boot, id());
    }
}
