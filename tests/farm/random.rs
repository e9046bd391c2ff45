//! Random trees and random edits, repeatable by their seed.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Permissions},
    ops::{Deref, DerefMut},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink},
    path::{Path, PathBuf},
};

use bellwether_proto::clock::now_ms;
use bellwether_random::Rng;

/// A generator with a printed seed; `TEST_SEED` repeats a run.
#[derive(Debug)]
pub(crate) struct Random(Rng);

impl Deref for Random {
    type Target = Rng;

    fn deref(&self) -> &Rng {
        &self.0
    }
}

impl DerefMut for Random {
    fn deref_mut(&mut self) -> &mut Rng {
        &mut self.0
    }
}

impl Random {
    /// Seeded from `TEST_SEED`, or from the clock.
    pub(crate) fn seeded() -> Self {
        let seed = std::env::var("TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(now_ms);
        eprintln!("random trees of TEST_SEED={seed}");
        Self(Rng::new(seed))
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Bytes that look like configuration, or a quarter of them like random data.
    pub(crate) fn text(&mut self, length: usize) -> Vec<u8> {
        if self.below(4) == 0 {
            return self.0.bytes(length);
        }
        let words =
            ["server ", "listen 443 ssl;\n", "proxy_pass http://", "backend", "\t", "10.0.0.", "location / {\n"];
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            text.extend_from_slice(self.pick(&words).as_bytes());
            text.extend_from_slice(self.below(1000).to_string().as_bytes());
        }
        text.truncate(length);
        text
    }

    fn length(&mut self) -> usize {
        match self.below(20) {
            0 => 0,
            1 => 200_000 + self.below(2_000_000),
            2..5 => 5_000 + self.below(60_000),
            _ => self.below(4_000),
        }
    }

    fn name(&mut self) -> OsString {
        let odd: [&[u8]; 6] =
            [b"with space", "Grün ✓".as_bytes(), b"not-utf8-\xff\xfe", b"-dash", b"line\nend", b"q'\"*?["];
        let mut name = if self.below(8) == 0 { self.pick(&odd).to_vec() } else { b"file".to_vec() };
        name.extend_from_slice(self.below(100_000).to_string().as_bytes());
        OsStr::from_bytes(&name).to_owned()
    }
}

/// Fills `root` with about `entries` files, links and directories of all kinds.
pub(crate) fn fill(random: &mut Random, root: &Path, entries: usize) {
    let mut directories = vec![root.to_owned()];
    for _ in 0..entries {
        let path = random.pick(&directories).join(random.name());
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match random.below(10) {
            0 | 1 => {
                fs::create_dir(&path).expect("a directory");
                chmod(&path, *random.pick(&[0o755, 0o750, 0o700, 0o775]));
                directories.push(path);
            }
            2 => link(random, &path),
            _ => file(random, &path),
        }
    }
}

fn file(random: &mut Random, path: &Path) {
    let length = random.length();
    fs::write(path, random.text(length)).expect("a file");
    let mode = *random.pick(&[0o644, 0o644, 0o600, 0o755, 0o640, 0o444]);
    // This comes first, because only root may set the origin of a read-only file.
    if random.below(10) == 0 {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "user.origin", b"a test", flags).expect("an extended attribute");
    }
    chmod(path, mode);
}

fn link(random: &mut Random, path: &Path) {
    let target = *random.pick(&["../elsewhere", "file1", "/nowhere/at all", "."]);
    symlink(target, path).expect("a symbolic link");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

/// Makes one random edit somewhere below `root`, and returns its description.
pub(crate) fn edit(random: &mut Random, root: &Path) -> String {
    let all = below(root);
    if all.is_empty() || random.below(4) == 0 {
        return add(random, root, &all);
    }
    let path = random.pick(&all).clone();
    let metadata = path.symlink_metadata().expect("it was just there");
    let said = |what: &str| format!("{what} {}", path.display());
    if metadata.is_dir() {
        chmod(&path, *random.pick(&[0o755, 0o711]));
        return said("chmod directory");
    }
    if metadata.is_symlink() || random.below(5) == 0 {
        fs::remove_file(&path).expect("removed");
        return said("remove");
    }
    match random.below(4) {
        0 => {
            chmod(&path, *random.pick(&[0o600, 0o755]));
            said("chmod")
        }
        1 => {
            let to = root.join(random.name());
            if to.is_dir() {
                return "nothing".to_owned();
            }
            fs::rename(&path, &to).expect("renamed");
            said("rename")
        }
        2 => insert(random, &path),
        _ => {
            let length = random.length();
            fs::write(&path, random.text(length)).or_else(|_| fs::remove_file(&path)).expect("overwritten");
            said("overwrite")
        }
    }
}

fn add(random: &mut Random, root: &Path, all: &[PathBuf]) -> String {
    let directories: Vec<_> = all.iter().filter(|p| p.symlink_metadata().is_ok_and(|m| m.is_dir())).collect();
    let parent = if directories.is_empty() { root } else { random.pick(&directories).as_path() };
    let path = parent.join(random.name());
    if path.symlink_metadata().is_err() {
        file(random, &path);
    }
    format!("add {}", path.display())
}

fn insert(random: &mut Random, path: &Path) -> String {
    let mut bytes = fs::read(path).expect("a file");
    let at = random.below(bytes.len() + 1);
    bytes.splice(at..at, *b"a line that was not there\n");
    // Editors save in this way: they rename a new file beside the old one over it.
    let beside = path.with_file_name("save.tmp");
    fs::write(&beside, bytes).expect("a file");
    fs::rename(&beside, path).expect("renamed");
    format!("insert a line into {}", path.display())
}

fn below(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(root).expect("a directory").map(|e| e.expect("an entry").path()).collect();
    // The file system decides the order of a directory, and a seed must not depend on it.
    entries.sort();
    for path in entries {
        let directory = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        all.push(path.clone());
        if directory {
            all.extend(below(&path));
        }
    }
    all
}
