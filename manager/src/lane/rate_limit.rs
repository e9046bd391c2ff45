//! Limits the unrequested messages of a member. Further ones stay in its connection, which holds the member back: a
//! flood costs the monitor, the log and the manager's memory no more than that (invariant 6).

use std::time::{Duration, Instant};

/// The cost of one message: a hundred a second are read.
const EACH: Duration = Duration::from_millis(10);
const BURST: Duration = Duration::from_secs(2);

/// The used-up budget of a member.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// The time at which all messages are paid for.
    paid: Instant,
}

impl RateLimit {
    pub(crate) fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// Charges a message.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + EACH;
    }

    /// Refunds a requested message.
    pub(crate) fn refund(&mut self) {
        self.paid -= EACH;
    }

    /// The time until the next message is read.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.paid.checked_duration_since(now + BURST).filter(|pause| !pause.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heard_a_flood_is_held_back() {
        let now = Instant::now();
        let mut rate_limit = RateLimit::new(now);
        (0..200).for_each(|_| rate_limit.spend(now));
        assert_eq!(rate_limit.pause(now), None);
        (0..2).for_each(|_| rate_limit.spend(now));
        assert_eq!(rate_limit.pause(now), Some(2 * EACH));
        assert_eq!(rate_limit.pause(now + 2 * EACH), None);
    }

    #[test]
    fn what_was_asked_for_costs_nothing() {
        let now = Instant::now();
        let mut rate_limit = RateLimit::new(now);
        for _ in 0..10_000 {
            rate_limit.spend(now);
            rate_limit.refund();
        }
        assert_eq!(rate_limit.pause(now), None);
    }
}
