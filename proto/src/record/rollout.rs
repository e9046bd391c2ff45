//! The group's policy for waves: the members that get a revision first, and the failures that stop it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Malformed, limits};

/// How a revision goes to the members in waves. Without a policy, it goes to all members at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutPolicy {
    /// The number of members of the first wave; 0: the first wave is a batch like the others.
    pub canary: u32,
    /// The size of each later wave.
    pub batch: Batch,
    /// How long a wave has to have been good before the next one begins, in milliseconds.
    pub soak_ms: u64,
    /// The number of members that fail with a revision at which it goes to no further member.
    pub stop_at: u32,
    /// Whether the content of the revision before is published then.
    pub take_back: bool,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        Self { canary: 0, batch: Batch::Percent(100), soak_ms: 0, stop_at: 1, take_back: true }
    }
}

impl RolloutPolicy {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The value that is out of its bounds.
    pub fn check(&self) -> Result<(), Malformed> {
        let most = limits::SERVERS;
        let of_servers = |what: &str, count: u32, least: u32| {
            let possible = count >= least && count as usize <= most;
            let said = || Malformed::new(format!("{what} of {count}; it may be {least} to {most}"));
            possible.then_some(()).ok_or_else(said)
        };
        of_servers("a canary wave", self.canary, 0)?;
        of_servers("a limit of failures", self.stop_at, 1)?;
        match self.batch {
            Batch::Members(count) => of_servers("a batch", count, 1)?,
            Batch::Percent(1..=100) => {}
            Batch::Percent(percent) => {
                return Err(Malformed::new(format!("a batch of {percent}%; it may be 1% to 100%")));
            }
        }
        if self.soak_ms > limits::SOAK {
            let ms = self.soak_ms;
            return Err(Malformed::new(format!("a soak time of {ms} ms; it may be {} at most", limits::SOAK)));
        }
        Ok(())
    }
}

/// The size of a wave, as text `N` or `P%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Batch {
    /// So many members.
    Members(u32),
    /// So many of a hundred members, rounded up.
    Percent(u32),
}

impl Batch {
    /// The number of members in a wave of a group with `members` members; at least one.
    pub fn of(self, members: usize) -> usize {
        match self {
            Self::Members(count) => count as usize,
            Self::Percent(percent) => (members * percent as usize).div_ceil(100),
        }
        .max(1)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl From<Batch> for String {
    fn from(batch: Batch) -> Self {
        batch.to_string()
    }
}

impl TryFrom<String> for Batch {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl FromStr for Batch {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let batch = match text.strip_suffix('%') {
            Some(percent) => percent.parse().map(Self::Percent),
            None => text.parse().map(Self::Members),
        };
        batch.map_err(|_| {
            let text = text.escape_debug();
            Malformed::new(format!(
                "'{text}' is not the size of a batch: a number of members, or a percentage such as 25%"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_number_or_a_part_of_the_members() {
        for (text, members, size) in [("2", 9, 2), ("50%", 4, 2), ("50%", 5, 3), ("1%", 4, 1), ("100%", 0, 1)] {
            let batch: Batch = text.parse().expect(text);
            assert_eq!((batch.of(members), batch.to_string().as_str()), (size, text));
        }
        for wrong in ["", "%", "-1", "1.5", "half", "1 %"] {
            assert!(wrong.parse::<Batch>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        let fine = RolloutPolicy::default();
        assert_eq!(fine.check(), Ok(()));
        let most = limits::SERVERS as u32;
        for wrong in [
            RolloutPolicy { canary: most + 1, ..fine.clone() },
            RolloutPolicy { batch: Batch::Members(0), ..fine.clone() },
            RolloutPolicy { batch: Batch::Percent(0), ..fine.clone() },
            RolloutPolicy { batch: Batch::Percent(101), ..fine.clone() },
            RolloutPolicy { soak_ms: limits::SOAK + 1, ..fine.clone() },
            RolloutPolicy { stop_at: 0, ..fine.clone() },
            RolloutPolicy { stop_at: most + 1, ..fine },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
