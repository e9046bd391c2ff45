//! The history: folding, routes, chunks, retention.

use std::collections::HashSet;

use bellwether_proto::revision::RevisionId;
use bellwether_store::{
    history::{History, HistoryError, Route, check_version},
    tree::Tree,
};

use crate::fixture::{Line, bytes_of, chunks_of, new_pack, noise};

fn sequences(history: &History) -> Vec<(u64, bool)> {
    history.all().map(|stored| (stored.header.number().sequence, stored.base)).collect()
}

fn route(history: &History, from: Option<RevisionId>) -> Option<Vec<(u64, bool)>> {
    match history.route(from) {
        Route::Nothing => None,
        Route::Packs(packs) => Some(packs.iter().map(|p| (p.header.number().sequence, p.base)).collect()),
    }
}

#[test]
fn every_revision_folds_to_its_tree() {
    let mut line = Line::new();
    assert!(line.history.head().is_none() && route(&line.history, None).is_none());
    let mut trees = Vec::new();
    for at in 0..6u64 {
        let stored = line.edit(&format!("d{}/f", at % 4), noise(at, 30_000));
        trees.push((stored.header.id(), line.head.as_ref().unwrap().1.root()));
        if at == 3 {
            line.base();
        }
    }
    std::fs::remove_dir_all(line.site.path("d1")).unwrap();
    trees.push((line.publish().header.id(), line.head.as_ref().unwrap().1.root()));
    for _ in 0..2 {
        for (id, root) in &trees {
            assert_eq!(line.history.tree(*id).unwrap().root(), *root);
            assert!(
                !line.history.get(*id).unwrap().base || line.history.get(*id).unwrap().header.header().parent.is_none()
            );
        }
        assert_eq!(line.history.head().unwrap().header.id(), line.head_id());
        assert_eq!(sequences(&line.history).len(), 8);
        line.reopen();
    }
    let unknown = RevisionId(bellwether_proto::hash::Hash::of(b"?"));
    assert!(matches!(line.history.tree(unknown), Err(HistoryError::Unknown(id)) if id == unknown));
}

#[test]
fn what_is_stored_matches_the_file() {
    let mut line = Line::new();
    line.edit("a", noise(1, 3_000_000));
    let opened = History::open(&line.site.history()).unwrap();
    let (stored, again) = (line.history.head().unwrap(), opened.head().unwrap());
    assert_eq!((stored.size, stored.changes_end, stored.pack), (again.size, again.changes_end, again.pack));
    let bytes = std::fs::read(&stored.path).unwrap();
    assert_eq!(bytes.len() as u64, stored.size);
    let preview = crate::fixture::unpack(&bytes[..stored.changes_end as usize]).unwrap();
    assert_eq!((preview.changes.len(), preview.chunks.len()), (2, 0));
    assert!(stored.changes_end < 10_000);
}

/// A base and its increments are one file, except for packs that are too large to be written twice.
#[test]
fn a_segment_is_one_file() {
    let mut line = Line::new();
    let small = |at| noise(at, 2_000);
    let places: Vec<_> = [small(1), small(2), noise(3, 1_200_000), small(4)]
        .into_iter()
        .map(|content| line.edit("f", content))
        .map(|stored| (stored.path.clone(), stored.at))
        .collect();
    let base = line.base();
    let last = line.edit("f", small(5));
    assert_eq!((&places[0].0, places[0].1), (&places[1].0, 0));
    assert!(places[1].1 > 0 && places[2].1 == 0 && places[2].0 != places[0].0);
    assert!(places[3].0 == places[2].0 && places[3].1 > 1_200_000);
    assert_eq!((&last.path, last.at), (&base.path, base.size));
    for _ in 0..2 {
        for stored in line.history.all() {
            crate::fixture::unpack(&bytes_of(stored)).unwrap();
            line.history.tree(stored.header.id()).unwrap();
        }
        line.reopen();
    }
    // The next pack goes to the same file as before the start.
    assert_eq!(line.edit("f", small(6)).path, base.path);
}

#[test]
fn routes() {
    let mut line = Line::new();
    let ids: Vec<_> = (0..4).map(|at| line.edit("f", noise(at, 100_000)).header.id()).collect();
    let history = &line.history;
    assert_eq!(route(history, Some(ids[3])), None);
    assert_eq!(route(history, Some(ids[2])), Some(vec![(4, false)]));
    assert_eq!(route(history, Some(ids[0])), Some(vec![(2, false), (3, false), (4, false)]));
    let all = Some(vec![(1, true), (2, false), (3, false), (4, false)]);
    assert_eq!(route(history, None), all);
    assert_eq!(route(history, Some(RevisionId(bellwether_proto::hash::Hash::of(b"?")))), all);

    line.base();
    let id = line.edit("g", "small").header.id();
    let history = &line.history;
    assert_eq!(route(history, None), Some(vec![(4, true), (5, false)]));
    // With three increments of 100 kB, the base of one file is shorter; with one increment, it is not.
    assert_eq!(route(history, Some(ids[0])), Some(vec![(4, true), (5, false)]));
    assert_eq!(route(history, Some(ids[3])), Some(vec![(5, false)]));
    assert_eq!(route(history, Some(id)), None);
}

/// Two managers went on from the same revision: the head's ancestry counts, and not the numbers between.
#[test]
fn a_fork_is_passed_by() {
    let mut line = Line::new();
    let first = line.edit("f", "1").header.clone();
    let start = line.head.as_ref().unwrap().1.clone();
    let lost = line.edit("f", noise(2, 2000)).header.id();
    line.edit("f", noise(3, 2000));
    line.site.write("f", "4");
    let tree = line.site.scan();
    let header = line.site.header_in(2, Some(&first), tree.root());
    let bytes = line.site.pack(&header, &start, &tree).unwrap();
    line.commit(&bytes);
    for _ in 0..2 {
        assert_eq!(line.history.head().unwrap().header.id(), header.id());
        let packs = match line.history.route(None) {
            Route::Packs(packs) => packs.iter().map(|stored| stored.header.id()).collect::<Vec<_>>(),
            Route::Nothing => Vec::new(),
        };
        assert_eq!(packs, [first.id(), header.id()]);
        assert!(matches!(line.history.route(Some(lost)), Route::Packs(packs) if packs[0].base));
        assert_eq!(line.history.tree(header.id()).unwrap().root(), tree.root());
        line.reopen();
    }
}

#[test]
fn an_increment_without_its_parent_is_refused() {
    let mut line = Line::new();
    line.edit("f", "1");
    let second = line.edit("f", "2");
    let bytes = bytes_of(&second);
    let empty = tempfile::tempdir().unwrap();
    let mut other = History::open(empty.path()).unwrap();
    let new = new_pack(&other, &bytes);
    let parent = second.header.header().parent.unwrap();
    assert!(matches!(other.commit(new), Err(HistoryError::Unknown(id)) if id == parent));
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn chunks_are_found_wherever_they_are() {
    let mut line = Line::new();
    for at in 0..5 {
        line.edit(&format!("f{at}"), noise(at, 400_000));
    }
    line.base();
    let tree = line.head.as_ref().unwrap().1.clone();
    let wanted: HashSet<_> = chunks_of(&tree).into_keys().step_by(3).collect();
    let mut asked = wanted.clone();
    asked.insert(bellwether_proto::hash::Hash::of(b"nowhere"));
    let mut found = HashSet::new();
    let mut take = |chunk: bellwether_proto::entry::Chunk, bytes: bytes::Bytes| {
        assert_eq!(blake3::hash(&bytes).as_bytes(), chunk.hash.as_bytes());
        assert!(found.insert(chunk.hash), "twice");
    };
    line.history.chunks(&asked, &mut take).unwrap();
    assert_eq!(found, wanted);
}

#[test]
fn retention_deletes_whole_segments() {
    let mut line = Line::new();
    // Segments: base 1 and increments 2–4; base 4 and increments 5–7; base 7 and increments 8, 9.
    for at in 1..=9u64 {
        line.edit("f", noise(at, 5_000));
        if at == 4 || at == 7 {
            line.base();
        }
    }
    line.history.retain(100).unwrap();
    line.history.retain(7).unwrap();
    assert_eq!(sequences(&line.history).len(), 11);
    // Base 4 has six revisions, 4 to 9.
    line.history.retain(6).unwrap();
    let kept = vec![(4, true), (5, false), (6, false), (7, false), (7, true), (8, false), (9, false)];
    assert_eq!(sequences(&line.history), kept);
    line.history.retain(4).unwrap();
    assert_eq!(sequences(&line.history), kept);
    for _ in 0..2 {
        line.history.retain(1).unwrap();
        let ids: Vec<_> = line.history.all().map(|stored| stored.header.id()).collect();
        assert_eq!(sequences(&line.history), [(7, true), (8, false), (9, false)]);
        assert!(ids.iter().all(|id| line.history.tree(*id).is_ok()));
        line.reopen();
        assert!(line.history.left_out().is_empty());
    }
    // The head's own base alone is enough for one revision.
    line.base();
    line.history.retain(0).unwrap();
    assert_eq!(sequences(&line.history), [(9, true)]);
    assert_eq!(line.history.tree(line.head_id()).unwrap().root(), line.head.as_ref().unwrap().1.root());
}

#[test]
fn a_base_is_due_by_bytes() {
    let mut line = Line::new();
    assert!(!line.history.base_due());
    for at in 0..5 {
        line.edit("f", noise(at, 1 << 20));
        assert!(!line.history.base_due(), "after {at} increments");
    }
    line.edit("f", noise(6, 1 << 20));
    assert!(line.history.base_due());
    line.base();
    assert!(!line.history.base_due());
}

#[test]
fn a_pack_with_other_changes_is_noticed() {
    let mut line = Line::new();
    line.edit("f", "1");
    let (header, _) = line.head.clone().unwrap();
    line.site.write("f", "forged");
    let forged = line.site.scan();
    let bytes = line.site.pack(&header, &Tree::default(), &forged).unwrap();
    line.commit(&bytes);
    assert!(matches!(line.history.tree(header.id()), Err(HistoryError::Damaged { .. })));
}

/// Version N−1 finds a pack of a later form: it is neither damaged nor left out, and nothing in the history is touched.
#[test]
fn a_pack_that_a_newer_bellwether_made_is_left_as_it_is() {
    let mut line = Line::new();
    let path = line.edit("a", noise(1, 3_000)).path.clone();
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[..4], b"BWF1");
    bytes[3] = b'2';
    std::fs::write(&path, &bytes).unwrap();
    let interrupted = line.site.history().join("incoming-0.part");
    std::fs::write(&interrupted, "").unwrap();
    for error in [check_version(&path).unwrap_err(), History::open(&line.site.history()).unwrap_err()] {
        assert!(matches!(error, HistoryError::Newer { .. }), "{error}");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("made by a newer bellwether") && cause.contains("version 2"), "{cause}");
        assert!(!format!("{error}: {cause}").contains("damaged"));
    }
    assert!(std::fs::read(&path).unwrap() == bytes && interrupted.exists());
}
