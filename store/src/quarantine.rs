//! Quarantine: a peer, pack or file that was in progress at three ends is not handled until a person lifts it.
//!
//! `ends.json` in the state directory lists the last unexpected ends, each with the work in progress
//! ([`underway`](crate::underway)). It is written while the program ends, and read at the start. Lifting a quarantine
//! removes it there, and the agent notices the change ([`Follow`]).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bellwether_proto::level::State;
use serde::{Deserialize, Serialize};

use crate::{
    state::file::{self, StateFileError},
    underway::Suspect,
};

/// The file in the state directory.
pub const FILE: &str = "ends.json";
/// The number of ends that puts a suspect in quarantine.
pub const ENDS: usize = 3;
/// The time within which they count, in milliseconds.
const WITHIN_MS: u64 = 24 * 3_600 * 1_000;
/// The most ends that are kept.
const KEPT: usize = 16;
/// The most quarantined suspects; the oldest goes.
const HELD: usize = 64;
/// The most characters of an end's message.
const WORDS: usize = 1_000;

/// An unexpected end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The task or thread.
    pub task: String,
    /// Its message.
    pub what: String,
    /// The work in progress.
    pub suspects: Vec<Suspect>,
}

/// A quarantined suspect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The suspect.
    pub suspect: Suspect,
    /// The beginning, in milliseconds since 1970.
    pub since_ms: u64,
    /// The message of the last end.
    pub what: String,
}

/// The content of [`FILE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// The last ends, oldest first.
    pub ends: Vec<End>,
    /// The quarantined suspects, longest first.
    pub held: Vec<Held>,
}

impl State for Ends {}

impl Ends {
    /// Notes one more end; returns the suspects that this quarantines.
    pub fn note(&mut self, mut end: End) -> Vec<Suspect> {
        end.what = end.what.chars().take(WORDS).collect();
        end.suspects.sort();
        end.suspects.dedup();
        let before = self.ends.iter().filter(|old| old.time_ms.saturating_add(WITHIN_MS) >= end.time_ms);
        let before: Vec<&End> = before.collect();
        let times = |suspect: &Suspect| before.iter().filter(|old| old.suspects.contains(suspect)).count() + 1;
        let guilty = end.suspects.iter().filter(|suspect| times(suspect) >= ENDS && !self.holds(suspect));
        let guilty: Vec<Suspect> = guilty.cloned().collect();
        let held = guilty.iter().map(|suspect| Held {
            suspect: suspect.clone(),
            since_ms: end.time_ms,
            what: end.what.clone(),
        });
        self.held.extend(held.collect::<Vec<_>>());
        self.ends.push(end);
        self.held.drain(..self.held.len().saturating_sub(HELD));
        self.ends.drain(..self.ends.len().saturating_sub(KEPT));
        guilty
    }

    /// Whether it is quarantined.
    pub fn holds(&self, suspect: &Suspect) -> bool {
        self.held.iter().any(|held| held.suspect == *suspect)
    }

    /// Lifts a quarantine, and removes the suspect from all ends; returns whether it was quarantined.
    pub fn lift(&mut self, suspect: &Suspect) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.suspect != *suspect);
        self.ends.iter_mut().for_each(|end| end.suspects.retain(|of| of != suspect));
        self.held.len() < before
    }
}

/// Loads the ends from that state directory.
///
/// # Errors
/// The file cannot be read.
pub fn load(state: &Path) -> Result<Ends, StateFileError> {
    Ok(file::load(&state.join(FILE))?.unwrap_or_default())
}

/// Durably replaces the ends in that state directory.
///
/// # Errors
/// The file cannot be written; it is unchanged.
pub fn save(state: &Path, ends: &Ends) -> Result<(), StateFileError> {
    file::save(&state.join(FILE), ends)
}

/// The quarantine of this process. The flag saves the lock if it is empty, as it usually is.
static ANY: AtomicBool = AtomicBool::new(false);
static OUT: RwLock<BTreeSet<Suspect>> = RwLock::new(BTreeSet::new());

/// Whether this process no longer handles it.
pub fn holds(suspect: &Suspect) -> bool {
    ANY.load(Ordering::Acquire) && OUT.read().unwrap_or_else(PoisonError::into_inner).contains(suspect)
}

/// Makes the quarantine of `ends` the one of this process.
pub fn enforce(ends: &Ends) {
    let mut out = OUT.write().unwrap_or_else(PoisonError::into_inner);
    *out = ends.held.iter().map(|held| held.suspect.clone()).collect();
    ANY.store(!out.is_empty(), Ordering::Release);
}

/// Reads the file of a state directory when it has changed.
#[derive(Debug)]
pub struct Follow {
    state: PathBuf,
    seen: Option<(std::time::SystemTime, u64)>,
}

impl Follow {
    /// Follows that state directory's file; nothing was read yet.
    pub fn new(state: PathBuf) -> Self {
        Self { state, seen: None }
    }

    /// The changed ends, enforced; none if they did not change.
    ///
    /// # Errors
    /// The file cannot be read; the quarantine is unchanged.
    pub fn look(&mut self) -> Result<Option<Ends>, StateFileError> {
        let now = self.state.join(FILE).metadata().ok().and_then(|found| Some((found.modified().ok()?, found.len())));
        if now == self.seen {
            return Ok(None);
        }
        self.seen = now;
        let ends = load(&self.state)?;
        enforce(&ends);
        Ok(Some(ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(time_ms: u64, suspects: &[&Suspect]) -> End {
        let suspects = suspects.iter().map(|suspect| (*suspect).clone()).collect();
        End { time_ms, task: "task".into(), what: "oh".repeat(WORDS), suspects }
    }

    fn pack() -> Suspect {
        Suspect::Pack("1.7".into())
    }

    fn bystander() -> Suspect {
        Suspect::Peer("web2".into())
    }

    #[test]
    fn the_third_end_makes_it_guilty_and_no_bystander() {
        let mut ends = Ends::default();
        assert!(ends.note(end(1, &[&pack(), &bystander()])).is_empty());
        assert!(ends.note(end(2, &[&pack()])).is_empty());
        assert!(ends.note(end(3, &[])).is_empty(), "an end of something else");
        assert!(!ends.holds(&pack()));
        assert_eq!(ends.note(end(4, &[&bystander(), &pack()])), [pack()]);
        assert!(ends.holds(&pack()) && !ends.holds(&bystander()));
        assert_eq!((ends.held[0].since_ms, ends.held[0].what.len()), (4, WORDS));
        assert!(ends.note(end(5, &[&pack()])).is_empty(), "it is held already");
        assert_eq!(ends.held.len(), 1);
    }

    #[test]
    fn one_end_counts_once_however_often_it_names() {
        assert!(Ends::default().note(end(1, &[&pack(), &pack(), &pack(), &pack()])).is_empty());
    }

    #[test]
    fn ends_that_are_long_over_do_not_count() {
        let mut ends = Ends::default();
        ends.note(end(1, &[&pack()]));
        ends.note(end(2, &[&pack()]));
        assert!(ends.note(end(3 + WITHIN_MS, &[&pack()])).is_empty());
    }

    #[test]
    fn who_is_let_in_again_begins_anew() {
        let mut ends = Ends::default();
        (1..4).for_each(|time| drop(ends.note(end(time, &[&pack()]))));
        assert!(ends.lift(&pack()) && !ends.holds(&pack()) && !ends.lift(&pack()));
        assert!(ends.note(end(5, &[&pack()])).is_empty());
        assert!(ends.note(end(6, &[&pack()])).is_empty());
        assert_eq!(ends.note(end(7, &[&pack()])), [pack()]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut ends = Ends::default();
        for number in 0..300 {
            let suspect = Suspect::File(number.to_string());
            (0..3).for_each(|_| drop(ends.note(end(number, &[&suspect]))));
        }
        assert_eq!((ends.ends.len(), ends.held.len()), (KEPT, HELD));
        assert!(ends.holds(&Suspect::File("299".into())));
    }

    #[test]
    fn what_is_noted_is_followed_and_enforced() {
        let home = tempfile::tempdir().unwrap();
        let mut follow = Follow::new(home.path().to_owned());
        assert_eq!(follow.look().unwrap(), None);
        let mut ends = Ends::default();
        let suspect = Suspect::File("only of this test".into());
        (1..4).for_each(|time| drop(ends.note(end(time, &[&suspect]))));
        save(home.path(), &ends).unwrap();
        assert!(!holds(&suspect));
        assert_eq!(follow.look().unwrap().as_ref(), Some(&ends));
        assert!(holds(&suspect));
        assert_eq!(follow.look().unwrap(), None);
        std::fs::write(home.path().join(FILE), "rubbish").unwrap();
        assert!(follow.look().is_err() && holds(&suspect), "what cannot be read lifts nothing");
        std::fs::remove_file(home.path().join(FILE)).unwrap();
        assert_eq!(follow.look().unwrap(), Some(Ends::default()));
        assert!(!holds(&suspect));
    }
}
