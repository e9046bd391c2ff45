//! Compares two directories: by rsync, which is not ours, and by a quick look of our own for waiting.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::run;

/// Asserts that rsync would change nothing to make `copy` equal to `original`: content by checksum, kinds, modes, times,
/// owners, ACLs, extended attributes, links.
#[track_caller]
pub(crate) fn assert_equal_by_rsync(original: &Path, copy: &Path) {
    let mut command = Command::new("rsync");
    command.args(["-naiAXHc", "--delete", "--omit-dir-times", "--exclude=/.bellwether"]);
    command.arg(original.join("")).arg(copy.join(""));
    let output = run(&mut command).success();
    assert!(output.stdout.is_empty(), "{} differs from {}:\n{output}", copy.display(), original.display());
}

/// The first difference between two directories; none if they are equal.
pub(crate) fn difference(original: &Path, copy: &Path) -> Option<String> {
    let (left, right) = match (names(original), names(copy)) {
        (Ok(left), Ok(right)) => (left, right),
        (left, right) => return Some(format!("{}: {:?} and {:?}", original.display(), left.err(), right.err())),
    };
    if let Some(name) = left.symmetric_difference(&right).next() {
        let side = if left.contains(name) { "missing in the copy" } else { "only in the copy" };
        return Some(format!("{}: {side}", original.join(name).display()));
    }
    left.iter().find_map(|name| entry_difference(&original.join(name), &copy.join(name)))
}

/// The staging directory belongs to Bellwether, not to the set.
fn names(directory: &Path) -> std::io::Result<BTreeSet<OsString>> {
    let names: std::io::Result<BTreeSet<_>> = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect();
    names.map(|all| all.into_iter().filter(|name| name != ".bellwether").collect())
}

fn entry_difference(original: &Path, copy: &Path) -> Option<String> {
    let (left, right) = match (fs::symlink_metadata(original), fs::symlink_metadata(copy)) {
        (Ok(left), Ok(right)) => (left, right),
        _ => return Some(format!("{}: vanished", original.display())),
    };
    let differ = |what: &str| Some(format!("{}: {what}", original.display()));
    if left.mode() != right.mode() {
        return differ(&format!("modes {:o} and {:o}", left.mode(), right.mode()));
    }
    if (left.uid(), left.gid()) != (right.uid(), right.gid()) {
        return differ("owners");
    }
    if left.is_dir() {
        return difference(original, copy);
    }
    if left.mtime() != right.mtime() {
        return differ(&format!("times {} and {}", left.mtime(), right.mtime()));
    }
    (!same_content(original, copy, &left)).then(|| format!("{}: content", original.display()))
}

fn same_content(original: &Path, copy: &Path, metadata: &Metadata) -> bool {
    if metadata.is_symlink() {
        return fs::read_link(original).ok() == fs::read_link(copy).ok();
    }
    match (fs::read(original), fs::read(copy)) {
        (Ok(left), Ok(right)) => left == right,
        _ => false,
    }
}

/// The bytes of all files below `directory`.
pub(crate) fn total_bytes(directory: &Path) -> u64 {
    let mut total = 0;
    walk(directory, &mut |_, metadata| {
        if metadata.is_file() {
            total += metadata.len();
        }
    });
    total
}

/// A file of that name somewhere below `directory`.
pub(crate) fn find_below(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut found = None;
    walk(directory, &mut |path, metadata| {
        if metadata.is_file() && path.file_name().is_some_and(|n| n == name) {
            found = Some(path.to_owned());
        }
    });
    found
}

// Entries that vanish during the walk are skipped, and a missing directory counts as empty.
fn walk(directory: &Path, visit: &mut dyn FnMut(&Path, &Metadata)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        visit(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        time::UNIX_EPOCH,
    };

    use super::*;

    fn pair() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let (left, right) = (dir.path().join("left"), dir.path().join("right"));
        fs::create_dir_all(left.join("dir")).expect("a directory");
        fs::write(left.join("dir/file"), "content").expect("a file");
        symlink("dir/file", left.join("link")).expect("a link");
        run(Command::new("cp").arg("-a").arg(&left).arg(&right)).success();
        (dir, left, right)
    }

    /// A comparison that finds all trees equal would let every other test pass.
    #[test]
    fn every_kind_of_difference_is_found_by_both() {
        let edits: [fn(&Path); 6] = [
            |tree| fs::write(tree.join("dir/file"), "CONTENT").expect("written"),
            |tree| fs::write(tree.join("more"), "").expect("written"),
            |tree| fs::remove_file(tree.join("link")).expect("removed"),
            |tree| fs::set_permissions(tree.join("dir"), fs::Permissions::from_mode(0o700)).expect("a mode"),
            |tree| fs::File::open(tree.join("dir/file")).and_then(|f| f.set_modified(UNIX_EPOCH)).expect("a time"),
            |tree| {
                fs::remove_file(tree.join("link")).expect("removed");
                symlink("dir", tree.join("link")).expect("a link");
            },
        ];
        for (number, edit) in edits.into_iter().enumerate() {
            let (_dir, left, right) = pair();
            assert_eq!(difference(&left, &right), None);
            assert_equal_by_rsync(&left, &right);
            edit(&right);
            assert!(difference(&left, &right).is_some(), "edit {number}");
            let judged = std::panic::catch_unwind(|| assert_equal_by_rsync(&left, &right));
            assert!(judged.is_err(), "rsync, edit {number}");
        }
    }
}
