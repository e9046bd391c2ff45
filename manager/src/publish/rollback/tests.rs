use std::collections::BTreeMap;

use bellwether_proto::{
    entry::{Chunk, Content, Kind, Meta, Owners},
    hash::Hash,
    record::SetRules,
    revision::Epoch,
};

use super::*;

const TO: Number = Number { epoch: Epoch(1), sequence: 3 };

fn name(set: &str) -> SetName {
    set.parse().unwrap()
}

fn entry(kind: Kind) -> Entry {
    let owner = Owners::default().get("root", "root").unwrap();
    Entry { meta: Meta { mode: 0o755, owner, mtime: 0, xattrs: None }, kind }
}

fn file(content: &str) -> Entry {
    let chunk = Chunk { hash: Hash::of(content.as_bytes()), length: content.len() as u32 };
    entry(Kind::File(Content::One(chunk)))
}

/// A tree of these sets, with files and their directories.
fn tree(rules: &[SetRules], files: &[(&str, &str, &str)]) -> Tree {
    let mut entries = BTreeMap::new();
    for (set, path, content) in files {
        let parts: Vec<_> = path.split('/').collect();
        for end in 0..parts.len() {
            let above = EntryPath::new(parts[..end].join("/").as_bytes()).unwrap();
            entries.insert((name(set), above), entry(Kind::Directory));
        }
        entries.insert((name(set), EntryPath::new(path.as_bytes()).unwrap()), file(content));
    }
    let change = |((set, path), entry)| Change { set, path, entry: Some(entry) };
    Tree::empty(rules.iter().cloned().map(Arc::new)).apply(entries.into_iter().map(change).collect()).unwrap()
}

fn rules(sets: &[&str]) -> Vec<SetRules> {
    sets.iter().map(|set| SetRules::new(name(set))).collect()
}

fn places(places: &[(&str, &str)]) -> Vec<(SetName, EntryPath)> {
    places.iter().map(|(set, path)| (name(set), EntryPath::new(path.as_bytes()).unwrap())).collect()
}

/// The way from `head` to `old` at these places, in lines, and the notes.
fn way(head: &Tree, old: &Tree, at: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let (target, notes) = target(head, old, &places(at), TO).expect("there is a way");
    (lines(&head.diff(&target), head), notes)
}

#[test]
fn all_sets_or_only_the_places_come_back() {
    let rules = rules(&["a", "b"]);
    let old = tree(&rules, &[("a", "x", "old"), ("a", "d/gone", "old"), ("b", "y", "old")]);
    let head = tree(&rules, &[("a", "x", "new"), ("a", "came", "new"), ("b", "y", "new")]);
    assert_eq!(way(&head, &old, &[]).0, ["- a:came", "+ a:d", "+ a:d/gone", "~ a:x", "~ b:y"]);
    assert_eq!(way(&head, &old, &[("a", "x"), ("b", "")]).0, ["~ a:x", "~ b:y"]);
    assert_eq!(way(&head, &old, &[("a", "came")]).0, ["- a:came"]);
    assert_eq!(way(&head, &old, &[("a", "d")]).0, ["+ a:d", "+ a:d/gone"]);
    assert!(way(&old, &old, &[]).0.is_empty());
}

#[test]
fn a_set_that_the_revision_did_not_have_stays() {
    let old = tree(&rules(&["a"]), &[("a", "x", "old")]);
    let head = tree(&rules(&["a", "b"]), &[("a", "x", "new"), ("b", "y", "new")]);
    let (lines, notes) = way(&head, &old, &[]);
    assert_eq!(lines, ["~ a:x"]);
    assert!(notes.len() == 1 && notes[0].contains("set b was not in revision 1.3"), "{notes:?}");
}

#[test]
fn what_the_rules_exclude_by_now_does_not_come_back() {
    let excluding = SetRules { exclude: vec!["*.bak".to_owned()], ..SetRules::new(name("a")) };
    let old = tree(&rules(&["a"]), &[("a", "x", "old"), ("a", "x.bak", "old")]);
    let head = tree(&[excluding], &[("a", "x", "new")]);
    assert_eq!(way(&head, &old, &[]).0, ["~ a:x"]);
}

#[test]
fn an_edit_of_the_time_alone_is_no_obstacle() {
    let touched = |entry: Entry| Entry { meta: Meta { mtime: 7, ..entry.meta }, ..entry };
    let node = |entry| Node::new(entry);
    let (head, back) = (Some(file("head")), Some(file("back")));
    for (now, spared) in [("head", true), ("back", true), ("edited", false)] {
        let now = node(touched(file(now)));
        assert_eq!(differs_in_time_only(Some(&now), [head.clone(), back.clone()]), spared);
    }
    assert!(!differs_in_time_only(None, [head.clone(), None]), "somebody removed it");
    assert!(!differs_in_time_only(Some(&node(touched(file("back")))), [head, None]));
}

#[test]
fn a_place_that_cannot_come_back_is_refused() {
    let rules = rules(&["a", "b"]);
    let old = tree(&rules, &[("a", "x", "old"), ("a", "d/e", "old"), ("b", "y", "old")]);
    let head = tree(&rules, &[("a", "x", "new"), ("b", "y", "new")]);
    let refused = |at| target(&head, &old, &places(&[at]), TO).expect_err("it cannot");
    assert!(matches!(refused(("c", "x")), RollbackError::NoSet(_)));
    assert!(matches!(refused(("a", "nowhere")), RollbackError::NoPlace { .. }));
    assert!(matches!(refused(("a", "d/e")), RollbackError::Unfit { .. }), "its directory is not there");
}
