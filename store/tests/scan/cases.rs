//! The entries that a scan carries and those that it reads again.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt, symlink},
            net::UnixListener,
        },
    },
};

use bellwether_proto::{entry::Content, hash::Hash, limits};
use bellwether_store::{scan::Look, tree::Node};
use rustix::fs::{CWD, FileType, Mode, OFlags, Timespec, Timestamps, futimens, mkdirat, mknodat, openat};

use super::{Set, as_nobody, entry, get, listing, notices, same_root};

#[test]
fn everything_that_is_carried_is_there() {
    let set = Set::new();
    set.write("nginx.conf", "worker_processes 1;\n");
    set.write("empty", "");
    set.mkdir("conf.d/none");
    symlink("../nginx.conf", set.path("conf.d/link")).unwrap();
    symlink("loop", set.path("loop")).unwrap();
    symlink("/nonexistent", set.path("dangling")).unwrap();
    fs::write(set.path("").join(OsStr::from_bytes(b"\xff\xfe")), "odd").unwrap();
    let scanned = set.fresh();
    let expected =
        ["/", "conf.d/", "conf.d/link@", "conf.d/none/", "dangling@", "empty", "loop@", "nginx.conf", "\\xff\\xfe"];
    assert_eq!(listing(&scanned.tree), expected);
    assert_eq!(scanned.notices, []);
    assert_eq!((scanned.files_read, scanned.bytes_read), (3, 23));
    let Node::File { meta, content, .. } = get(&scanned.tree, "nginx.conf") else { panic!("a file") };
    let on_disk = fs::metadata(set.path("nginx.conf")).unwrap();
    assert_eq!((meta.mtime, u32::from(meta.mode)), (on_disk.mtime(), on_disk.mode() & 0o7777));
    assert_eq!(content.hash(), Hash::of(b"worker_processes 1;\n"));
    let Node::Link { target, meta, .. } = get(&scanned.tree, "conf.d/link") else { panic!("a link") };
    assert_eq!((&*target, meta.mode), (&b"../nginx.conf"[..], 0o777));
    assert_eq!(get(&scanned.tree, "conf.d").meta().mtime, 0);
    let Node::File { content, .. } = get(&scanned.tree, "empty") else { panic!("a file") };
    assert_eq!(content, Content::Empty);
}

#[test]
fn young_files_are_listed_and_their_stats_not_believed() {
    let set = Set::new();
    for number in 0..50 {
        set.write(&format!("{number}"), "x");
    }
    let scanned = set.fresh();
    for number in 0..50 {
        let path = entry(format!("{number}"));
        let Node::File { stat, .. } = get(&scanned.tree, path.as_bytes()) else { panic!("a file") };
        let young = scanned.young.iter().any(|(_, young)| *young == path);
        assert_ne!(stat.is_known(), young, "{path}");
    }
}

#[test]
fn what_did_not_change_is_neither_read_nor_hashed() {
    let set = Set::new();
    set.write("a/b/c", "one");
    set.write("a/d", vec![7; 300_000]);
    symlink("d", set.path("a/link")).unwrap();
    set.mkdir("a/empty");
    let before = set.settled();
    let again = set.scan(&before, &Look::Stats);
    assert_eq!((again.files_read, again.bytes_read), (0, 0));
    assert!(same_root(&before, &again.tree));
    let bytes = set.scan(&before, &Look::Bytes);
    assert_eq!((bytes.files_read, bytes.bytes_read), (2, 300_003));
    assert!(same_root(&before, &bytes.tree));
    set.write("a/b/c", "two");
    let changed = set.scan(&before, &Look::Stats);
    assert_eq!((changed.files_read, changed.bytes_read), (1, 3));
    assert_ne!(changed.tree.root(), before.root());
}

#[test]
fn an_edit_of_the_same_size_with_its_time_put_back_is_seen() {
    let set = Set::new();
    let path = set.write("conf", "listen 80;");
    let before = set.settled();
    let old = fs::metadata(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    fs::write(&path, "listen 81;").unwrap();
    let time = Timespec { tv_sec: old.mtime(), tv_nsec: old.mtime_nsec() };
    futimens(&file, &Timestamps { last_access: time, last_modification: time }).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mtime_nsec(), old.mtime_nsec());
    assert_ne!(set.scan(&before, &Look::Stats).tree.root(), before.root());
}

/// An edit faster than the clock that stamps files: inode, size and all times stay the same.
#[test]
fn edits_within_one_tick_are_seen() {
    let set = Set::new();
    let path = set.write("conf", "0000");
    let mut tree = set.fresh().tree;
    for number in 1..300 {
        let text = format!("{number:04}");
        fs::write(&path, &text).unwrap();
        tree = set.scan(&tree, &Look::Stats).tree;
        let Node::File { content, .. } = get(&tree, "conf") else { panic!("a file") };
        assert_eq!(content.hash(), Hash::of(text.as_bytes()), "edit {number}");
    }
}

#[test]
fn what_is_not_carried_is_said_once() {
    let set = Set::new();
    set.mkdir("");
    let _socket = UnixListener::bind(set.path("socket")).unwrap();
    mknodat(CWD, set.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let before = set.fresh();
    assert_eq!(listing(&before.tree), ["/"]);
    let expected = [("fifo", "a fifo is not carried"), ("socket", "a socket is not carried")];
    assert_eq!(notices(&before), expected.map(|(path, what)| (path.to_owned(), what.to_owned())).into());
    assert_eq!(set.scan(&before.tree, &Look::Stats).notices, before.notices);
}

#[test]
fn setuid_travels_only_when_allowed() {
    let mut set = Set::new();
    let path = set.write("tool", "x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let shared = set.mkdir("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o3777)).unwrap();
    let refused = set.settled();
    assert_eq!(get(&refused, "tool").meta().mode, 0o755);
    assert_eq!(get(&refused, "shared").meta().mode, 0o3777);
    let again = set.scan(&refused, &Look::Stats);
    assert_eq!((again.files_read, notices(&again).len()), (0, 1));
    set.rules.allow_setuid = true;
    let allowed = set.scan(&refused, &Look::Stats);
    assert_eq!(get(&allowed.tree, "tool").meta().mode, 0o6755);
    assert_eq!(allowed.notices, []);
}

#[test]
fn excluded_entries_are_not_looked_at() {
    let mut set = Set::with(|rules| {
        rules.exclude = vec!["cache/".into(), "*.log".into()];
        rules.local = vec!["/local.conf".into()];
    });
    for path in ["cache/x", "a/cache/x", "a/x.log", "local.conf", "a/local.conf", ".bellwether/x", ".bellwether.1/x"] {
        set.write(path, "x");
    }
    let before = set.fresh();
    assert_eq!(listing(&before.tree), ["/", "a/", "a/local.conf"]);
    set.rules.exclude.pop();
    let after = set.scan(&before.tree, &super::at([("local.conf", bellwether_store::scan::Depth::Entry)]));
    assert_eq!(listing(&after.tree), ["/", "a/", "a/local.conf", "a/x.log"], "other rules: everything is looked at");
}

#[test]
fn one_line_in_the_middle_of_a_large_file_adds_few_chunks() {
    let set = Set::new();
    let lines = |extra| -> String {
        let line = |n: u64| format!("{n} {}\n", Hash::of(&n.to_le_bytes()));
        (0..60_000).map(|n| if n == 30_000 { line(n) + extra } else { line(n) }).collect()
    };
    set.write("zone", lines(""));
    let before = set.fresh().tree;
    set.write("zone", lines("one more\n"));
    let after = set.scan(&before, &Look::Stats).tree;
    let (Node::File { content: old, .. }, Node::File { content: new, .. }) =
        (get(&before, "zone"), get(&after, "zone"))
    else {
        panic!("files")
    };
    assert!(new.chunks().len() > 30, "{}", new.chunks().len());
    let added = new.chunks().iter().filter(|chunk| !old.chunks().contains(chunk)).count();
    assert!((1..=3).contains(&added), "{added} of {}", new.chunks().len());
}

#[test]
fn a_path_over_the_limit_is_left_out_and_said() {
    let set = Set::new();
    let mut directory = fs::File::open(set.mkdir("")).unwrap();
    let name = "n".repeat(200);
    for _ in 0..21 {
        mkdirat(directory.as_fd(), name.as_str(), Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        directory = openat(directory.as_fd(), name.as_str(), flags, Mode::empty()).unwrap().into();
    }
    let scanned = set.fresh();
    let longest = limits::PATH / 201;
    assert_eq!(listing(&scanned.tree).len(), 1 + longest);
    assert_eq!(scanned.notices.len(), 1);
    assert!(scanned.notices[0].what.contains("too long"), "{:?}", scanned.notices);
}

#[test]
fn depth_costs_neither_descriptors_nor_stack() {
    let set = Set::new();
    set.write(&format!("{}file", "d/".repeat(700)), "x");
    let scanned = set.fresh();
    let before = scanned.tree;
    assert_eq!(listing(&before).len(), 1 + limits::DEPTH, "as deep as a path may be");
    assert!(
        matches!(scanned.notices.as_slice(), [one] if one.what.contains("deeper than 256")),
        "{:?}",
        scanned.notices
    );
    assert_eq!(set.scan(&before, &Look::Stats).tree.root(), before.root());
}

#[test]
fn an_unreadable_file_is_named() {
    let set = Set::new();
    let path = set.write("a/secret", "x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    set.let_others_in();
    let error = as_nobody(|| set.try_scan(&set.empty(), &Look::Stats)).unwrap_err();
    assert_eq!(error.to_string(), "cannot read set:a/secret");
}
