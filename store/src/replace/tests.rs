use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use bellwether_proto::record::SetRules;

use super::*;
use crate::durable::recording::{Operation, record};

struct Set {
    directory: tempfile::TempDir,
    source: Source,
}

impl Set {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("set")).unwrap();
        let rules = SetRules::new("nginx".parse().unwrap());
        let source = Source::new(Arc::new(rules), directory.path().join("set"));
        Self { directory, source }
    }

    fn path(&self) -> &Path {
        &self.source.path
    }

    fn look(&self, path: &str) -> Result<LookedAt, ReplaceError> {
        LookedAt::open(&self.source, &EntryPath::new(path.as_bytes()).unwrap())
    }

    /// The topmost that is to be looked at; none: it was so already.
    fn put(&self, path: &str, data: &str, mode: Option<u16>) -> Result<Option<EntryPath>, ReplaceError> {
        synced(self.look(path)?.replace(data.as_bytes(), mode)?)
    }

    fn remove(&self, path: &str) -> Result<Option<EntryPath>, ReplaceError> {
        synced(self.look(path)?.remove()?)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn synced(replaced: Option<Replaced>) -> Result<Option<EntryPath>, ReplaceError> {
    let Some(replaced) = replaced else { return Ok(None) };
    replaced.sync()?;
    let Look::At(look) = replaced.look() else { panic!("{replaced:?}") };
    Ok(look.into_keys().next().map(|(_, path)| path))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn puts_a_new_file_with_its_directories() {
    let set = Set::new();
    let top = set.put("a/b/c", "text", None).unwrap().unwrap();
    assert_eq!(top, EntryPath::new(b"a").unwrap(), "the topmost new directory is looked at");
    let file = set.path().join("a/b/c");
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    assert_eq!(mode(&file), 0o644);
    assert_eq!(mode(&set.path().join("a/b")), 0o755);
}

#[test]
fn keeps_the_mode_of_what_it_replaces_and_leaves_nothing_behind() {
    let set = Set::new();
    let file = set.path().join("a");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // A crash left it.
    fs::write(set.path().join(".bellwether.put"), "half").unwrap();
    assert_eq!(set.look("a").unwrap().hash().unwrap(), Some(Hash::of(b"old")));
    set.put("a", "new", None).unwrap().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    assert_eq!(mode(&file), 0o600);
    assert_eq!(set.names(), ["a"]);
}

#[test]
fn putting_twice_is_putting_once() {
    let set = Set::new();
    assert!(set.put("file", "text", None).unwrap().is_some());
    let inode = || fs::metadata(set.path().join("file")).unwrap().ino();
    let before = inode();
    assert!(set.put("file", "text", None).unwrap().is_none());
    let looked = set.look("file").unwrap();
    assert_eq!(looked.hash().unwrap(), Some(Hash::of(b"text")));
    assert!(looked.replace(b"text", None).unwrap().is_none(), "read twice, from its beginning");
    assert_eq!(inode(), before, "the file is the same one");
    assert!(set.put("file", "TEXT", None).unwrap().is_some());
    assert!(set.put("file", "TEXT", Some(0o600)).unwrap().is_some(), "another mode is a change");
}

#[test]
fn removing_twice_is_removing_once() {
    let set = Set::new();
    fs::write(set.path().join("a"), "x").unwrap();
    assert!(set.remove("a").unwrap().is_some());
    assert!(set.remove("a").unwrap().is_none());
    assert_eq!(set.look("a").unwrap().hash().unwrap(), None);
    assert_eq!(set.names(), [""; 0]);
}

#[test]
fn what_changes_after_the_look_is_left_as_it_is() {
    let set = Set::new();
    fs::write(set.path().join("a"), "old").unwrap();
    let (there, absent) = (set.look("a").unwrap(), set.look("b").unwrap());
    for name in ["a", "b"] {
        fs::write(set.path().join(name), "theirs").unwrap();
    }
    let changed = |done: Result<Option<Replaced>, ReplaceError>| matches!(done, Err(ReplaceError::Changed(_)));
    assert!(changed(there.replace(b"mine", None)));
    assert!(changed(there.remove()));
    assert!(changed(absent.replace(b"mine", None)));
    for name in ["a", "b"] {
        assert_eq!(fs::read_to_string(set.path().join(name)).unwrap(), "theirs");
    }
    assert_eq!(set.names(), ["a", "b"], "nothing else is left");
}

#[test]
fn nothing_is_written_through_links_or_over_directories() {
    let set = Set::new();
    let outside = set.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, set.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), set.path().join("file")).unwrap();
    fs::create_dir(set.path().join("dir")).unwrap();
    fs::write(set.path().join("plain"), "x").unwrap();
    for path in ["link/secret", "link/new", "file", "dir", "plain/x"] {
        assert!(matches!(set.put(path, "y", None), Err(ReplaceError::Held(..))), "{path}");
    }
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "x");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(set.names(), ["dir", "file", "link", "plain"]);
}

#[test]
fn a_directory_of_the_temporary_name_is_named() {
    let set = Set::new();
    fs::create_dir(set.path().join(".bellwether.put")).unwrap();
    let error = set.put("a", "new", None).unwrap_err();
    let said = bellwether_proto::error::chain(&error);
    assert!(said.contains("a directory .bellwether.put is in the way, beside the file; remove it"), "{said}");
    assert_eq!(set.names(), [".bellwether.put"]);
}

/// After a power loss there is the old file or the whole new one, and after the sync the new one.
#[test]
fn the_content_is_durable_before_the_name_is() {
    let set = Set::new();
    fs::write(set.path().join("a"), "old").unwrap();
    let (_, operations) = record(set.directory.path(), || set.put("a", "new", None).unwrap());
    let at = |wanted: fn(&Operation) -> bool| {
        let found: Vec<_> = operations.iter().enumerate().filter(|(_, o)| wanted(o)).map(|(at, _)| at).collect();
        assert_eq!(found.len(), 1, "{operations:?}");
        found[0]
    };
    let (write, file) = (at(|o| matches!(o, Operation::Write { .. })), at(|o| matches!(o, Operation::SyncFile { .. })));
    let (name, directory) =
        (at(|o| matches!(o, Operation::Rename { .. })), at(|o| matches!(o, Operation::SyncDirectory { .. })));
    assert!(write < file && file < name && name < directory, "{operations:?}");
}
