//! Scans of real directories.

mod attributes;
mod cases;
mod named;
mod place;
mod random;
mod unread;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    entry::{EntryPath, Kind},
    name::SetName,
    record::SetRules,
};
use bellwether_store::{
    scan::{Depth, Look, Scan, ScanError, Source, scan},
    tree::{Node, Tree},
};

/// A set in a directory of its own.
struct Set {
    directory: tempfile::TempDir,
    rules: SetRules,
}

fn name() -> SetName {
    "set".parse().unwrap()
}

fn entry(path: impl AsRef<[u8]>) -> EntryPath {
    EntryPath::new(path.as_ref()).unwrap()
}

fn at<P: AsRef<[u8]>>(paths: impl IntoIterator<Item = (P, Depth)>) -> Look {
    Look::At(paths.into_iter().map(|(path, depth)| ((name(), entry(path)), depth)).collect())
}

impl Set {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), rules: SetRules::new(name()) }
    }

    fn with(change: impl FnOnce(&mut SetRules)) -> Self {
        let mut set = Self::new();
        change(&mut set.rules);
        set
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join("root").join(below)
    }

    /// Writes a file, and makes its directories.
    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn mkdir(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Every user may look at the root.
    fn let_others_in(&self) {
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn source(&self) -> Source {
        Source::new(Arc::new(self.rules.clone()), self.directory.path().join("root"))
    }

    fn empty(&self) -> Tree {
        Tree::empty([Arc::new(self.rules.clone())])
    }

    fn try_scan(&self, before: &Tree, look: &Look) -> Result<Scan, ScanError> {
        scan(&[self.source()], before, look)
    }

    fn scan(&self, before: &Tree, look: &Look) -> Scan {
        self.try_scan(before, look).unwrap()
    }

    /// All of it, read again.
    fn fresh(&self) -> Scan {
        self.scan(&self.empty(), &Look::Bytes)
    }

    /// Scans until every file is old enough to be trusted.
    fn settled(&self) -> Tree {
        let deadline = Instant::now() + Duration::from_secs(180);
        let mut scanned = self.fresh();
        while !scanned.young.is_empty() {
            assert!(Instant::now() < deadline, "still young: {:?}", scanned.young);
            std::thread::yield_now();
            scanned = self.scan(&scanned.tree, &Look::Stats);
        }
        scanned.tree
    }
}

/// The paths of a tree, for people: directories end in '/', links in '@'.
fn listing(tree: &Tree) -> Vec<String> {
    let mut list = Vec::new();
    tree.visit(&mut |_, path, node| {
        let mark = match node.entry().kind {
            Kind::Directory => "/",
            Kind::File(_) => "",
            Kind::Link(_) => "@",
        };
        list.push(format!("{path}{mark}"));
    });
    list
}

fn get(tree: &Tree, path: impl AsRef<[u8]>) -> Node {
    tree.get(&name(), &entry(path)).expect("the entry")
}

fn same_root(a: &Tree, b: &Tree) -> bool {
    match (&a.sets()[0].root, &b.sets()[0].root) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs it as a user who is not root; this thread and those that read for it have that user's rights from then on.
fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let becomes_nobody = |_| {
        if is_root() {
            let nobody = rustix::thread::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
    };
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(becomes_nobody).build().unwrap();
    threads.install(what)
}

/// A set of a directory that is not ours, with everything excluded except for one name.
fn only(path: &Path, kept: &str) -> Source {
    let mut rules = SetRules::new(name());
    rules.exclude = vec!["/*".to_owned(), format!("!/{kept}")];
    Source::new(Arc::new(rules), path.to_owned())
}

fn notices(scanned: &Scan) -> BTreeMap<String, String> {
    scanned.notices.iter().map(|notice| (notice.path.to_string(), notice.what.clone())).collect()
}
