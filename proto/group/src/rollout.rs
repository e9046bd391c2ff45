//! What each server is to hold: the one rule between the head and the lanes. Now it is the head for all of them.

use bellwether_proto::{
    record::Policy,
    revision::{Number, RevisionId, SignedHeader},
};

/// When a server's turn is, as far as the procedures say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// No procedure holds it back.
    Now,
    /// An unfinished recovery drains it first, and has not come to it yet (W23).
    Later,
}

/// What one server is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The revision.
    pub revision: RevisionId,
    /// The same for people.
    pub number: Number,
    /// When it is to be there.
    pub due: Due,
}

/// When a server is brought to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// As soon as it can be.
    Now,
    /// Once nothing holds it back any more, or a sync is asked for.
    Held,
}

/// What a server is to hold, where the newest revision is `head`.
pub fn target(head: &SignedHeader, order: Order, policy: &Policy) -> Target {
    let due = match (order, policy.paused) {
        (Order::Now, false) => Due::Now,
        (Order::Later, _) | (Order::Now, true) => Due::Held,
    };
    Target { revision: head.id(), number: head.number(), due }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::key::KeyPair;

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
    fn a_pause_holds_all_back_and_a_recovery_one() {
        let (head, running) = (head(), Policy::new(Vec::new()));
        let paused = Policy { paused: true, ..running.clone() };
        for (order, policy) in [(Order::Later, &running), (Order::Now, &paused), (Order::Later, &paused)] {
            let held = target(&head, order, policy);
            assert_eq!((held.revision, held.due), (head.id(), Due::Held));
        }
    }
}
