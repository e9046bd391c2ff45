use std::sync::Arc;

use bellwether_proto::{
    entry::{Content, Entry, EntryPath, Kind, Meta, Owners},
    hash::Hash,
    record::SetRules,
};

use super::*;

fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).unwrap()
}

fn entry(mode: u16, kind: Kind) -> Option<Entry> {
    let owner = Owners::default().get("root", "root").unwrap();
    Some(Entry { meta: Meta { mode, owner, mtime: 0, xattrs: None }, kind })
}

fn file(content: &str) -> Option<Entry> {
    let chunk = Chunk { hash: Hash::of(content.as_bytes()), length: content.len() as u32 };
    entry(0o644, Kind::File(Content::One(chunk)))
}

fn directory(mode: u16) -> Option<Entry> {
    entry(mode, Kind::Directory)
}

fn changes(entries: Vec<(&str, Option<Entry>)>) -> Vec<Change> {
    let change = |(at, entry): (&str, Option<Entry>)| Change { set: "web".parse().unwrap(), path: path(at), entry };
    entries.into_iter().map(change).collect()
}

/// The head: `a`, and `d` with `x` and `y`.
fn tree() -> Tree {
    let rules = SetRules::new("web".parse().unwrap());
    Tree::empty([Arc::new(rules)])
        .apply(changes(vec![
            ("", directory(0o755)),
            ("a", file("a")),
            ("d", directory(0o755)),
            ("d/x", file("x")),
            ("d/y", file("y")),
        ]))
        .unwrap()
}

fn names(edits: Result<Vec<Change>, AdoptError>) -> Vec<String> {
    edits.unwrap().iter().map(|edit| edit.path.to_string()).collect()
}

#[test]
fn edits_of_what_the_head_still_has_are_due() {
    let head = tree();
    let edits = changes(vec![("a", file("edited")), ("d", None), ("new", directory(0o755)), ("new/n", file("n"))]);
    assert_eq!(names(due(&head, &head, &edits)), ["a", "d", "new", "new/n"]);
    assert_eq!(lines(&edits, &head), ["~ web:a", "- web:d", "+ web:new", "+ web:new/n"]);
}

#[test]
fn what_the_head_has_already_is_not_done_again() {
    let edited = tree();
    let edits = changes(vec![("a", file("edited")), ("b", file("b")), ("d", None)]);
    let head = edited.apply(edits.clone()).unwrap();
    assert_eq!(names(due(&edited, &head, &edits)), [""; 0]);
}

#[test]
fn an_edit_of_what_the_manager_has_changed_since_is_a_conflict() {
    let edited = tree();
    let head = edited.apply(changes(vec![("a", file("the manager's")), ("d/x", file("newer"))])).unwrap();
    for (edit, conflicts) in [
        (("a", file("a member's")), true),
        (("a", None), true),
        (("d", None), true),
        // If only a directory's mode was edited, its entries do not matter.
        (("d", directory(0o700)), false),
        (("d/y", file("a member's")), false),
        (("b", file("new")), false),
    ] {
        let edits = changes(vec![edit]);
        let judged = due(&edited, &head, &edits);
        assert_eq!(matches!(judged, Err(AdoptError::Conflict(_))), conflicts, "{edits:?}");
    }
    let both = changes(vec![("a", file("1")), ("b", file("2"))]);
    let refused = due(&edited, &head, &both).unwrap_err();
    assert!(refused.to_string().contains("web:a since"), "all or none, and which: {refused}");
}

#[test]
fn a_whole_set_is_not_removed() {
    let head = tree();
    assert!(matches!(due(&head, &head, &changes(vec![("", None)])), Err(AdoptError::Unfit(_))));
}
