//! What fuzzing feeds to the decoder of the journal (`fuzz/`).

use std::path::Path;

use bellwether_proto::{
    entry::{Chunk, Entry, EntryPath, Kind, Meta, Owner},
    hash::Hash,
};

use super::journal::{Act, Journal, JournalSet, Operation, Phase, Wanted, Was};
use crate::state::file;

/// The JSON of a journal, with the checksum right. What is taken names only sets that it has, and is written again. Whether
/// it was taken.
pub fn journal(json: &[u8]) -> bool {
    let journal = file::fuzzing::body::<Journal>(json).and_then(|journal| journal.checked(Path::new("log")).ok());
    let Some(journal) = journal else { return false };
    let sets = journal.sets.len();
    assert!(journal.operations.iter().all(|operation| operation.set < sets));
    assert!(journal.wanted.iter().all(|wanted| wanted.set < sets));
    let again = serde_json::to_vec(&journal).expect("it has JSON");
    assert_eq!(file::fuzzing::body::<Journal>(&again), Some(journal));
    true
}

/// What its fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let path = |path: &str| EntryPath::new(path.as_bytes()).expect("a path");
    let owner = Owner { user: "root".into(), group: "root".into() };
    let meta = |mode| Meta { mode, mtime: 0, owner: owner.clone().into(), xattrs: None };
    let chunk = Chunk { hash: Hash::of(b"content"), length: 7 };
    let file = Entry { kind: Kind::File([chunk].into_iter().collect()), meta: meta(0o644) };
    let link = Entry { kind: Kind::Link(b"a".as_slice().into()), meta: meta(0o777) };
    let was = Was { inode: 3, size: 4, mtime: (5, 6), directory: false, entry: Some(file.clone()) };
    let operation =
        |name: &str, act, was| Operation { set: 0, path: path(name), act, staged: 1, inode: 2, was, keep: true };
    let wanted = |name: &str, entry| Wanted { set: 0, path: path(name), entry, stays: false };
    let journal = Journal {
        revision: Hash::of(b"revision"),
        label: "1.2".to_owned(),
        when: "2026-01-01T00:00:00Z".to_owned(),
        phase: Phase::Forward,
        sets: vec![JournalSet {
            name: "web".parse().expect("a name"),
            path: Path::new("/srv/web").to_owned(),
            inside: false,
            beside: ".web.new".to_owned(),
        }],
        operations: vec![
            operation("a", Act::Put, None),
            operation("b", Act::Remove, Some(was)),
            operation("d", Act::Meta { old: meta(0o755), new: meta(0o700) }, None),
            operation("e", Act::Unmake { old: meta(0o755) }, None),
        ],
        wanted: vec![wanted("a", Some(file)), wanted("b", None), wanted("c", Some(link))],
    };
    vec![("journal", vec![serde_json::to_vec(&journal).expect("it has JSON")])]
}
