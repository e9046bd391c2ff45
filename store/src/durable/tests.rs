use std::{fs, os::unix::fs::symlink, path::Path};

use super::{recording::record, *};
use crate::beneath::open_root;

fn at<'a>(directory: &'a OwnedFd, name: &'a str) -> Name<'a> {
    Name { directory: directory.as_fd(), name: name.as_bytes() }
}

fn listed(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_name_is_never_anothers() {
    let home = tempfile::tempdir().unwrap();
    let held = open_root(home.path()).unwrap();
    for name in ["a", "b"] {
        fs::write(home.path().join(name), name).unwrap();
    }
    let error = rename_new(at(&held, "a"), at(&held, "b")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(create(held.as_fd(), b"a", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    exchange(at(&held, "a"), at(&held, "b")).unwrap();
    assert_eq!(fs::read_to_string(home.path().join("a")).unwrap(), "b");
    rename_new(at(&held, "a"), at(&held, "c")).unwrap();
    assert_eq!(listed(home.path()), ["b", "c"]);
}

#[test]
fn nothing_is_made_or_removed_through_a_link() {
    let home = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x"), "x").unwrap();
    symlink(outside.path(), home.path().join("link")).unwrap();
    let held = open_root(home.path()).unwrap();
    assert!(create(held.as_fd(), b"link/new", 0o600).is_err());
    assert!(create(held.as_fd(), b"../new", 0o600).is_err());
    remove_all(held.as_fd(), b"link").unwrap();
    assert_eq!(listed(outside.path()), ["x"]);
    assert!(listed(home.path()).is_empty());
}

#[test]
fn a_tree_deeper_than_there_are_descriptors_is_removed() {
    const LIMITED: &str = "BELLWETHER_TEST_LIMITED";
    if std::env::var(LIMITED).is_err() {
        // The limit belongs to the process, so this test runs alone in a process of its own.
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -n 100; exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "durable::tests::a_tree_deeper_than_there_are_descriptors_is_removed"]);
        let output = command.env(LIMITED, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let held = open_root(home.path()).unwrap();
    let mut directory = held.try_clone().unwrap();
    for _ in 0..300 {
        make_directory(directory.as_fd(), b"d", 0o700).unwrap();
        create(directory.as_fd(), b"f", 0o600).unwrap();
        let below = open_inside(directory.as_fd(), b"d").unwrap();
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o500)).unwrap();
        directory = below;
    }
    rustix::fs::fchmod(&held, Mode::RWXU).unwrap();
    remove_all(held.as_fd(), b"d").unwrap();
    clear(held.as_fd()).unwrap();
    assert!(listed(home.path()).is_empty());
}

#[test]
fn a_replaced_file_is_the_old_or_the_new_one() {
    let home = tempfile::tempdir().unwrap();
    let held = open_root(home.path()).unwrap();
    replace_file(held.as_fd(), b"state", b"one").unwrap();
    // The rest of an earlier, interrupted replacement is no obstacle.
    fs::write(home.path().join(".state.new"), "half").unwrap();
    replace_file(held.as_fd(), b"state", b"two").unwrap();
    assert_eq!(fs::read_to_string(home.path().join("state")).unwrap(), "two");
    assert_eq!(listed(home.path()), ["state"]);
}

#[test]
fn what_was_recorded_can_be_replayed_elsewhere() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let held = open_root(here.path()).unwrap();
    let (result, operations) = record(here.path(), || -> io::Result<()> {
        make_directory(held.as_fd(), b"d", 0o750)?;
        let file = create(held.as_fd(), b"d/f", 0o640)?;
        write_at(&file, b"content", 0)?;
        sync_file(file.as_fd())?;
        make_link(held.as_fd(), b"l", b"d/f")?;
        replace_file(held.as_fd(), b"state", b"body")?;
        exchange(at(&held, "l"), at(&held, "state"))
    });
    result.unwrap();
    for operation in &operations {
        operation.replay(there.path()).unwrap();
    }
    assert_eq!(listed(there.path()), listed(here.path()));
    assert_eq!(fs::read_to_string(there.path().join("d/f")).unwrap(), "content");
    assert_eq!(fs::read_link(there.path().join("state")).unwrap(), Path::new("d/f"));
    assert_eq!(fs::read_to_string(there.path().join("l")).unwrap(), "body");
}

#[test]
fn what_happens_elsewhere_is_not_recorded() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let held = open_root(there.path()).unwrap();
    let (result, operations) = record(here.path(), || create(held.as_fd(), b"f", 0o600));
    result.unwrap();
    assert!(operations.is_empty(), "{operations:?}");
}
