//! Hostile peers, over real connections to real agents. The test itself is the peer: it has a real key, speaks TLS and gRPC,
//! and plays the manager (with the key of a stopped one), a member, a joiner or a stranger.
//!
//! Each case is one row: an action, and the words of its refusal. After every row nothing live and nothing beside the sets may
//! have changed, and the agent must accept a good message.

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

/// The runtime of the played side.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime"))
}

/// Asserts that a refusal has these words.
#[track_caller]
fn says(case: &str, said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{case}: no '{word}' in: {said}");
    }
    assert!(!words.is_empty() && !said.contains("panick"), "{case}: {said}");
}
