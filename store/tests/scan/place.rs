//! Roots and mounts: no link is followed, and no mount is crossed.

use std::{fs, os::unix::fs::symlink, path::Path};

use bellwether_store::{
    scan::{Depth, Look, ScanError, scan},
    tree::Tree,
};

use super::{Set, at, listing, only};

fn held(result: Result<bellwether_store::scan::Scan, ScanError>) -> &'static str {
    match result {
        Err(ScanError::Held { what, .. }) => what,
        other => panic!("not held: {other:?}"),
    }
}

#[test]
fn a_missing_root_is_no_error() {
    let set = Set::new();
    assert!(set.fresh().tree.sets()[0].root.is_none());
    set.write("a/b", "x");
    let before = set.fresh().tree;
    fs::remove_dir_all(set.path("")).unwrap();
    for look in [Look::Stats, Look::Bytes, at([("a/b", Depth::Entry)])] {
        assert!(set.scan(&before, &look).tree.sets()[0].root.is_none());
    }
}

#[test]
fn a_link_in_place_of_the_root_is_held() {
    let set = Set::new();
    symlink("/etc", set.directory.path().join("root")).unwrap();
    for look in [Look::Stats, at([("passwd", Depth::Entry)])] {
        assert_eq!(held(set.try_scan(&set.empty(), &look)), "a symbolic link");
    }
}

#[test]
fn a_file_in_place_of_the_root_is_an_error() {
    let set = Set::new();
    fs::write(set.directory.path().join("root"), "x").unwrap();
    assert!(matches!(set.try_scan(&set.empty(), &Look::Stats), Err(ScanError::Io { .. })));
}

#[test]
fn a_mount_is_held() {
    let source = only(Path::new("/"), "proc");
    for look in [Look::Stats, at([("proc", Depth::Entry)]), at([("proc/version", Depth::Entry)])] {
        let found = held(scan(std::slice::from_ref(&source), &Tree::default(), &look));
        assert_eq!(found, "a mount point");
    }
}

#[test]
fn an_excluded_mount_is_not_looked_at() {
    let source = only(Path::new("/"), "no-such-name");
    let scanned = scan(&[source], &Tree::default(), &Look::Stats).unwrap();
    assert_eq!(listing(&scanned.tree), ["/"]);
}

/// The kernel says that this file has no bytes and then gives some, like a file that grows at each read.
#[test]
fn a_file_that_is_never_what_its_stat_says_is_busy() {
    let source = only(Path::new("/proc/sys/kernel/random"), "boot_id");
    match scan(&[source], &Tree::default(), &Look::Stats) {
        Err(ScanError::Busy { path, tries, .. }) => assert_eq!((path.to_string().as_str(), tries), ("boot_id", 5)),
        other => panic!("not busy: {other:?}"),
    }
}
