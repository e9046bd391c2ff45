//! What fuzzing feeds to state files (`fuzz/`).

use bellwether_proto::level::Level;

use super::{BEGINS, State, decode, encode};
use crate::quarantine::Ends;

/// A whole state file.
pub fn state_file(bytes: &[u8]) {
    assert!(decode::<Ends>(bytes).is_err() || bytes.starts_with(BEGINS.as_bytes()));
    let _ = body::<Ends>(bytes);
}

/// A state file with that body, its checksum right.
pub fn framed(body: &[u8]) -> Vec<u8> {
    super::framed(Level::FIRST, body)
}

/// The state that a file with that body holds; none: it is refused.
pub fn body<T: State>(body: &[u8]) -> Option<T> {
    decode(&framed(body)).ok()
}

/// What its fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let ends = Ends::default();
    let plain = serde_json::to_vec(&ends).expect("it has JSON");
    vec![("state_file", vec![encode(&ends).expect("it has JSON"), plain])]
}
