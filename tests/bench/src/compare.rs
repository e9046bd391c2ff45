//! Compares a member's tree with the manager's, byte for byte: names, kinds, modes, owners, times, links, content.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::problem::{Problem, Result};

/// Compares every copy with `original`.
///
/// # Errors
/// The first difference.
pub(crate) fn all_equal(original: &Path, copies: &[PathBuf]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(copy) = copies.get(next.fetch_add(1, Ordering::Relaxed)) {
            Buffers::default().directories(original, copy)?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a comparison does not panic"))
    })
}

/// Two buffers for the contents of files.
#[derive(Default)]
struct Buffers(Vec<u8>, Vec<u8>);

impl Buffers {
    fn directories(&mut self, original: &Path, copy: &Path) -> Result<()> {
        let (left, right) = (names(original)?, names(copy)?);
        if let Some(name) = left.symmetric_difference(&right).next() {
            let side = if left.contains(name) { "is missing in" } else { "is only in" };
            return Err(Problem::new(format!("{} {side} {}", name.display(), copy.display())));
        }
        left.iter().try_for_each(|name| self.entries(&original.join(name), &copy.join(name)))
    }

    fn entries(&mut self, original: &Path, copy: &Path) -> Result<()> {
        let look = |path: &Path| fs::symlink_metadata(path).map_err(Problem::with("look at", path));
        let (left, right) = (look(original)?, look(copy)?);
        let differ =
            |what: &str| Problem::new(format!("{} and {} differ in {what}", original.display(), copy.display()));
        if (left.mode(), left.uid(), left.gid()) != (right.mode(), right.uid(), right.gid()) {
            return Err(differ("kind, mode or owner"));
        }
        if left.is_dir() {
            return self.directories(original, copy);
        }
        if left.mtime() != right.mtime() || left.size() != right.size() {
            return Err(differ("time or size"));
        }
        let same = self.same_content(&left, original, copy).map_err(Problem::with("read", copy))?;
        if same { Ok(()) } else { Err(differ("content")) }
    }

    fn same_content(&mut self, kind: &Metadata, original: &Path, copy: &Path) -> io::Result<bool> {
        if kind.is_symlink() {
            return Ok(fs::read_link(original)? == fs::read_link(copy)?);
        }
        let Self(left, right) = self;
        for (buffer, path) in [(&mut *left, original), (&mut *right, copy)] {
            buffer.clear();
            File::open(path)?.read_to_end(buffer)?;
        }
        Ok(left == right)
    }
}

/// The names in a directory, except for Bellwether's staging directory, which is not part of the set.
fn names(directory: &Path) -> Result<BTreeSet<OsString>> {
    let entries = fs::read_dir(directory).map_err(Problem::with("read", directory))?;
    let names: io::Result<BTreeSet<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let names = names.map_err(Problem::with("read", directory))?;
    Ok(names.into_iter().filter(|name| name != ".bellwether").collect())
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        time::UNIX_EPOCH,
    };

    use super::*;

    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("dir/empty")).expect("directories");
        fs::write(root.join("dir/file"), "content").expect("a file");
        File::open(root.join("dir/file")).and_then(|file| file.set_modified(UNIX_EPOCH)).expect("a time");
        link(root, "dir/file");
    }

    /// A link of a fixed time.
    fn link(root: &Path, target: &str) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
        let link = root.join("link");
        symlink(target, &link).expect("a link");
        let then = Timespec { tv_sec: 0, tv_nsec: 0 };
        let times = Timestamps { last_access: then, last_modification: then };
        utimensat(CWD, &link, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
    }

    /// A comparison that finds all trees equal would let every measurement pass.
    #[test]
    fn every_kind_of_difference_is_found() {
        let edits: [fn(&Path); 6] = [
            |tree| {
                fs::write(tree.join("dir/file"), "CONTENT").expect("written");
                File::open(tree.join("dir/file")).and_then(|file| file.set_modified(UNIX_EPOCH)).expect("a time");
            },
            |tree| fs::write(tree.join("more"), "").expect("written"),
            |tree| fs::remove_dir(tree.join("dir/empty")).expect("removed"),
            |tree| fs::set_permissions(tree.join("dir"), fs::Permissions::from_mode(0o700)).expect("a mode"),
            |tree| File::open(tree.join("dir/file")).and_then(|f| f.set_modified(UNIX_EPOCH + DAY)).expect("a time"),
            |tree| {
                fs::remove_file(tree.join("link")).expect("removed");
                link(tree, "dir/empty");
            },
        ];
        for (number, edit) in edits.into_iter().enumerate() {
            let dir = tempfile::tempdir().expect("a directory");
            let (left, right) = (dir.path().join("left"), dir.path().join("right"));
            tree(&left);
            tree(&right);
            all_equal(&left, &[right.clone(), left.clone()]).expect("equal");
            edit(&right);
            assert!(all_equal(&left, &[left.clone(), right]).is_err(), "edit {number}");
        }
    }
}
