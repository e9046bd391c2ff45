//! Whether it is confirmed that this server holds the newest revision (W12). An agent that ends in order notes this in
//! `confirmed.json`, so a restart takes no server out of rotation. A crash or a reboot leaves no valid note.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bellwether_proto::{error::chain, level::State};
use bellwether_store::state::{file, layout::Layout};
use serde::{Deserialize, Serialize};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Seconds since the boot, time in suspension included.
const UPTIME: &str = "/proc/uptime";

/// The end of an agent whose revision was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ended {
    /// The kernel's id for this boot.
    boot: String,
    /// Milliseconds since that boot.
    time_ms: u64,
}

impl State for Ended {}

impl Ended {
    /// The present moment; none if the system does not tell it.
    fn now() -> Option<Self> {
        let boot = fs::read_to_string(BOOT_ID).ok()?.trim().to_owned();
        let uptime = fs::read_to_string(UPTIME).ok()?;
        let seconds: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { boot, time_ms: (seconds * 1_000.0) as u64 })
    }

    /// Whether `now` is within `bound` of it.
    fn counts(&self, now: &Self, bound: Duration) -> bool {
        let since = now.time_ms.checked_sub(self.time_ms).map(Duration::from_millis);
        self.boot == now.boot && since.is_some_and(|since| since < bound)
    }
}

/// Whether it is confirmed, in this run or right before it.
#[derive(Debug, Default)]
pub(crate) struct Confirmed(AtomicBool);

impl Confirmed {
    /// Reads the note of the last run, if that ended within `bound`, and removes it.
    pub(crate) fn open(layout: &Layout, bound: Duration) -> Self {
        let file = layout.confirmed();
        let ended: Option<Ended> = file::load(&file).unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "the last run's note of its revision is not used");
            None
        });
        if ended.is_some() {
            // If it remains, the next start must be within the bound, too.
            let _ = fs::remove_file(&file);
        }
        let counts = ended.zip(Ended::now()).is_some_and(|(ended, now)| ended.counts(&now, bound));
        Self(AtomicBool::new(counts))
    }

    /// Sets it to confirmed.
    pub(crate) fn confirm(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Writes the note at the end of the agent.
    pub(crate) fn keep(&self, layout: &Layout) {
        let Some(now) = Ended::now().filter(|_| self.is()) else { return };
        if let Err(error) = file::save(&layout.confirmed(), &now) {
            tracing::warn!(error = chain(&error), "the confirmation of the revision is not saved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w12_a_note_counts_for_the_bound_and_in_its_own_boot() {
        let bound = Duration::from_secs(30);
        let at = |boot: &str, time_ms| Ended { boot: boot.to_owned(), time_ms };
        let ended = at("a", 100_000);
        assert!(ended.counts(&at("a", 100_000), bound) && ended.counts(&at("a", 129_999), bound));
        assert!(!ended.counts(&at("a", 130_000), bound), "too long ago");
        assert!(!ended.counts(&at("a", 99_999), bound), "from the future");
        assert!(!ended.counts(&at("b", 100_001), bound), "another boot");
    }

    #[test]
    fn w12_a_note_is_used_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(directory.path().to_owned());
        let hour = Duration::from_secs(3_600);
        let first = Confirmed::open(&layout, hour);
        assert!(!first.is());
        first.keep(&layout);
        assert!(!Confirmed::open(&layout, hour).is(), "nothing was confirmed");
        first.confirm();
        first.keep(&layout);
        assert!(Confirmed::open(&layout, hour).is());
        assert!(!Confirmed::open(&layout, hour).is(), "an agent that was killed leaves none");
    }
}
