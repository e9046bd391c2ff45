//! What fuzzing feeds to the decoder of the journal (`fuzz/`).

use super::journal::Journal;
use crate::state_file;

/// The JSON of a journal, with the checksum right. What is taken names only sets that it has.
pub fn journal(json: &[u8]) {
    let state = tempfile::tempdir().expect("a directory");
    std::fs::write(state.path().join("journal"), state_file::fuzzing::framed(json)).expect("written");
    if let Ok(Some(journal)) = Journal::load(state.path()) {
        let sets = journal.sets.len();
        assert!(journal.operations.iter().all(|operation| operation.set < sets));
        assert!(journal.wanted.iter().all(|wanted| wanted.set < sets));
    }
}

/// What its fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let json = r#"{"revision":"HASH","label":"1.2","when":"2026-01-01T00:00:00Z","phase":"forward",
        "sets":[{"name":"web","path":"/srv/web","inside":false}],
        "operations":[{"set":0,"path":"YQ==","act":"put","staged":1,"inode":2,"was":null,"keep":false},
        {"set":0,"path":"Yg==","act":"remove","staged":2,"inode":0,"keep":true,
        "was":{"inode":3,"size":4,"mtime":[5,6],"directory":false,"entry":null}}],
        "wanted":[{"set":0,"path":"YQ==","entry":null,"stays":true}]}"#;
    let hash = bellwether_proto::hash::Hash::of(b"revision").to_string();
    vec![("journal", vec![json.replace("HASH", &hash).into_bytes()])]
}
