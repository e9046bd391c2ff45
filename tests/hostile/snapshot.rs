//! A snapshot of all bytes below a directory.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::farm::{DEADLINE, Server, wait_for};

/// The state of one path: kind and mode, owner, time (not a directory's, since staging changes it), content.
type Entry = (u32, (u32, u32), (i64, i64), Vec<u8>);

/// A server's home without its agent's own files: the sets, and everything around them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshot(BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// The snapshot of `server`, once staging is empty.
    pub(super) fn of(server: &Server) -> Self {
        wait_for("empty staging", DEADLINE, || {
            let now = Self::now(server);
            match now.0.keys().find(|path| is_staging(path)) {
                None => Ok(now),
                Some(path) => Err(format!("{} is not empty", path.display())),
            }
        })
    }

    fn now(server: &Server) -> Self {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&server.home).expect("a home") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !matches!(name.as_str(), "state" | "agent.log" | "admin.sock" | "agent.toml") {
                add(&path, &mut all);
            }
        }
        Self(all)
    }

    /// Asserts that nothing of `server` has changed since. The staging of a refused revision may take a moment to go.
    pub(super) fn assert_unchanged(&self, server: &Server, case: &str) {
        wait_for(&format!("{case}: nothing changed at {}", server.name), DEADLINE, || {
            match self.difference(&Self::now(server)) {
                None => Ok(()),
                Some(path) => Err(format!("{} differs", path.display())),
            }
        });
    }

    fn difference(&self, now: &Self) -> Option<PathBuf> {
        let paths = self.0.keys().chain(now.0.keys());
        paths.into_iter().find(|path| self.0.get(*path) != now.0.get(*path)).cloned()
    }
}

fn is_staging(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".bellwether."))
}

fn add(path: &Path, all: &mut BTreeMap<PathBuf, Entry>) {
    // An entry that vanishes during the look is also gone at the next one.
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if is_staging(path) && fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_none()) {
        // It exists from the first update on.
        return;
    }
    let time = if found.is_dir() { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
    let content = if found.is_symlink() {
        fs::read_link(path).map(|target| target.into_os_string().into_encoded_bytes()).unwrap_or_default()
    } else if found.is_file() {
        fs::read(path).unwrap_or_default()
    } else {
        Vec::new()
    };
    all.insert(path.to_owned(), (found.mode(), (found.uid(), found.gid()), time, content));
    for entry in fs::read_dir(path).into_iter().filter(|_| found.is_dir()).flatten().flatten() {
        add(&entry.path(), all);
    }
}
