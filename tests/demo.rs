//! The demo, as it is tried first.

use crate::farm::{bellwether, run};

#[test]
fn demo_once_works_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("a directory");
    run(bellwether().args(["demo", "--once"]).env("TMPDIR", home.path())).success();
    let left: Vec<_> = std::fs::read_dir(home.path()).expect("it").flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn demo_copies_your_own_tree_and_leaves_it_alone() {
    let own = tempfile::tempdir().expect("a directory");
    std::fs::write(own.path().join("mine.conf"), "mine").expect("written");
    run(bellwether().args(["demo", "--once", "--members", "1", "--config-dir"]).arg(own.path())).success();
    assert_eq!(std::fs::read(own.path().join("mine.conf")).expect("there"), b"mine");
    assert_eq!(std::fs::read_dir(own.path()).expect("it").count(), 1);
}
