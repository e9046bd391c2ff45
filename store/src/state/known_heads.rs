//! The newest revisions that this server has heard of, and the one that its sets hold. A candidate asks for them to
//! find the server that has seen the most (W24).
//!
//! The history keeps the received revisions. A task of its own ([`KnownHeads::keep`]) notes the others in `seen.json`,
//! some seconds later and without fsync: no update waits for it, and a crash may lose the last of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bellwether_proto::{
    error::chain,
    limits,
    revision::{Number, RevisionId, SignedHeader},
};
use tokio::sync::watch;

use super::{file, layout::Layout};
use crate::mutex::locked;

/// The interval of notes on the disk.
const EVERY: Duration = Duration::from_secs(3);

/// Shared by the member's thread, which notes them, and the services.
#[derive(Debug, Default)]
pub struct KnownHeads {
    state: Mutex<State>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
    /// The content of the file; held while it is written.
    noted: Mutex<Vec<RevisionId>>,
}

#[derive(Debug, Default)]
struct State {
    at: Option<SignedHeader>,
    newest: BTreeMap<(Number, RevisionId), SignedHeader>,
}

impl KnownHeads {
    /// Notes a header that the manager of its epoch signed.
    pub fn note(&self, header: SignedHeader) {
        let newest = &mut self.state().newest;
        if newest.insert((header.number(), header.id()), header).is_none() {
            self.changes.send_modify(|changes| *changes += 1);
        }
        if newest.len() > limits::SEEN {
            newest.pop_first();
        }
    }

    /// Forgets everything except for the file.
    pub fn forget(&self) {
        *self.state() = State::default();
    }

    /// Loads the saved headers that a manager of this group signed, by `is_managers`; ignores an unreadable file.
    /// Blocks.
    pub fn remember(&self, layout: &Layout, is_managers: impl Fn(&SignedHeader) -> bool) {
        let headers: Vec<SignedHeader> = match file::load(&layout.seen()) {
            Ok(headers) => headers.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "the revisions that were only heard of are forgotten");
                return;
            }
        };
        let ours: Vec<_> = headers.into_iter().take(limits::SEEN).filter(is_managers).collect();
        *locked(&self.noted) = ours.iter().map(SignedHeader::id).collect();
        ours.into_iter().for_each(|header| self.note(header));
    }

    /// Saves the revisions that were only heard of, until it is dropped; see [`KnownHeads::save`] for the end.
    pub async fn keep(self: Arc<Self>, layout: Layout) {
        let mut changes = self.changes.subscribe();
        while changes.changed().await.is_ok() {
            // The next update usually brings them into the history, so mostly there is nothing to note.
            tokio::time::sleep(EVERY).await;
            changes.mark_unchanged();
            let (seen, layout) = (self.clone(), layout.clone());
            // An error means that the agent stops.
            let _ = tokio::task::spawn_blocking(move || seen.save(&layout)).await;
        }
    }

    /// Writes the revisions that were only heard of, if they changed. Blocks.
    pub fn save(&self, layout: &Layout) {
        let mut noted = locked(&self.noted);
        let heard = self.heard();
        let ids: Vec<_> = heard.iter().map(SignedHeader::id).collect();
        if *noted == ids {
            return;
        }
        match file::note(&layout.seen(), &heard) {
            Ok(()) => *noted = ids,
            Err(error) => tracing::warn!(error = chain(&error), "the revisions that were only heard of are not saved"),
        }
    }

    /// The revisions that are newer than the sets', oldest first.
    fn heard(&self) -> Vec<SignedHeader> {
        let state = self.state();
        let at = state.at.as_ref().map(SignedHeader::number);
        state.newest.values().filter(|header| Some(header.number()) > at).cloned().collect()
    }

    /// Notes the revision that the sets hold.
    pub fn hold(&self, at: Option<SignedHeader>) {
        if let Some(at) = &at {
            self.note(at.clone());
        }
        self.state().at = at;
    }

    /// The revision that the sets hold.
    pub fn at(&self) -> Option<SignedHeader> {
        self.state().at.clone()
    }

    /// The newest, oldest first.
    pub fn newest(&self) -> Vec<SignedHeader> {
        self.state().newest.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
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

    fn header(key: &KeyPair, sequence: u64) -> SignedHeader {
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
        SignedHeader::sign(header, key)
    }

    fn sequences(headers: &[SignedHeader]) -> Vec<u64> {
        headers.iter().map(|header| header.number().sequence).collect()
    }

    #[test]
    fn the_newest_are_remembered_and_no_more() {
        let (seen, key) = (KnownHeads::default(), KeyPair::generate());
        for sequence in 1..=100 {
            let header = header(&key, sequence);
            seen.note(header.clone());
            seen.hold(Some(header));
        }
        assert_eq!(sequences(&seen.newest()), (37..=100).collect::<Vec<_>>());
        assert_eq!(seen.at().unwrap().number().sequence, 100);
    }

    #[test]
    fn what_was_only_heard_of_is_noted_and_believed_when_a_manager_signed_it() {
        let home = tempfile::tempdir().unwrap();
        let (layout, key) = (Layout::new(home.path().to_owned()), KeyPair::generate());
        let again = || {
            let seen = KnownHeads::default();
            seen.remember(&layout, |header| header.signed_by(&key.public()));
            sequences(&seen.newest())
        };
        let seen = KnownHeads::default();
        seen.hold(Some(header(&key, 3)));
        seen.save(&layout);
        assert!(!layout.seen().exists(), "nothing is written for what the history has");
        seen.note(header(&key, 4));
        seen.note(header(&KeyPair::generate(), 5));
        seen.save(&layout);
        assert_eq!(again(), [4]);
        seen.hold(Some(header(&key, 6)));
        seen.save(&layout);
        assert_eq!(again(), [] as [u64; 0]);
        std::fs::write(layout.seen(), "{}").unwrap();
        assert_eq!(again(), [] as [u64; 0], "a damaged one says nothing");
    }
}
