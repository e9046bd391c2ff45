use std::sync::Arc;

use bellwether_proto::{
    entry::{Chunk, Content, Entry, Meta, Owners},
    hash::Hash,
    record::SetRules,
};

use super::*;

fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).unwrap()
}

fn entry(kind: Kind) -> Option<Entry> {
    let owner = Owners::default().get("root", "root").unwrap();
    Some(Entry { meta: Meta { mode: 0o755, owner, mtime: 0, xattrs: None }, kind })
}

fn file(content: &str) -> Option<Entry> {
    let chunk = Chunk { hash: Hash::of(content.as_bytes()), length: content.len() as u32 };
    entry(Kind::File(Content::One(chunk)))
}

fn directory() -> Option<Entry> {
    entry(Kind::Directory)
}

fn edited(tree: &Tree, entries: Vec<(&str, Option<Entry>)>) -> Tree {
    let change = |(at, entry): (&str, Option<Entry>)| Change { set: "web".parse().unwrap(), path: path(at), entry };
    tree.apply(entries.into_iter().map(change).collect()).unwrap()
}

/// The head: `a`, and `d` with `x` and `y`.
fn head() -> Tree {
    let rules = SetRules::new("web".parse().unwrap());
    let entries = vec![("", directory()), ("a", file("a")), ("d", directory()), ("d/x", file("x")), ("d/y", file("y"))];
    edited(&Tree::empty([Arc::new(rules)]), entries)
}

/// The places that are put back if `live` is there after a batch that began with `earlier`, and those that are left.
fn divided(earlier: &Tree, live: &Tree) -> (Vec<String>, Vec<String>) {
    let before = Before::new(head().diff(earlier), std::iter::empty());
    let (due, left) = divide(live, live.diff(&head()), &before);
    // They fit the tree.
    live.apply(due.clone()).unwrap();
    (due.iter().map(|change| change.path.to_string()).collect(), left)
}

#[test]
fn without_earlier_edits_the_head_is_there_again() {
    let live = edited(&head(), vec![("a", file("b")), ("d", None), ("n", directory()), ("n/f", file("f"))]);
    assert_eq!(divided(&head(), &live), (vec!["a".into(), "d".into(), "d/x".into(), "d/y".into(), "n".into()], vec![]));
}

#[test]
fn earlier_edits_stay_whether_the_batch_changed_them_or_not() {
    let earlier = edited(&head(), vec![("a", file("mine")), ("d/x", file("mine"))]);
    let live = edited(&earlier, vec![("a", file("b")), ("d/y", file("b"))]);
    assert_eq!(divided(&earlier, &live), (vec!["d/y".into()], vec!["web:a".into(), "web:d/x".into()]));
}

#[test]
fn what_a_batch_puts_into_an_earlier_new_directory_goes() {
    let earlier = edited(&head(), vec![("n", directory()), ("n/mine", file("m"))]);
    let more = vec![("n/e", directory()), ("n/e/f", file("f")), ("n/z", file("z"))];
    let live = edited(&earlier, more);
    assert_eq!(divided(&earlier, &live), (vec!["n/e".into(), "n/z".into()], vec!["web:n".into()]));
}

#[test]
fn an_earlier_removal_is_not_undone() {
    let earlier = edited(&head(), vec![("d", None)]);
    let live = edited(&earlier, vec![("a", file("b"))]);
    let (due, left) = divided(&earlier, &live);
    assert_eq!((due, left[0].as_str()), (vec!["a".into()], "web:d"));
    // The batch has made the directory again.
    let live = edited(&earlier, vec![("d", directory()), ("d/new", file("n"))]);
    assert_eq!(divided(&earlier, &live).0, [] as [String; 0]);
}
