//! Entry points for fuzzing state files.

use bellwether_proto::level::Level;

use super::{BEGINS, State, decode, encode};
use crate::{
    quarantine::{End, Ends},
    underway::Suspect,
};

/// Decodes a whole state file, and the body of one; returns whether either was accepted.
pub fn state_file(bytes: &[u8]) -> bool {
    let whole = decode::<Ends>(bytes);
    assert!(whole.is_err() || bytes.starts_with(BEGINS.as_bytes()));
    let ends = body::<Ends>(bytes);
    if let Some(ends) = &ends {
        assert_eq!(decode::<Ends>(&encode(ends).expect("it has JSON")).ok().as_ref(), Some(ends));
    }
    whole.is_ok() || ends.is_some()
}

/// A state file with that body and a valid checksum.
fn framed(body: &[u8]) -> Vec<u8> {
    super::framed(Level::FIRST, body)
}

/// The state of a file with that body; none if it is refused.
pub fn body<T: State>(body: &[u8]) -> Option<T> {
    decode(&framed(body)).ok()
}

/// The seeds.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let suspects = vec![Suspect::Peer("web2".to_owned()), Suspect::Pack("1.2".to_owned())];
    let mut ends = Ends::default();
    for time_ms in 1..=3 {
        ends.note(End { time_ms, task: "lane".to_owned(), what: "it ended".to_owned(), suspects: suspects.clone() });
    }
    let plain = serde_json::to_vec(&ends).expect("it has JSON");
    vec![("state_file", vec![encode(&ends).expect("it has JSON"), plain])]
}
