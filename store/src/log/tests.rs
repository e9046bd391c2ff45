use std::fs;

use proptest::prelude::*;

use super::*;
use crate::{
    durable::recording::{Operation, Random, failing, mark, record, replay, survivors},
    state::file::tests::Any,
};

fn home() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn position(directory: &Path) -> Option<u32> {
    read(directory).unwrap().position::<Any<u32>>().unwrap().map(|any| any.0)
}

/// A log with two switches; after the second one there are a position and no end.
fn written(directory: &Path) -> Vec<u8> {
    let log = Log::open(directory).unwrap();
    log.note(&Any(1u32)).unwrap();
    log.begin(Some(b"a pack"), &Any("first".to_owned())).unwrap();
    log.note(&Any(2u32)).unwrap();
    log.end().unwrap();
    let at = log.begin(Some(b"another pack"), &Any("second".to_owned())).unwrap().unwrap();
    log.note(&Any(3u32)).unwrap();
    assert_eq!(bytes(log.path(), (at, at + 12)).unwrap(), b"another pack");
    fs::read(log.path()).unwrap()
}

#[test]
fn what_was_noted_last_counts() {
    let home = home();
    assert!(position(home.path()).is_none() && !path(home.path()).exists());
    written(home.path());
    let records = read(home.path()).unwrap();
    assert_eq!((records.position::<Any<u32>>().unwrap().map(|any| any.0), records.packs.len()), (Some(3), 2));
    assert_eq!(records.journal::<Any<String>>().unwrap().map(|any| any.0).as_deref(), Some("second"));
    let log = Log::open(home.path()).unwrap();
    log.end().unwrap();
    log.sync().unwrap();
    assert!(!read(home.path()).unwrap().is_switching());
    assert_eq!(log.journal::<Any<String>>().unwrap().map(|any| any.0), None);
}

#[test]
fn one_that_is_cut_anywhere_is_read_up_to_its_last_whole_record_and_goes_on_there() {
    let whole = written(home().path());
    let mut known = None;
    for cut in 0..=whole.len() {
        let home = home();
        fs::write(path(home.path()), &whole[..cut]).unwrap();
        let now = position(home.path());
        assert!(now >= known && now <= Some(3), "cut at {cut}: {now:?} after {known:?}");
        known = now;
        let log = Log::open(home.path()).unwrap();
        log.note(&Any(4u32)).unwrap();
        log.begin(None, &Any("third".to_owned())).unwrap();
        let records = read(home.path()).unwrap();
        assert_eq!(records.position::<Any<u32>>().unwrap().map(|any| any.0), Some(4), "cut at {cut}");
        assert_eq!(
            records.journal::<Any<String>>().unwrap().map(|any| any.0).as_deref(),
            Some("third"),
            "cut at {cut}"
        );
    }
    assert_eq!(known, Some(3));
}

#[test]
fn what_was_durable_and_cannot_be_read_any_more_is_damage() {
    let home = home();
    let whole = written(home.path());
    let last =
        whole.len() - HEADER - fs::read(path(home.path())).map(|_| file::encode(&Any(3u32)).unwrap().len()).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(path(home.path()), &bytes).unwrap();
        match read(home.path()) {
            Err(StateFileError::Damaged { what, .. }) => {
                assert!(at < last && what.contains("cannot be read"), "{at}: {what}")
            }
            // This byte is the version.
            Err(StateFileError::Newer { .. }) => {}
            Err(error) => panic!("{at}: {error}"),
            Ok(records) => {
                assert!(at >= last, "{at} of {last}");
                assert_eq!(records.position::<Any<u32>>().unwrap().map(|any| any.0), Some(2), "{at}");
            }
        }
    }
}

/// The rest of an interrupted write begins exactly where the next record ends.
#[test]
fn what_was_left_behind_follows_nothing_newer() {
    let home = home();
    let log = Log::open(home.path()).unwrap();
    log.note(&Any(1u32)).unwrap();
    let end = fs::read(log.path()).unwrap().len();
    log.note(&Any(2u32)).unwrap();
    log.begin(None, &Any("of an older time".to_owned())).unwrap();
    let left = fs::read(log.path()).unwrap();
    let mut torn = left.clone();
    // The record at `end` was not written, and neither record was acknowledged.
    torn[end + HEADER + 70] ^= 1;
    let later = torn.len() - HEADER - file::encode(&Any("of an older time".to_owned())).unwrap().len();
    torn[later + 20..later + 28].copy_from_slice(&(end as u64).to_le_bytes());
    let checksum = crc32fast::hash(&torn[later..later + 60]).to_le_bytes();
    torn[later + 60..later + 64].copy_from_slice(&checksum);
    fs::write(log.path(), &torn).unwrap();
    let log = Log::open(home.path()).unwrap();
    assert_eq!(log.position::<Any<u32>>().unwrap().map(|any| any.0), Some(1));
    log.note(&Any(3u32)).unwrap();
    let mut longer = fs::read(log.path()).unwrap();
    longer.extend_from_slice(&left[longer.len()..]);
    fs::write(log.path(), &longer).unwrap();
    let records = read(home.path()).unwrap();
    assert_eq!((records.position::<Any<u32>>().unwrap().map(|any| any.0), records.is_switching()), (Some(3), false));
}

#[test]
fn one_that_a_newer_bellwether_made_is_left_as_it_is() {
    let home = home();
    let whole = written(home.path());
    let version = [&whole[..], b"BWL2 in another form"].concat();
    let mut level = Vec::new();
    let body = format!("{{\"format\":{},\"another\":\"form\"}}", Level::NEWEST.0 + 1);
    encode(&mut level, ([7; 4], [0; 32]), 0, Kind::Journal, body.as_bytes());
    for bytes in [version, level] {
        fs::write(path(home.path()), &bytes).unwrap();
        assert!(matches!(read(home.path()), Err(StateFileError::Newer { .. })));
        assert!(matches!(Log::open(home.path()), Err(StateFileError::Newer { .. })));
        assert_eq!(fs::read(path(home.path())).unwrap(), bytes);
    }
}

#[test]
fn it_is_made_anew_with_the_position_alone() {
    let home = home();
    written(home.path());
    let log = Log::open(home.path()).unwrap();
    log.renew().unwrap();
    assert!(log.journal::<Any<String>>().unwrap().map(|any| any.0).is_some(), "not while a switch is under way");
    log.end().unwrap();
    for _ in 0..2 {
        log.renew().unwrap();
        assert!(!log.is_large());
        let records = read(home.path()).unwrap();
        assert_eq!((records.position::<Any<u32>>().unwrap().map(|any| any.0), records.packs.len()), (Some(3), 0));
    }
    log.begin(None, &Any("x".repeat(LARGE as usize))).unwrap();
    assert!(!log.is_large(), "a switch is under way");
    log.end().unwrap();
    assert!(log.is_large());
    log.note(&Any(4u32)).unwrap();
    log.renew().unwrap();
    assert_eq!((position(home.path()), log.is_large()), (Some(4), false));
}

/// All operations of a log.
fn steps(directory: &Path) -> io::Result<()> {
    let error = |error: StateFileError| io::Error::other(error.to_string());
    let log = Log::open(directory).map_err(error)?;
    for number in 1u32..=4 {
        log.begin(Some(&number.to_le_bytes()), &Any(format!("to {number}")))?;
        log.note(&Any(number)).map_err(error)?;
        mark(directory, "noted");
        log.end()?;
        if number == 2 {
            log.renew()?;
        }
    }
    log.sync()
}

#[test]
fn a_failure_of_any_operation_leaves_what_was_noted_before() {
    let (_, operations) = {
        let home = home();
        record(home.path(), || steps(home.path()).unwrap())
    };
    let fails = |k: &usize| !matches!(operations[*k], Operation::Mark { .. });
    for k in (0..operations.len()).filter(fails) {
        for last in [k + 1, usize::MAX] {
            let home = home();
            let result = failing(home.path(), k, last, || steps(home.path()));
            assert!(result.is_err(), "{k}");
            let done = operations[..k].iter().filter(|o| matches!(o, Operation::Mark { .. })).count() as u32;
            let found = position(home.path()).unwrap_or(0);
            assert!((done..=done + 1).contains(&found), "{k}: {found} after {done}");
            let log = Log::open(home.path()).unwrap();
            log.note(&Any(9u32)).unwrap();
            assert_eq!(position(home.path()), Some(9), "{k}");
        }
    }
}

#[test]
fn after_a_power_loss_at_any_moment_what_was_noted_is_there() {
    let home = home();
    let ((), operations) = record(home.path(), || steps(home.path()).unwrap());
    for seed in 1..=300u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let _ = fs::remove_file(path(home.path()));
        let (left, end) = survivors(&operations, &mut random);
        replay(&left, home.path());
        let done = operations[..end].iter().filter(|o| matches!(o, Operation::Mark { .. })).count() as u32;
        let records = read(home.path()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = records.position::<Any<u32>>().unwrap().map(|any| any.0).unwrap_or(0);
        assert!((done..=done + 1).contains(&found), "seed {seed}: {found} after {done}");
        if let Some(journal) = records.journal::<Any<String>>().unwrap().map(|any| any.0) {
            assert!(
                journal == format!("to {found}") || journal == format!("to {}", found + 1),
                "seed {seed}: {journal}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(bytes: Vec<u8>, at: prop::sample::Index, cut: prop::sample::Index) {
        let home = home();
        let mut whole = written(home.path());
        fuzzing::log(&bytes);
        let at = at.index(whole.len());
        whole.splice(at..at, bytes);
        whole.truncate(cut.index(whole.len()));
        fuzzing::log(&whole);
    }

    #[test]
    fn records_of_any_kind_and_length_are_read_again(records in prop::collection::vec((1..=4u8, prop::collection::vec(any::<u8>(), 0..99)), 1..9)) {
        let bytes = records.iter().flat_map(|(kind, body)| [&[*kind, body.len() as u8], &body[..]].concat());
        prop_assert!(fuzzing::log(&bytes.collect::<Vec<_>>()));
    }
}

#[test]
fn what_fuzzing_begins_with_is_taken() {
    assert!(fuzzing::seeds().iter().flat_map(|(_, seeds)| seeds).all(|seed| fuzzing::log(seed)));
}
