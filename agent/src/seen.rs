//! The newest revisions that this server has heard of, and the one that its sets hold: what it tells a candidate that asks
//! who has seen the most (W24).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bellwether_proto::revision::{Number, RevisionId, SignedHeader};

/// How many are remembered.
const REMEMBERED: usize = 64;

/// Shared by the member's thread, which notes them, and the services.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    at: Option<SignedHeader>,
    newest: BTreeMap<(Number, RevisionId), SignedHeader>,
}

impl Seen {
    /// A header that the manager of its epoch signed.
    pub(crate) fn note(&self, header: SignedHeader) {
        let newest = &mut self.state().newest;
        newest.insert((header.number(), header.id()), header);
        if newest.len() > REMEMBERED {
            newest.pop_first();
        }
    }

    /// The sets hold this revision.
    pub(crate) fn hold(&self, at: Option<SignedHeader>) {
        if let Some(at) = &at {
            self.note(at.clone());
        }
        self.state().at = at;
    }

    /// The revision that the sets hold.
    pub(crate) fn at(&self) -> Option<SignedHeader> {
        self.state().at.clone()
    }

    /// The newest.
    pub(crate) fn last(&self) -> Option<SignedHeader> {
        self.state().newest.values().next_back().cloned()
    }

    /// The newest, oldest first.
    pub(crate) fn newest(&self) -> Vec<SignedHeader> {
        self.state().newest.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        hash::Hash,
        key::KeyPair,
        revision::{Epoch, Header},
    };

    use super::*;

    #[test]
    fn the_newest_are_remembered_and_no_more() {
        let (seen, key) = (Seen::default(), KeyPair::generate());
        for sequence in 1..=100 {
            let header = Header {
                group: [7; 16].into(),
                number: Number { epoch: Epoch(1), sequence },
                parent: None,
                manager: "web1".parse().unwrap(),
                incarnation: 1,
                time_ms: 0,
                author: String::new(),
                message: String::new(),
                labels: Default::default(),
                root: Hash::of(b"root"),
            };
            let header = SignedHeader::sign(header, &key);
            seen.note(header.clone());
            seen.hold(Some(header));
        }
        let sequences: Vec<_> = seen.newest().iter().map(|header| header.number().sequence).collect();
        assert_eq!(sequences, (37..=100).collect::<Vec<_>>());
        assert_eq!(seen.at().unwrap().number().sequence, 100);
    }
}
