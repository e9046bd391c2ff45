//! Power loss: the operations of a history are replayed up to any moment, without any number of unsynced ones. After that
//! every acknowledged pack must be there, and the history must go on.

use std::path::Path;

use bellwether_proto::{
    key::KeyPair,
    record::Codec,
    revision::{Epoch, Header, Number, SignedHeader},
};

use super::*;
use crate::{
    durable::recording::{Operation, Random, failing, mark, record, replay, survivors},
    pack::{self, Contents},
    state::file::tests::Any,
};

/// Makes packs of revisions that change nothing.
struct Maker {
    key: KeyPair,
    headers: Vec<SignedHeader>,
}

impl Maker {
    fn new() -> Self {
        Self { key: KeyPair::generate(), headers: Vec::new() }
    }

    fn next(&mut self) {
        let header = Header {
            group: [7; 16].into(),
            number: Number { epoch: Epoch(1), sequence: self.headers.len() as u64 + 1 },
            parent: self.headers.last().map(SignedHeader::id),
            manager: "web1".parse().unwrap(),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: "m".repeat(2_000),
            labels: Default::default(),
            root: Tree::default().root(),
        };
        self.headers.push(SignedHeader::sign(header, &self.key));
    }

    fn commit(&self, history: &mut History, base: bool) -> Result<Arc<Stored>, HistoryError> {
        history.commit(self.pack(history, base))
    }

    /// Adds the newest revision by the log, as a member does that switches to it.
    fn commit_logged(&self, history: &mut History) {
        let whole = history.check(self.pack(history, false)).unwrap();
        let number = self.headers.len() as u32;
        let at = history.log().begin(whole.record(), &Any(number)).unwrap().unwrap();
        history.log().note(&Any(number)).unwrap();
        history.add_logged(whole, at);
        history.log().end().unwrap();
    }

    fn pack(&self, history: &History, base: bool) -> NewPack {
        let contents = Contents {
            header: self.headers.last().unwrap(),
            base,
            parent: &Tree::default(),
            rules: &[],
            changes: &[],
            sources: &[],
            history: None,
            codec: Codec::None,
            outlines: None,
        };
        let mut new = history.create();
        pack::write(&contents, &mut new).unwrap();
        new
    }
}

/// Commits a base and increments twice, and deletes the first segment.
fn play(home: &Path) -> (Maker, Vec<Operation>) {
    let mut maker = Maker::new();
    let ((), operations) = record(home, || {
        let mut history = History::open(&home.join("history")).unwrap();
        for (bases, increments) in [(1, 4), (1, 3)] {
            for at in 0..bases + increments {
                if at > 0 || maker.headers.is_empty() {
                    maker.next();
                }
                maker.commit(&mut history, at == 0).unwrap();
                mark(home, if at == 0 { "base" } else { "increment" });
            }
        }
        history.retain(3).unwrap();
    });
    (maker, operations)
}

fn acknowledged(happened: &[Operation]) -> Vec<bool> {
    let marks = happened.iter().filter_map(|operation| match operation {
        Operation::Mark { what, .. } => Some(*what == "base"),
        _ => None,
    });
    marks.collect()
}

#[test]
fn a_power_loss_at_any_moment_leaves_all_that_was_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let (maker, operations) = play(home.path());
    let syncs = |what: fn(&Operation) -> bool| operations.iter().filter(|operation| what(operation)).count();
    // There is a sync for each increment, two for each base, and one for the directory when the first segment is deleted.
    assert_eq!(syncs(|operation| matches!(operation, Operation::SyncFile { .. })), 9);
    assert_eq!(syncs(|operation| matches!(operation, Operation::SyncDirectory { .. })), 3);
    for seed in 1..=400u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (left, end) = survivors(&operations, &mut random);
        let there = tempfile::tempdir().unwrap();
        std::fs::create_dir(there.path().join("history")).unwrap();
        replay(&left, there.path());
        let named = format!("seed {seed}, power lost after {end} of {} operations", operations.len());
        let mut history = History::open(&there.path().join("history")).unwrap();
        assert_eq!(history.left_out(), [], "{named}");
        let acknowledged = acknowledged(&operations[..end]);
        let revisions = acknowledged.iter().filter(|base| !**base).count() + usize::from(!acknowledged.is_empty());
        let at = history.head().map_or(0, |head| head.header.number().sequence as usize);
        assert!(at == revisions || at == revisions + 1, "{named}: at {at}, {revisions} were acknowledged");
        let bases = acknowledged.iter().filter(|base| **base).count();
        if bases == 2 {
            assert!(history.has_base(maker.headers[4].id()), "{named}: a base is gone");
        }
        let mut maker = Maker { key: KeyPair::generate(), headers: maker.headers[..at].to_vec() };
        if let Some(head) = maker.headers.last() {
            history.tree(head.id()).unwrap_or_else(|error| panic!("{named}: {error}"));
        }
        maker.next();
        maker.commit(&mut history, at == 0).unwrap_or_else(|error| panic!("{named}: {error}"));
        let history = History::open(&there.path().join("history")).unwrap();
        assert_eq!(history.head().map(|head| head.header.id()), maker.headers.last().map(SignedHeader::id), "{named}");
        assert_eq!(history.left_out(), [], "{named}");
    }
}

#[test]
fn a_failed_append_leaves_the_history_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let mut history = History::open(&home.path().join("history")).unwrap();
    let mut maker = Maker::new();
    maker.next();
    maker.commit(&mut history, true).unwrap();
    maker.next();
    maker.commit(&mut history, false).unwrap();
    maker.next();
    // The operations are the write and the sync.
    for k in 0..2 {
        let failed = failing(home.path(), k, k + 1, || maker.commit(&mut history, false));
        assert!(matches!(failed, Err(HistoryError::Io { action: "append to", .. })), "{k}: {failed:?}");
        for opened in [&history, &History::open(&home.path().join("history")).unwrap()] {
            assert_eq!(opened.all().count(), 2, "{k}");
            assert_eq!(opened.left_out(), [], "{k}");
        }
    }
    maker.commit(&mut history, false).unwrap();
    assert_eq!(History::open(&home.path().join("history")).unwrap().all().count(), 3);
}

/// Commits a base, increments by the log that are sometimes moved to a file, and another base.
fn play_logged(home: &Path) -> (Maker, Vec<Operation>) {
    let mut maker = Maker::new();
    let ((), operations) = record(home, || {
        let mut history = History::open(&home.join("history")).unwrap();
        maker.next();
        maker.commit(&mut history, true).unwrap();
        mark(home, "increment");
        for at in 0..9 {
            maker.next();
            maker.commit_logged(&mut history);
            mark(home, "increment");
            if at % 4 == 2 {
                history.settle(true).unwrap();
            }
            if at == 7 {
                maker.commit(&mut history, true).unwrap();
                history.retain(3).unwrap();
            }
        }
        assert!(history.all().any(|stored| stored.path == log::path(&home.join("history"))));
    });
    (maker, operations)
}

#[test]
fn a_power_loss_at_any_moment_leaves_all_that_came_by_the_log() {
    let home = tempfile::tempdir().unwrap();
    let (maker, operations) = play_logged(home.path());
    for seed in 1..=400u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (left, end) = survivors(&operations, &mut random);
        let there = tempfile::tempdir().unwrap();
        let directory = there.path().join("history");
        std::fs::create_dir(&directory).unwrap();
        replay(&left, there.path());
        let named = format!("seed {seed}, power lost after {end} of {} operations", operations.len());
        let mut history = History::open(&directory).unwrap();
        assert_eq!(history.left_out(), [], "{named}");
        let revisions = acknowledged(&operations[..end]).len();
        let at = history.head().map_or(0, |head| head.header.number().sequence as usize);
        assert!(at == revisions || at == revisions + 1, "{named}: at {at}, {revisions} were acknowledged");
        let position =
            history.log().position::<Any<u32>>().unwrap().map(|any| any.0).map_or(1, |number| number as usize);
        assert!(position <= at.max(1) && position + 1 >= revisions, "{named}: position {position} of {at}");
        let mut maker = Maker { key: KeyPair::generate(), headers: maker.headers[..at].to_vec() };
        maker.next();
        match at {
            0 => drop(maker.commit(&mut history, true).unwrap()),
            _ => maker.commit_logged(&mut history),
        }
        for settled in [false, true, true] {
            history.settle(settled).unwrap_or_else(|error| panic!("{named}: {error}"));
            history = History::open(&directory).unwrap();
            let head = history.head().unwrap().header.clone();
            assert_eq!(Some(head.id()), maker.headers.last().map(SignedHeader::id), "{named}");
            history.tree(head.id()).unwrap_or_else(|error| panic!("{named}: {error}"));
            assert_eq!(history.left_out(), [], "{named}");
        }
        assert_eq!(log::read(&directory).unwrap().packs, [] as [u64; 0], "{named}");
    }
}

#[test]
fn what_is_moved_from_the_log_reaches_over_no_base() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("history");
    let mut history = History::open(&directory).unwrap();
    let mut maker = Maker::new();
    maker.next();
    maker.commit(&mut history, true).unwrap();
    for _ in 0..2 {
        for _ in 0..3 {
            maker.next();
            maker.commit_logged(&mut history);
        }
        maker.commit(&mut history, true).unwrap();
    }
    maker.next();
    maker.commit_logged(&mut history);
    history.settle(true).unwrap();
    history.retain(2).unwrap();
    let opened = History::open(&directory).unwrap();
    assert_eq!(opened.left_out(), []);
    let kept: Vec<_> = opened.all().map(|stored| (stored.header.number().sequence, stored.base)).collect();
    assert_eq!(kept, [(7, true), (8, false)], "each segment before the last base went whole");
    opened.tree(maker.headers.last().unwrap().id()).unwrap();
}

#[test]
fn what_cannot_be_moved_stays_where_it_is() {
    // Creating, writing, syncing and naming the file, and syncing the directory; and the same for the new log.
    for k in 0..10 {
        for last in [k + 1, usize::MAX] {
            let home = tempfile::tempdir().unwrap();
            let directory = home.path().join("history");
            let mut history = History::open(&directory).unwrap();
            let mut maker = Maker::new();
            maker.next();
            maker.commit(&mut history, true).unwrap();
            for _ in 0..3 {
                maker.next();
                maker.commit_logged(&mut history);
            }
            let failed = failing(home.path(), k, last, || history.settle(true));
            assert!(failed.is_err(), "{k}");
            let head = maker.headers.last().unwrap().id();
            let is_whole = |history: &History| {
                assert_eq!(history.all().count(), maker.headers.len(), "{k}");
                assert_eq!(history.left_out(), [], "{k}");
                history.tree(head).unwrap();
                assert_eq!(history.log().position::<Any<u32>>().unwrap().map(|any| any.0), Some(4), "{k}");
            };
            is_whole(&history);
            is_whole(&History::open(&directory).unwrap());
            history.settle(true).unwrap();
            is_whole(&history);
            is_whole(&History::open(&directory).unwrap());
        }
    }
}
