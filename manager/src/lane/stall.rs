//! Decides that a member is stalled: pure rules over times and bytes.

use std::time::{Duration, Instant};

/// The slowest network that does not count as dead, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// Time limits for a member.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For the answer to a keepalive.
    pub answer: Duration,
    /// For room for the next message.
    pub stall: Duration,
    /// For progress with the offered pack.
    pub progress: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { answer: Duration::from_secs(15), stall: minute, progress: minute }
    }
}

/// The last observations of one connection.
#[derive(Debug)]
pub(crate) struct StallWatch {
    deadlines: Deadlines,
    /// The last message from the member.
    heard: Instant,
    /// The last message to it, or time without one to send.
    went: Instant,
    /// The last progress, or time without an offer.
    progress: Instant,
    /// Bytes sent since its last message.
    unheard: u64,
}

impl StallWatch {
    pub(crate) fn new(deadlines: Deadlines, now: Instant) -> Self {
        Self { deadlines, heard: now, went: now, progress: now, unheard: 0 }
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.unheard = 0;
    }

    pub(crate) fn went(&mut self, now: Instant, bytes: u64) {
        self.went = now;
        self.unheard += bytes;
    }

    pub(crate) fn progress(&mut self, now: Instant) {
        self.progress = now;
    }

    /// The reason to drop the connection. `working`: the bytes of the offered pack, while there is one.
    pub(crate) fn check(&self, now: Instant, working: Option<u64>) -> Option<String> {
        let over = |since: Instant, limit: Duration| now.saturating_duration_since(since) > limit;
        let crossing = |bytes: u64| Duration::from_secs(bytes / SLOWEST);
        let Deadlines { answer, stall, progress } = self.deadlines;
        if over(self.went, stall) {
            return Some(format!("it has taken nothing for {} s", stall.as_secs()));
        }
        if over(self.heard, answer + crossing(self.unheard)) {
            let silence = now.saturating_duration_since(self.heard);
            return Some(format!("it has not answered for {} s", silence.as_secs()));
        }
        let size = working?;
        over(self.progress, progress + crossing(size)).then(|| {
            let silence = now.saturating_duration_since(self.progress);
            format!("it has made no progress for {} s", silence.as_secs())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn silence() {
        let start = Instant::now();
        let mut stall = StallWatch::new(Deadlines::default(), start);
        assert_eq!(stall.check(start + seconds(15), None), None);
        assert!(stall.check(start + seconds(16), None).unwrap().contains("not answered"));
        stall.went(start + seconds(1), 100 * SLOWEST);
        assert_eq!(stall.check(start + seconds(50), None), None, "the answer is behind what is on its way");
        stall.heard(start + seconds(50));
        assert!(stall.check(start + seconds(66), None).is_some());
    }

    #[test]
    fn a_stall_is_seen_although_it_still_talks() {
        let start = Instant::now();
        let mut stall = StallWatch::new(Deadlines::default(), start);
        stall.heard(start + seconds(61));
        assert!(stall.check(start + seconds(61), None).unwrap().contains("taken nothing"));
    }

    #[test]
    fn the_time_for_a_report_grows_with_the_pack() {
        let start = Instant::now();
        let mut stall = StallWatch::new(Deadlines::default(), start);
        let now = start + seconds(100);
        stall.heard(now);
        stall.went(now, 0);
        assert!(stall.check(now, Some(0)).unwrap().contains("no progress"));
        assert_eq!(stall.check(now, Some(60 * SLOWEST)), None);
        assert_eq!(stall.check(now, None), None);
        stall.progress(now);
        assert_eq!(stall.check(now + seconds(1), Some(0)), None);
    }
}
