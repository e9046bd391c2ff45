//! Scans of named paths.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use bellwether_store::scan::Depth::{All, Entry};

use super::{Set, at, listing};

#[test]
fn nothing_else_is_touched() {
    let set = Set::new();
    for path in ["a/one", "a/two", "b/three"] {
        set.write(path, "x");
    }
    let before = set.settled();
    for path in ["a/one", "a/two", "b/three"] {
        set.write(path, "changed");
    }
    let looked = set.scan(&before, &at([("a/one", Entry)]));
    assert_eq!(looked.files_read, 1);
    let changed: Vec<String> = before.diff(&looked.tree).iter().map(|change| change.path.to_string()).collect();
    assert_eq!(changed, ["a/one"]);
    assert_eq!(set.scan(&before, &at([("a", Entry)])).files_read, 0, "a directory keeps what it held");
    assert_eq!(set.scan(&before, &at([("a", All)])).files_read, 2);
}

#[test]
fn what_did_not_change_gives_the_tree_that_was_known() {
    let set = Set::new();
    set.write("a/one", "x");
    let before = set.settled();
    let looked = set.scan(&before, &at([("", Entry), ("a", Entry), ("a/one", Entry), ("none", Entry)]));
    assert!(super::same_root(&before, &looked.tree));
    assert_eq!(looked.files_read, 0);
    assert!(super::same_root(&before, &set.scan(&before, &at::<&str>([])).tree));
}

#[test]
fn the_nearest_missing_directory_is_removed() {
    let set = Set::new();
    set.write("a/b/c/d", "x");
    set.write("keep", "x");
    let before = set.fresh().tree;
    fs::remove_dir_all(set.path("a/b")).unwrap();
    let looked = set.scan(&before, &at([("a/b/c/d", Entry), ("a/b/c/other", Entry)]));
    assert_eq!(listing(&looked.tree), ["/", "a/", "keep"]);
}

#[test]
fn a_directory_that_became_something_else_is_that() {
    let set = Set::new();
    for path in ["a/x", "b/x"] {
        set.write(path, "x");
    }
    let before = set.fresh().tree;
    for path in ["a", "b"] {
        fs::remove_dir_all(set.path(path)).unwrap();
    }
    symlink("/etc", set.path("a")).unwrap();
    set.write("b", "now a file");
    let looked = set.scan(&before, &at([("a/passwd", Entry), ("a/x", Entry), ("b/x", Entry)]));
    assert_eq!(listing(&looked.tree), ["/", "a@", "b"]);
}

#[test]
fn what_was_not_known_is_scanned_whole_from_the_top() {
    let set = Set::new();
    set.write("file", "x");
    let before = set.fresh().tree;
    set.write("new/deep/x", "x");
    set.write("new/y", "x");
    fs::remove_file(set.path("file")).unwrap();
    set.write("file/z", "now a directory");
    let looked = set.scan(&before, &at([("new/deep/x", Entry), ("file", Entry)]));
    assert_eq!(listing(&looked.tree), ["/", "file/", "file/z", "new/", "new/deep/", "new/deep/x", "new/y"]);
}

#[test]
fn a_directory_of_its_own_mode_keeps_what_it_holds() {
    let set = Set::new();
    set.write("a/x", "x");
    let before = set.fresh().tree;
    fs::set_permissions(set.path("a"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(set.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let looked = set.scan(&before, &at([("a", Entry), ("", Entry)]));
    assert_eq!(looked.tree.root(), set.fresh().tree.root());
    assert_eq!(listing(&looked.tree), ["/", "a/", "a/x"]);
}

#[test]
fn what_is_excluded_is_ignored() {
    let set = Set::with(|rules| rules.exclude = vec!["cache/".into(), "*.log".into()]);
    set.write("cache", "a file of that name is carried");
    set.write("x.log", "x");
    let before = set.fresh().tree;
    assert_eq!(listing(&before), ["/", "cache"]);
    fs::remove_file(set.path("cache")).unwrap();
    set.write("cache/x", "x");
    let looked =
        set.scan(&before, &at([("cache", Entry), ("cache/x", Entry), ("x.log", Entry), (".bellwether/x", All)]));
    assert_eq!(listing(&looked.tree), ["/"]);
}
