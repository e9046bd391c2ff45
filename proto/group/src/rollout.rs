//! The target of each server: the one rule between the head and the lanes. At present the head is the target of all.

use bellwether_proto::{
    record::Policy,
    revision::{HOLD, Number, RevisionId, SignedHeader},
};

/// The order of a server's rollout, as far as the procedures decide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// No procedure holds it back.
    Now,
    /// An unfinished recovery drains the server first, and has not yet come to it (W23).
    Later,
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
    /// When no procedure holds it back any more, or a sync is requested.
    Held,
}

/// Whether watching is held: the head is a rollback that holds it, and nobody has said `resume` since. The head is sent all
/// the same, and no edit becomes a revision by itself.
pub fn holds_watching(head: &SignedHeader, policy: &Policy) -> bool {
    policy.paused && head.header().labels.contains_key(HOLD)
}

/// The target of a server, if the newest revision is `head`.
pub fn target(head: &SignedHeader, order: Order, policy: &Policy) -> Target {
    let due = match (order, policy.paused && !holds_watching(head, policy)) {
        (Order::Now, false) => Due::Now,
        (Order::Later, _) | (Order::Now, true) => Due::Held,
    };
    Target { revision: head.id(), number: head.number(), due }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{key::KeyPair, revision::Header};

    use super::*;
    use bellwether_random::headers::header;

    fn head() -> SignedHeader {
        SignedHeader::sign(header(2, 7), &KeyPair::generate())
    }

    #[test]
    fn all_are_to_hold_the_head() {
        let (head, policy) = (head(), Policy::new(Vec::new()));
        let target = target(&head, Order::Now, &policy);
        assert_eq!(target, Target { revision: head.id(), number: head.number(), due: Due::Now });
    }

    #[test]
    fn a_rollback_that_holds_watching_is_sent_although_propagation_is_paused() {
        let rollback = Header { labels: [(HOLD.to_owned(), String::new())].into(), ..header(2, 8) };
        let rollback = SignedHeader::sign(rollback, &KeyPair::generate());
        let running = Policy::new(Vec::new());
        let paused = Policy { paused: true, ..running.clone() };
        assert!(holds_watching(&rollback, &paused) && !holds_watching(&rollback, &running));
        assert!(!holds_watching(&head(), &paused));
        assert_eq!(target(&rollback, Order::Now, &paused).due, Due::Now);
        assert_eq!(target(&rollback, Order::Later, &paused).due, Due::Held);
    }

    #[test]
    fn a_pause_holds_all_back_and_a_recovery_one() {
        let (head, running) = (head(), Policy::new(Vec::new()));
        let paused = Policy { paused: true, ..running.clone() };
        for (order, policy) in [(Order::Later, &running), (Order::Now, &paused), (Order::Later, &paused)] {
            let held = target(&head, order, policy);
            assert_eq!((held.revision, held.due), (head.id(), Due::Held));
        }
    }
}
