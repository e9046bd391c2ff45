//! Peers that lie, over real connections to real agents. The test itself is the peer: it has a real key, speaks TLS and
//! gRPC, and plays the manager (with the key of one that it has stopped), a member, a joiner or a stranger.
//!
//! Each case is one row: what is done, and the words with which it must be refused. After every row nothing live may have
//! changed, beside the sets neither, and the agent must take something good.

mod forge;
mod manager;
mod member;
mod snapshot;
mod talk;

mod asking;
mod drifting;
mod edits;
mod greeting;
mod knocking;
mod members;
mod offering;
mod packs;
mod reentering;
mod supplying;
mod symlinks;
mod tokens;
mod trees;

use std::sync::OnceLock;

/// The runtime that the played side runs on.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime"))
}

/// Asserts that a refusal says what it is about.
#[track_caller]
fn says(case: &str, said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{case}: no '{word}' in: {said}");
    }
    assert!(!words.is_empty() && !said.contains("panick"), "{case}: {said}");
}
