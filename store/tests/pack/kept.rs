//! A base of a revision with entries as they were before: the files have other content, or are gone.

use std::{collections::HashMap, fs};

use bellwether_proto::{
    entry::{EntryPath, Kind},
    hash::Hash,
};
use bellwether_store::{pack::PackError, tree::Tree};
use bytes::Bytes;

use crate::fixture::{Line, bytes_of, chunks_of, noise, unpack};

/// A line of revisions, and files that have changed since its head: `(path, old content)`.
fn moved_on() -> (Line, Vec<(&'static str, Vec<u8>)>) {
    let mut line = Line::new();
    let files = vec![("small", noise(1, 700)), ("large", noise(2, 3_000_000)), ("gone", noise(3, 100_000))];
    for (path, bytes) in &files {
        line.edit(path, bytes);
    }
    line.edit("other", "other");
    line.site.write("small", "half");
    line.site.write("large", noise(4, 2_000_000));
    fs::remove_file(line.site.path("gone")).unwrap();
    (line, files)
}

#[test]
fn what_the_files_do_not_hold_any_more_comes_from_the_history() {
    let (mut line, files) = moved_on();
    line.site.history = Some(line.history.packs());
    let stored = line.base();
    let unpacked = unpack(&bytes_of(&stored)).unwrap();
    let (_, tree) = line.head.as_ref().unwrap();
    assert!(unpacked.ended && unpacked.chunks.len() == chunks_of(tree).len());
    // Each chunk's hash was computed from its bytes.
    let here: HashMap<Hash, Bytes> = unpacked.chunks.into_iter().map(|(chunk, bytes)| (chunk.hash, bytes)).collect();
    for (path, bytes) in &files {
        let node = tree.get(&"web".parse().unwrap(), &EntryPath::new(path.as_bytes()).unwrap()).unwrap();
        let Kind::File(content) = node.entry().kind else { panic!("a file") };
        let joined: Vec<u8> = content.chunks().iter().flat_map(|chunk| here[&chunk.hash].clone()).collect();
        assert!(joined == *bytes, "{path} is not what it was");
    }
}

#[test]
fn without_a_history_it_is_a_change() {
    let (line, _) = moved_on();
    let (header, tree) = line.head.as_ref().unwrap();
    let refused = line.site.pack(header, &Tree::default(), tree);
    assert!(matches!(refused, Err(PackError::Changed { .. })), "{refused:?}");
}
