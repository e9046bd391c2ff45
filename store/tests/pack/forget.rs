//! Erasing a content from a history: the segments that hold it go, and what stays is whole.

use std::collections::HashSet;

use bellwether_proto::hash::Hash;
use bellwether_store::{
    history::{History, Holding, file_holds},
    kept,
};

use crate::fixture::Line;

fn chunk(text: &str) -> HashSet<Hash> {
    HashSet::from([Hash::of(text.as_bytes())])
}

fn sequences(history: &History) -> Vec<(u64, bool)> {
    history.all().map(|stored| (stored.header.number().sequence, stored.base)).collect()
}

/// The newest revision that holds the content, and the base with which the history can begin.
fn found(line: &Line, text: &str, until: u64) -> (Option<u64>, Option<u64>) {
    let Holding { newest, begins, unreadable } =
        line.history.holding(&chunk(text), until, &mut HashSet::new()).unwrap();
    assert!(unreadable.is_empty());
    (newest.map(|stored| stored.header.number().sequence), begins.map(|stored| stored.header.number().sequence))
}

/// A history of revisions 1 to 6, with bases of 1, 3 and 5. `f` has the secret in 2 and 3.
fn line() -> Line {
    let mut line = Line::new();
    line.edit("f", "first");
    line.edit("f", "secret");
    line.edit("g", "another file");
    line.base();
    line.edit("f", "clean");
    line.edit("g", "and again");
    line.base();
    line.edit("g", "last");
    line
}

#[test]
fn the_oldest_base_after_the_content_is_found() {
    let line = line();
    assert_eq!(found(&line, "secret", 6), (Some(3), Some(5)), "the base of 3 has it, too");
    assert_eq!(found(&line, "last", 6), (Some(6), None), "it is in the head");
    assert_eq!(found(&line, "last", 5), (None, None), "later revisions do not count");
    assert_eq!(found(&line, "never", 6), (None, None));
    let mut clean = HashSet::new();
    line.history.holding(&chunk("secret"), 6, &mut clean).unwrap();
    assert_eq!(clean.len(), line.history.all().count() - 2, "all packs but two are known");
}

#[test]
fn what_is_before_that_base_is_deleted_and_the_rest_is_whole() {
    let mut line = line();
    let root = line.head.as_ref().unwrap().1.root();
    let holds = |line: &Line| {
        let files = std::fs::read_dir(line.site.history()).unwrap().map(|entry| entry.unwrap().path());
        let packs = files.filter(|path| path.extension().is_some_and(|e| e == "base" || e == "inc"));
        packs.filter(|path| file_holds(path, &chunk("secret")).unwrap()).count()
    };
    assert!(holds(&line) > 0);
    let begins = line.history.holding(&chunk("secret"), 6, &mut HashSet::new()).unwrap().begins.unwrap();
    line.history.empty_log().unwrap();
    line.history.drop_before(&begins).unwrap();
    for _ in 0..2 {
        assert_eq!(holds(&line), 0);
        assert_eq!(sequences(&line.history), [(5, true), (6, false)]);
        assert_eq!(found(&line, "secret", 6), (None, None));
        assert_eq!(line.history.tree(line.head_id()).unwrap().root(), root);
        line.reopen();
    }
    line.edit("g", "goes on");
    assert_eq!(sequences(&line.history), [(5, true), (6, false), (7, false)]);
}

#[test]
fn a_kept_history_is_searched_like_a_kept_copy() {
    let line = line();
    let recovery = tempfile::tempdir().unwrap();
    let point = recovery.path().join("before-epoch-3");
    std::fs::create_dir(&point).unwrap();
    std::fs::rename(line.site.history(), point.join("history")).unwrap();
    let files = || std::fs::read_dir(point.join("history")).unwrap().count();
    let before = files();
    let erased = kept::erase(recovery.path(), &chunk("secret")).unwrap();
    assert_eq!(erased.unsearched, Vec::<String>::new());
    assert!(!erased.deleted.is_empty() && files() == before - erased.deleted.len() && files() > 0);
    assert!(kept::erase(recovery.path(), &chunk("secret")).unwrap().deleted.is_empty());
    // A file that is damaged may have it: it is named, and left to a person.
    let base = std::fs::read_dir(point.join("history"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "base"));
    let base = base.expect("a base");
    let mut bytes = std::fs::read(&base).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&base, bytes).unwrap();
    assert_eq!(kept::erase(recovery.path(), &chunk("secret")).unwrap().unsearched.len(), 1);
}
