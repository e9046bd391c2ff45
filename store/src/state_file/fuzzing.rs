//! What fuzzing feeds to state files (`fuzz/`).

use bellwether_proto::hash::Hash;
use serde::de::DeserializeOwned;

use super::{FORMAT, decode, encode};
use crate::quarantine::Ends;

/// A whole state file.
pub fn state_file(bytes: &[u8]) {
    assert!(decode::<serde_json::Value>(bytes).is_err() || bytes.starts_with(FORMAT.as_bytes()));
    let _ = body::<Ends>(bytes);
}

/// A state file with that body, its checksum right.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let head = format!("{FORMAT}\"checksum\":\"{}\",\"body\":", Hash::of(body));
    [head.as_bytes(), body, b"}\n"].concat()
}

/// The state that a file with that body holds; none: it is refused.
pub fn body<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    decode(&framed(body)).ok()
}

/// What its fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let ends = Ends::default();
    let plain = serde_json::to_vec(&ends).expect("it has JSON");
    vec![("state_file", vec![encode(&ends).expect("it has JSON"), plain])]
}
