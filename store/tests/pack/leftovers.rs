//! A history after an interruption, a kill or damage.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use bellwether_store::history::{History, HistoryError};

use crate::fixture::{Line, bytes_of, new_pack, noise, unpack};

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A complete small pack of several frames, and the ends of the frames.
fn small_pack() -> (Vec<u8>, Vec<usize>) {
    let mut line = Line::new();
    let stored = line.edit("f", noise(1, 700));
    let bytes = fs::read(&stored.path).unwrap();
    let mut ends = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        at += 24 + u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        ends.push(at);
    }
    assert_eq!(ends.len(), 4);
    (bytes, ends)
}

#[test]
fn a_transfer_goes_on_from_every_byte() {
    let (bytes, ends) = small_pack();
    let pack = unpack(&bytes).unwrap().head.unwrap().pack;
    let directory = tempfile::tempdir().unwrap();
    let mut history = History::open(directory.path()).unwrap();
    for cut in 0..=bytes.len() {
        let whole = ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(0);
        // The connection broke, or the process was killed while the pack was in a file, in turn.
        if cut % 2 == 0 {
            new_pack(&history, &bytes[..cut]).keep(pack);
        } else {
            fs::write(directory.path().join("incoming-0.part"), &bytes[..cut]).unwrap();
            history = History::open(directory.path()).unwrap();
        }
        assert_eq!(history.partial(), (whole > 0).then_some((pack, whole as u64)), "cut at {cut}");
        let mut again = history.resume(pack).unwrap();
        assert_eq!(again.length(), whole as u64);
        again.write_all(&bytes[whole..]).unwrap();
        let mut read = vec![0; bytes.len() + 1];
        assert_eq!(again.read_at(&mut read, 0).unwrap(), bytes.len());
        assert_eq!(read[..bytes.len()], bytes);
        drop(again);
        assert!(names(directory.path()).is_empty(), "cut at {cut}: {:?}", names(directory.path()));
    }
}

#[test]
fn a_resumed_pack_is_committed() {
    let (bytes, ends) = small_pack();
    let pack = unpack(&bytes).unwrap().head.unwrap().pack;
    let directory = tempfile::tempdir().unwrap();
    let mut history = History::open(directory.path()).unwrap();
    new_pack(&history, &bytes[..ends[1] + 3]).keep(pack);
    history = History::open(directory.path()).unwrap();
    let mut new = history.resume(pack).unwrap();
    let from = new.length() as usize;
    new.append(&bytes[from..]).unwrap();
    let stored = history.commit(new).unwrap();
    assert_eq!((fs::read(&stored.path).unwrap(), history.partial()), (bytes, None));
    assert_eq!(names(directory.path()).len(), 1);
}

#[test]
fn only_one_interrupted_pack_is_kept() {
    let (bytes, ends) = small_pack();
    let (other, _) = small_pack();
    let (pack, second) = (unpack(&bytes).unwrap().head.unwrap().pack, unpack(&other).unwrap().head.unwrap().pack);
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path()).unwrap();
    new_pack(&history, &bytes[..ends[1]]).keep(pack);
    new_pack(&history, &other[..ends[0]]).keep(second);
    assert_eq!(history.partial(), Some((second, ends[0] as u64)));
    assert_eq!(names(directory.path()).len(), 1);
    let new = history.resume(pack).unwrap();
    assert_eq!(new.length(), 0);
    assert_eq!(history.partial(), None);
    drop(new);
    assert!(names(directory.path()).is_empty());
    // A pack under another pack's name is not kept.
    new_pack(&history, &bytes[..ends[1]]).keep(second);
    assert_eq!(history.partial(), None);
    assert!(names(directory.path()).is_empty());
}

/// After a power loss the file may have its length but not its bytes.
#[test]
fn a_part_with_a_hole_goes_on_before_it() {
    let (mut bytes, ends) = small_pack();
    let pack = unpack(&bytes).unwrap().head.unwrap().pack;
    bytes[ends[1] + 40..].fill(0);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("incoming-4.part"), &bytes).unwrap();
    fs::write(directory.path().join("incoming-5.part"), vec![0; 5000]).unwrap();
    let history = History::open(directory.path()).unwrap();
    assert_eq!(history.partial(), Some((pack, ends[1] as u64)));
    assert_eq!(names(directory.path()), ["incoming-4.part"]);
}

#[test]
fn what_is_incomplete_is_not_committed() {
    let (bytes, ends) = small_pack();
    let directory = tempfile::tempdir().unwrap();
    let mut history = History::open(directory.path()).unwrap();
    let swapped = [&bytes[..ends[0]], &bytes[ends[1]..ends[2]], &bytes[ends[0]..ends[1]], &bytes[ends[2]..]].concat();
    let longer = [bytes.as_slice(), b"x"].concat();
    let mut bad: Vec<Vec<u8>> = (0..bytes.len()).map(|cut| bytes[..cut].to_vec()).collect();
    bad.extend([swapped, longer, bytes.repeat(2)]);
    for bytes in bad {
        let new = new_pack(&history, &bytes);
        assert!(matches!(history.commit(new), Err(HistoryError::Damaged { .. })), "{} bytes", bytes.len());
        assert!(names(directory.path()).is_empty() && history.head().is_none());
    }
}

/// A history of three revisions in one file, and the next pack.
fn line_and_next() -> (Line, Vec<u8>) {
    let mut line = Line::new();
    for text in ["1", "2", "3"] {
        line.edit("f", text);
    }
    line.site.write("f", noise(7, 700));
    let tree = line.site.scan();
    let header = line.site.header(line.head.as_ref().map(|(header, _)| header), tree.root());
    let bytes = line.site.pack(&header, &line.head.as_ref().unwrap().1, &tree).unwrap();
    (line, bytes)
}

/// A kill or a power loss during an append: the file is cut anywhere, or has its length but not its bytes.
#[test]
fn an_append_that_was_interrupted_anywhere_leaves_old_or_new() {
    let (mut line, bytes) = line_and_next();
    let (first, head) = (line.head_id(), line.history.head().unwrap().clone());
    let before = fs::read(&head.path).unwrap();
    assert_eq!(before.len() as u64, head.at + head.size);
    for cut in 0..=bytes.len() {
        let holes = if cut % 9 == 0 || cut == bytes.len() { vec![0, bytes.len() - cut, 5_000] } else { vec![0] };
        for hole in holes {
            let torn = [&before[..], &bytes[..cut], &vec![0; hole]].concat();
            fs::write(&head.path, &torn).unwrap();
            line.reopen();
            // The pack may end with zeros of its own.
            let is_new = torn[before.len()..].starts_with(&bytes);
            assert_eq!(line.history.left_out(), [], "cut at {cut}, {hole} zeros");
            assert_eq!(line.history.head().unwrap().header.id() == first, !is_new, "cut at {cut}, {hole} zeros");
            assert_eq!(fs::read(&head.path).unwrap(), torn, "nothing is changed before the next append");
            if !is_new {
                line.commit(&bytes);
                assert_eq!(fs::read(&head.path).unwrap(), [&before[..], &bytes[..]].concat());
                line.reopen();
                assert_eq!(line.history.all().count(), 4);
            }
            line.history.tree(line.history.head().unwrap().header.id()).unwrap();
        }
    }
}

/// Retention removes files one by one: after a kill between them, the rest is a history.
#[test]
fn a_kill_within_retention_leaves_a_history() {
    for killed_after in 0..3 {
        let mut line = Line::new();
        for at in 1..=6u64 {
            line.edit("f", noise(at, 1000));
            if at == 3 || at == 5 {
                line.base();
            }
        }
        let saved: BTreeMap<_, _> = line.history.all().map(|s| (s.path.clone(), fs::read(&s.path).unwrap())).collect();
        assert_eq!(saved.len(), 3);
        line.history.retain(1).unwrap();
        // This restores the state after a kill: the oldest files are deleted last.
        let gone: Vec<_> = saved.into_iter().rev().filter(|(path, _)| !path.exists()).collect();
        assert_eq!(gone.len(), 2);
        for (path, bytes) in gone.into_iter().skip(killed_after) {
            fs::write(path, bytes).unwrap();
        }
        line.reopen();
        assert!(line.history.left_out().is_empty(), "{:?}", line.history.left_out());
        assert_eq!(line.history.head().unwrap().header.id(), line.head_id());
        for stored in line.history.all() {
            line.history.tree(stored.header.id()).unwrap();
        }
        line.history.retain(1).unwrap();
        assert_eq!(line.history.all().count(), 2);
    }
}

/// Increments of more than 1 MiB have files of their own.
#[test]
fn a_damaged_file_is_named_and_left_out_with_those_that_need_it() {
    let mut line = Line::new();
    let paths: Vec<_> = (1..=5u64).map(|at| line.edit("f", noise(at, 1_200_000)).path.clone()).collect();
    let bytes = fs::read(&paths[2]).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..10], b"", &[0; 4000]] {
        fs::write(&paths[2], damaged).unwrap();
        line.reopen();
        let left: Vec<_> = line.history.left_out().iter().map(|left| left.path.clone()).collect();
        assert_eq!(left, [paths[2].clone(), paths[3].clone(), paths[4].clone()]);
        assert_eq!(line.history.left_out().iter().map(|left| left.sequence).collect::<Vec<_>>(), [3, 4, 5]);
        assert!(line.history.left_out().iter().all(|left| !left.why.is_empty()));
        assert_eq!(line.history.head().unwrap().path, paths[1]);
        assert!(paths.iter().all(|path| path.exists()));
    }
    // The file has another pack's name.
    fs::copy(&paths[1], &paths[2]).unwrap();
    line.reopen();
    assert!(line.history.left_out()[0].why.contains("belongs to a file named"));
    // After it was received again, the pack is whole.
    line.commit(&bytes);
    assert_eq!(line.history.left_out().len(), 2);
    line.reopen();
    assert!(line.history.left_out().is_empty());
    assert_eq!(line.history.head().unwrap().path, paths[4]);
}

#[test]
fn damage_amid_a_file_is_named_and_nothing_of_it_is_written_over() {
    let mut line = Line::new();
    let packs: Vec<_> = (1..=5u64).map(|at| line.edit("f", noise(at, 3_000))).collect();
    let path = packs[0].path.clone();
    assert!(packs.iter().all(|stored| stored.path == path));
    let third = bytes_of(&packs[2]);
    let mut damaged = fs::read(&path).unwrap();
    damaged[packs[2].at as usize + 3] ^= 0x80;
    fs::write(&path, &damaged).unwrap();
    line.reopen();
    let left = line.history.left_out();
    assert_eq!((left.len(), left[0].at, left[0].sequence), (1, packs[2].at, 3));
    assert_eq!(line.history.head().unwrap().header.id(), packs[1].header.id());
    let again = line.commit(&third);
    assert!(again.path != path && again.at == 0);
    assert_eq!(fs::read(&path).unwrap(), damaged);
    line.reopen();
    assert_eq!(line.history.head().unwrap().header.id(), packs[2].header.id());
    assert_eq!(line.history.left_out().len(), 1);
}

/// A base that comes again does not remove the increments behind the first one.
#[test]
fn a_base_that_comes_again_gets_a_file_of_its_own() {
    let (mut line, _) = line_and_next();
    let base = bytes_of(line.history.all().next().unwrap());
    let head = line.head_id();
    let again = line.commit(&base);
    assert_eq!(names(&line.site.history()).len(), 2);
    for _ in 0..2 {
        assert_eq!(bytes_of(&again), base);
        assert_eq!(line.history.head().unwrap().header.id(), head);
        line.history.tree(head).unwrap();
        assert_eq!(line.history.left_out(), []);
        line.reopen();
    }
}

#[test]
fn a_pack_that_cannot_be_appended_leaves_the_history_as_it_was() {
    let (mut line, bytes) = line_and_next();
    let path = line.history.head().unwrap().path.clone();
    let before = fs::read(&path).unwrap();
    line.reopen();
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let new = new_pack(&line.history, &bytes);
    let error = line.history.commit(new).unwrap_err();
    assert!(matches!(error, HistoryError::Io { action: "append to", .. }), "{error}");
    fs::rename(&away, &path).unwrap();
    assert_eq!((fs::read(&path).unwrap(), line.history.all().count()), (before, 3));
    line.commit(&bytes);
    line.reopen();
    assert_eq!(line.history.all().count(), 4);
}

#[test]
fn damage_behind_the_head_is_met_when_it_is_read() {
    let mut line = Line::new();
    let stored = line.edit("f", noise(1, 500_000));
    let mut bytes = fs::read(&stored.path).unwrap();
    let at = stored.changes_end as usize + 1000;
    bytes[at] ^= 1;
    fs::write(&stored.path, &bytes).unwrap();
    line.reopen();
    let wanted = crate::fixture::chunks_of(&line.head.as_ref().unwrap().1).into_keys().collect();
    let mut found = 0;
    line.history.chunks(&wanted, &mut |_, _| found += 1).unwrap();
    assert_eq!(found, 0);
    line.history.tree(line.head_id()).unwrap();
    bytes[stored.changes_end as usize - 1] ^= 1;
    fs::write(&stored.path, &bytes).unwrap();
    assert!(matches!(line.history.tree(line.head_id()), Err(HistoryError::Damaged { .. })));
}

#[test]
fn a_left_out_file_goes_with_its_age() {
    let mut line = Line::new();
    line.edit("f", "1");
    let first = line.edit("f", "2").path.clone();
    line.edit("f", "3");
    line.base();
    fs::write(&first, b"damaged").unwrap();
    line.reopen();
    assert_eq!(line.history.left_out().len(), 1);
    line.history.retain(1).unwrap();
    assert!(!first.exists() && line.history.left_out().is_empty());
}

#[test]
fn other_files_are_left_alone() {
    let mut line = Line::new();
    line.edit("f", "1");
    let stray = line.site.history().join("README");
    fs::write(&stray, "mine").unwrap();
    fs::create_dir(line.site.history().join("x.inc")).unwrap();
    line.reopen();
    assert!(stray.exists() && line.history.left_out().is_empty() && line.history.head().is_some());
}
