//! Entries that cannot be read or are not whole stay as in the last revision; the others are read.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::name::SetName;
use bellwether_store::{
    scan::{Depth, HardLink, Keeping, Look, Means, Patience, Scan, ScanError, Source, scan_keeping},
    tree::{Node, Tree},
};
use rustix::io::Errno;

use super::{Set, at, entry, get, listing, name, only};

fn keep(source: &Source, before: &Tree, look: &Look, last: &Tree) -> Scan {
    scan_keeping(std::slice::from_ref(source), before, look, Keeping { last, expected: before, patience: None })
        .unwrap()
}

/// Scans like the manager, with `patience` for every file.
fn patient(set: &Set, (before, last): (&Tree, &Tree), look: &Look, patience: Patience) -> Scan {
    let all = move |_: &SetName, _: &_| patience;
    scan_keeping(&[set.source()], before, look, Keeping { last, expected: before, patience: Some(&all) }).unwrap()
}

/// The content that `fill` makes, of a set under the rules of `source`.
fn held_before(source: &Source, fill: impl FnOnce(&Path)) -> Tree {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let before = Source::new(source.rules.clone(), directory.path().to_owned());
    keep(&before, &Tree::default(), &Look::Bytes, &Tree::default()).tree
}

fn unread(scan: &Scan) -> Vec<(String, &ScanError)> {
    scan.unread.iter().map(|unread| (unread.path.to_string(), &unread.why)).collect()
}

fn content(tree: &Tree, path: &str) -> bellwether_proto::hash::Hash {
    let Node::File { content, .. } = get(tree, path) else { panic!("{path} is no file") };
    content.hash()
}

/// This process's own directory.
fn own() -> PathBuf {
    Path::new("/proc").join(std::process::id().to_string())
}

/// A file for which the kernel answers EIO: this process's memory, at address 0.
#[test]
fn a_file_with_a_bad_sector_stays_as_it_was() {
    let source = only(&own(), "mem");
    let last = held_before(&source, |set| fs::write(set.join("mem"), "the last revision").unwrap());
    for look in [Look::Stats, Look::Bytes, at([("mem", Depth::Entry)])] {
        let scan = keep(&source, &last, &look, &last);
        let [(path, ScanError::Io { source, .. })] = &unread(&scan)[..] else { panic!("{scan:?}") };
        assert_eq!((path.as_str(), Errno::from_io_error(source)), ("mem", Some(Errno::IO)));
        assert_eq!(content(&scan.tree, "mem"), content(&last, "mem"));
        let Node::File { stat, .. } = get(&scan.tree, "mem") else { panic!("a file") };
        assert!(!stat.is_known(), "it is read at the next look, whatever its stat says");
    }
    let fresh = keep(&source, &Tree::default(), &Look::Stats, &Tree::default());
    assert_eq!((listing(&fresh.tree), fresh.unread.len()), (vec!["/".to_owned()], 1), "a new one is left out");
    assert!(fresh.unread[0].reason().starts_with("cannot be read (the device fails"), "{}", fresh.unread[0].reason());
}

/// /proc is a mount.
#[test]
fn what_is_behind_a_mount_stays_with_all_it_held() {
    let source = only(Path::new("/"), "proc");
    let last = held_before(&source, |set| {
        fs::create_dir_all(set.join("proc/deep")).unwrap();
        fs::write(set.join("proc/version"), "old").unwrap();
        fs::write(set.join("proc/deep/x"), "old").unwrap();
    });
    for look in [Look::Stats, Look::Bytes, at([("proc", Depth::All)]), at([("proc/version", Depth::Entry)])] {
        let scan = keep(&source, &last, &look, &last);
        assert!(matches!(&unread(&scan)[..], [(path, ScanError::Held { .. })] if path == "proc"), "{scan:?}");
        assert_eq!(listing(&scan.tree), ["/", "proc/", "proc/deep/", "proc/deep/x", "proc/version"], "{look:?}");
    }
    let deep = keep(&source, &last, &at([("proc/deep/x", Depth::Entry)]), &last);
    assert!(matches!(unread(&deep)[..], [(_, ScanError::Held { .. })]), "{deep:?}");
    assert_eq!(listing(&deep.tree), listing(&last));
}

#[test]
fn one_that_changes_at_every_read_does_not_stop_the_others() {
    let mut rules = (*only(Path::new("/"), "").rules).clone();
    rules.exclude = vec!["/*".into(), "!/boot_id".into(), "!/entropy_avail".into()];
    let source = Source::new(Arc::new(rules), "/proc/sys/kernel/random".into());
    let scan = keep(&source, &Tree::default(), &Look::Stats, &Tree::default());
    assert_eq!(scan.unread.len(), 2, "both have no bytes, says the kernel, and give some: {scan:?}");
    let set = Set::new();
    set.write("good", "1");
    let before = set.settled();
    set.write("good", "2");
    let both = [set.source(), Source { rules: renamed(&source, "other"), ..source.clone() }];
    let scan = scan_keeping(&both, &before, &Look::Stats, Keeping { last: &before, expected: &before, patience: None })
        .unwrap();
    assert_eq!(scan.unread.len(), 2);
    assert_ne!(content(&scan.tree, "good"), content(&before, "good"));
}

fn renamed(source: &Source, name: &str) -> Arc<bellwether_proto::record::SetRules> {
    let mut rules = (*source.rules).clone();
    rules.name = name.parse().unwrap();
    Arc::new(rules)
}

#[test]
fn a_link_in_place_of_the_root_keeps_the_whole_set() {
    let set = Set::new();
    set.write("a/b", "x");
    let last = set.settled();
    fs::remove_dir_all(set.path("")).unwrap();
    std::os::unix::fs::symlink("/etc", set.directory.path().join("root")).unwrap();
    for look in [Look::Stats, at([("a/b", Depth::Entry)])] {
        let scan = keep(&set.source(), &last, &look, &last);
        assert!(matches!(&unread(&scan)[..], [(path, ScanError::Held { .. })] if path.is_empty()), "{scan:?}");
        assert_eq!(listing(&scan.tree), ["/", "a/", "a/b"]);
    }
}

#[test]
fn the_last_revision_counts_not_what_was_scanned_since() {
    let source = only(&own(), "mem");
    let scanned = held_before(&source, |set| fs::write(set.join("mem"), "never published").unwrap());
    let last = held_before(&source, |set| fs::write(set.join("mem"), "published").unwrap());
    let scan = keep(&source, &scanned, &Look::Stats, &last);
    assert_eq!(content(&scan.tree, "mem"), content(&last, "mem"));
    let never = held_before(&source, |_| {});
    let scan = keep(&source, &scanned, &at([("mem", Depth::Entry)]), &never);
    assert_eq!(listing(&scan.tree), ["/"], "a new one is left out, whatever was scanned of it");
}

#[test]
fn a_file_that_is_open_for_writing_waits_alone() {
    let set = Set::new();
    set.write("other", "1");
    for size in [3, 300_000] {
        set.write("file", vec![b'a'; size]);
        let last = set.settled();
        set.write("other", size.to_string());
        let mut writer = OpenOptions::new().append(true).open(set.path("file")).unwrap();
        writer.write_all(b"half").unwrap();
        for look in [Look::Stats, Look::Bytes, at([("file", Depth::Entry), ("other", Depth::Entry)])] {
            let scan = patient(&set, (&last, &last), &look, Patience::Waits);
            assert!(matches!(&unread(&scan)[..], [(path, ScanError::Open { .. })] if path == "file"), "{scan:?}");
            assert_eq!(content(&scan.tree, "file"), content(&last, "file"));
            assert_ne!(content(&scan.tree, "other"), content(&last, "other"));
            assert_eq!((scan.means[&name()], scan.open.len()), (Means::Lease, 0));
            let scan = patient(&set, (&last, &last), &look, Patience::Over);
            assert_eq!((scan.unread.len(), &scan.open[..]), (0, &[(name(), entry("file"))][..]), "{scan:?}");
            assert_ne!(content(&scan.tree, "file"), content(&last, "file"));
        }
        drop(writer);
        let scan = patient(&set, (&last, &last), &Look::Stats, Patience::Waits);
        assert_eq!((scan.unread.len(), scan.open.len()), (0, 0), "{scan:?}");
        assert_ne!(content(&scan.tree, "file"), content(&last, "file"));
    }
}

/// It does not matter that a process has an unchanged file open: a database in the set, a program that sometimes appends.
#[test]
fn an_open_file_that_did_not_change_is_as_any_other() {
    let set = Set::new();
    set.write("file", "whole");
    let last = set.settled();
    let _writer = OpenOptions::new().append(true).open(set.path("file")).unwrap();
    for look in [Look::Stats, Look::Bytes, at([("file", Depth::Entry)])] {
        let scan = patient(&set, (&last, &last), &look, Patience::Waits);
        assert_eq!((scan.unread.len(), scan.open.len(), scan.means.len()), (0, 0, 0), "{scan:?}");
    }
}

#[test]
fn a_new_file_that_is_open_is_left_out() {
    let set = Set::new();
    set.write("other", "1");
    let mut writer = fs::File::create(set.path("new")).unwrap();
    writer.write_all(b"half").unwrap();
    let empty = set.empty();
    for look in [Look::Stats, Look::Bytes] {
        let scan = patient(&set, (&empty, &empty), &look, Patience::Waits);
        assert_eq!((listing(&scan.tree), scan.unread.len()), (vec!["/".to_owned(), "other".to_owned()], 1));
    }
}

#[test]
fn what_changed_at_every_read_a_moment_ago_is_not_read() {
    let set = Set::new();
    set.write("file", "1");
    let last = set.settled();
    set.write("file", "2");
    let scan = patient(&set, (&last, &last), &Look::Stats, Patience::Rests(7));
    assert!(matches!(unread(&scan)[..], [(_, ScanError::Busy { tries: 7, .. })]), "{scan:?}");
    assert_eq!((scan.files_read, content(&scan.tree, "file")), (0, content(&last, "file")));
}

#[test]
fn names_of_a_file_are_counted() {
    let set = Set::new();
    set.write("a", "x");
    set.write("alone", "x");
    fs::hard_link(set.path("a"), set.path("b")).unwrap();
    fs::hard_link(set.path("a"), set.directory.path().join("outside")).unwrap();
    let before = set.settled();
    let found = fs::metadata(set.path("a")).unwrap();
    let (inode, changed) = (found.ino(), (found.ctime(), found.ctime_nsec() as u32));
    let link = |path: &str| HardLink { set: name(), path: entry(path), inode, names: 3, changed };
    for look in [Look::Stats, Look::Bytes, at([("a", Depth::Entry), ("b", Depth::Entry)])] {
        assert_eq!(set.scan(&before, &look).links, [link("a"), link("b")], "{look:?}");
    }
}
