//! The target of each server: the one rule between the head and the lanes. With a policy for waves, a member gets the head when
//! [`Rollout`] lets it; otherwise the head is the target of all at once.

use std::fmt;

mod machine;
mod member;
mod waves;

use bellwether_proto::{
    record::Policy,
    revision::{HOLD, Number, RevisionId, SignedHeader, TAKEN_BACK},
};

pub use self::{
    machine::{Kept, NotDecided, Plan, Released, Rollout, Stop, TakeBack},
    member::Member,
    waves::{Standing, Standings, is_good, wave, waves},
};

/// The order of a server's rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// An unfinished recovery drains the server first, and has not yet come to it (W23).
    pub later: bool,
    /// What the rollout lets it do.
    pub release: Release,
}

/// What the rollout of the head lets one server do ([`Plan::release`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Release {
    /// Servers take a revision only when it is released to them: there are waves, or some server validates revisions.
    pub gated: bool,
    /// The revision that it may stage and validate, if it has commands that do so.
    pub staged: Option<RevisionId>,
    /// The revision that it may switch to.
    pub taken: Option<RevisionId>,
}

/// The time of a look, by two clocks, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Any clock that does not go back.
    pub at_ms: u64,
    /// Since 1970.
    pub wall_ms: u64,
}

/// What holds publishing back: nothing but a person goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The rollout of this revision, the head, is stopped, and members have switched to it.
    Stopped(Number),
    /// This revision, the head, waits for its confirmation.
    Unconfirmed(Number),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped(revision) => write!(f, "the rollout of {revision} is stopped"),
            Self::Unconfirmed(revision) => write!(f, "{revision} waits for its confirmation"),
        }
    }
}

/// The target of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The revision.
    pub revision: RevisionId,
    /// The revision's number, for people.
    pub number: Number,
    /// The time of the rollout.
    pub due: Due,
}

/// The time at which a server is brought to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// As soon as possible.
    Now,
    /// It is staged and validated now, by a server with commands that do so. The switch comes later.
    Staged,
    /// When no procedure and no wave holds it back any more, or a sync is requested.
    Held,
}

/// Whether watching is held: the head is a rollback that holds it, and nobody has said `resume` since. The head is sent all
/// the same, and no edit becomes a revision by itself.
pub fn holds_watching(head: &SignedHeader, policy: &Policy) -> bool {
    policy.paused && head.header().labels.contains_key(HOLD)
}

/// Whether the head brings back earlier content in a hurry: it goes to all members at once.
pub fn is_urgent(head: &SignedHeader) -> bool {
    let labels = &head.header().labels;
    labels.contains_key(TAKEN_BACK) || labels.contains_key(HOLD)
}

/// The target of a server that holds the revision `at`, if the newest one is `head`. No wave holds back a server that holds no
/// revision, or for which the head changes nothing.
pub fn target(head: &SignedHeader, at: Option<&SignedHeader>, order: Order, policy: &Policy) -> Target {
    let changes_nothing =
        |at: &SignedHeader| head.header().parent == Some(at.id()) && head.header().root == at.header().root;
    let Release { gated, staged, taken } = order.release;
    let at_once = !gated && policy.rollout.is_none() || is_urgent(head) || at.is_none_or(changes_nothing);
    let paused = policy.paused && !holds_watching(head, policy);
    let due = match order.later || paused {
        true => Due::Held,
        false if at_once || taken == Some(head.id()) => Due::Now,
        false if staged == Some(head.id()) => Due::Staged,
        false => Due::Held,
    };
    Target { revision: head.id(), number: head.number(), due }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        hash::Hash,
        key::KeyPair,
        record::RolloutPolicy,
        revision::{HOLD, Header},
    };

    use super::*;
    use bellwether_random::headers::header;

    const NOW: Order = Order { later: false, release: Release { gated: false, staged: None, taken: None } };
    const LATER: Order = Order { later: true, ..NOW };

    fn signed(header: Header) -> SignedHeader {
        SignedHeader::sign(header, &KeyPair::generate())
    }

    fn head() -> SignedHeader {
        signed(header(2, 7))
    }

    fn due(head: &SignedHeader, at: Option<&SignedHeader>, order: Order, policy: &Policy) -> Due {
        target(head, at, order, policy).due
    }

    #[test]
    fn without_waves_all_are_to_hold_the_head_at_once() {
        let (head, policy) = (head(), Policy::new(Vec::new()));
        let target = target(&head, Some(&signed(header(2, 6))), NOW, &policy);
        assert_eq!(target, Target { revision: head.id(), number: head.number(), due: Due::Now });
    }

    #[test]
    fn a_rollback_that_holds_watching_is_sent_although_propagation_is_paused() {
        let rollback = signed(Header { labels: [(HOLD.to_owned(), String::new())].into(), ..header(2, 8) });
        let running = Policy::new(Vec::new());
        let paused = Policy { paused: true, ..running.clone() };
        assert!(holds_watching(&rollback, &paused) && !holds_watching(&rollback, &running));
        assert!(!holds_watching(&head(), &paused));
        assert_eq!(due(&rollback, None, NOW, &paused), Due::Now);
        assert_eq!(due(&rollback, None, LATER, &paused), Due::Held);
    }

    #[test]
    fn a_pause_holds_all_back_and_a_recovery_one() {
        let (head, running) = (head(), Policy::new(Vec::new()));
        let paused = Policy { paused: true, ..running.clone() };
        for (order, policy) in [(LATER, &running), (NOW, &paused), (LATER, &paused)] {
            let held = target(&head, None, order, policy);
            assert_eq!((held.revision, held.due), (head.id(), Due::Held));
        }
    }

    #[test]
    fn a_wave_holds_back_whom_the_head_would_change() {
        let policy = Policy { rollout: Some(RolloutPolicy::default()), ..Policy::new(Vec::new()) };
        let before = signed(header(2, 6));
        let next = |labels: &[&str], root: &[u8]| {
            let labels = labels.iter().map(|&label| (label.to_owned(), "2.6".to_owned())).collect();
            signed(Header { labels, root: Hash::of(root), parent: Some(before.id()), ..header(2, 7) })
        };
        let head = next(&[], b"new");
        assert_eq!(due(&head, Some(&before), NOW, &policy), Due::Held);
        assert_eq!(due(&head, None, NOW, &policy), Due::Now, "a newcomer");
        let gated = Release { gated: true, ..Release::default() };
        let staged = Order { later: false, release: Release { staged: Some(head.id()), ..gated } };
        assert_eq!(due(&head, Some(&before), staged, &policy), Due::Staged);
        assert_eq!(due(&head, Some(&before), Order { later: true, ..staged }, &policy), Due::Held);
        let none = Policy { rollout: None, ..policy.clone() };
        assert_eq!(
            due(&head, Some(&before), Order { later: false, release: gated }, &none),
            Due::Held,
            "some validate"
        );
        assert_eq!(due(&head, Some(&before), NOW, &none), Due::Now);
        let released = Order { later: false, release: Release { taken: Some(head.id()), ..gated } };
        assert_eq!(due(&head, Some(&before), released, &policy), Due::Now);
        assert_eq!(due(&head, Some(&before), Order { later: true, ..released }, &policy), Due::Held);
        assert_eq!(due(&next(&[], b"newer"), Some(&before), released, &policy), Due::Held, "let go for another head");
        assert_eq!(due(&next(&[], b""), Some(&before), NOW, &policy), Due::Now, "it changes nothing there");
        assert_eq!(due(&next(&[], b"new"), Some(&signed(header(2, 5))), NOW, &policy), Due::Held);
        for label in [TAKEN_BACK, HOLD] {
            assert_eq!(due(&next(&[label], b"new"), Some(&before), NOW, &policy), Due::Now, "{label}");
        }
    }
}
