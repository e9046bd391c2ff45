//! How often edits are put back without being asked: one that is made again and again (by another tool that manages the
//! same file, say) must not fill the disk with kept copies. A pure rule; time is an argument.

use std::time::{Duration, Instant};

/// From one time to the next while edits come again; doubled each time, up to [`SLOWEST`].
const FIRST: Duration = Duration::from_secs(2);
const SLOWEST: Duration = Duration::from_secs(600);

/// When edits were last put back, and how soon they may be again.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// Whether edits may be put back now; if so, they are taken to be.
    pub(crate) fn may(&mut self, now: Instant) -> bool {
        let pause = match self.last {
            None => FIRST,
            Some((at, pause)) => {
                let since = now.saturating_duration_since(at);
                if since < pause {
                    return false;
                }
                // Quiet for much longer than it had to be: it begins anew.
                if since > 4 * pause { FIRST } else { (2 * pause).min(SLOWEST) }
            }
        };
        self.last = Some((now, pause));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_that_come_again_are_put_back_ever_more_rarely() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let done = (0..7_200_000).step_by(100).filter(|ms| pace.may(start + Duration::from_millis(*ms))).count();
        assert!((15..=25).contains(&done), "{done} times in two hours");
    }

    #[test]
    fn after_a_quiet_time_it_begins_anew() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.may(start));
        assert!(!pace.may(start + Duration::from_secs(1)));
        assert!(pace.may(start + Duration::from_secs(2)));
        assert!(!pace.may(start + Duration::from_secs(5)), "twice the pause");
        let later = start + Duration::from_secs(100);
        assert!(pace.may(later) && pace.may(later + FIRST));
    }
}
