//! Fuzzing of the log's decoder (`fuzz/`).

use std::path::Path;

use super::{HEADER, Kind, Records, encode};

/// A log as on the disk, and a log that is made of these bytes: for each record its kind, the length of its body, and the
/// body. The whole records must be the same when they are read again. True if either log has a record.
pub fn log(bytes: &[u8]) -> bool {
    let (made, ends) = made(bytes);
    let found = read(&made).map_or(0, |records| records.end);
    for cut in [made.len(), made.len().saturating_sub(1), made.len() / 2] {
        let end = ends.iter().rfind(|end| **end <= cut).copied().unwrap_or(0);
        assert!(read(&made[..cut]).is_none_or(|records| records.end == end as u64));
    }
    found > 0 || read(bytes).is_some_and(|records| records.end > 0)
}

fn read(bytes: &[u8]) -> Option<Records> {
    let records = Records::read(Path::new("log"), bytes).ok()?;
    let again = Records::read(Path::new("log"), &bytes[..records.end as usize]).expect("what was read");
    assert!(!again.torn && again.end == records.end && again.packs == records.packs);
    assert!(again.journal == records.journal && again.position == records.position);
    Some(records)
}

/// A log, and the end of each of its records.
fn made(mut bytes: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let (mut log, mut ends, mut hash) = (Vec::new(), Vec::new(), [0; 32]);
    while let [kind, length, rest @ ..] = bytes {
        let Some(kind) = Kind::of(*kind) else { break };
        let (body, rest) = rest.split_at(rest.len().min((*length).into()));
        hash = encode(&mut log, ([7; 4], hash), 0, kind, body);
        ends.push(log.len());
        bytes = rest;
    }
    (log, ends)
}

/// The seeds.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let plain = [&[1, 2][..], b"ab", &[2, 3], b"{x}", &[3, 2], b"{}", &[4, 0]].concat();
    let whole = made(&plain).0;
    assert!(whole.len() > 4 * HEADER);
    vec![("log", vec![plain, whole])]
}
