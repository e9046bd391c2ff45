//! A set on this disk, and a model of what it should become.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{
    entry::{EntryPath, Kind},
    hash::Hash,
    key::PublicKey,
    record::SetRules,
    revision::RevisionId,
};
use tempfile::TempDir;

use crate::{
    apply::{Failed, Job, Plan, Refused, Site, Switched, work::Ways},
    durable::recording,
    log::{self, Log},
    scan::{Look, Source, scan},
    state::file::{StateFileError, tests::Any},
    tree::Tree,
};

pub(super) struct Farm {
    home: PathBuf,
    /// Removes it, where the farm was made here.
    _made: Option<TempDir>,
    pub(super) rules: SetRules,
    pub(super) ways: Ways,
    pub(super) state: PathBuf,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Refused(Refused),
    Failed(Failed),
}

impl Farm {
    pub(super) fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap())
    }

    /// On tmpfs, where inode numbers are never used again.
    pub(super) fn in_memory() -> Self {
        Self::in_directory(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn in_directory(made: TempDir) -> Self {
        for directory in ["etc/web", "model", "state/history"] {
            fs::create_dir_all(made.path().join(directory)).unwrap();
        }
        let farm = Self::at(made.path());
        Self { _made: Some(made), ..farm }
    }

    /// One that another process made.
    pub(super) fn at(home: &Path) -> Self {
        let (rules, ways) = (SetRules::new("web".parse().unwrap()), Ways::default());
        Self { home: home.to_owned(), _made: None, rules, ways, state: home.join("state") }
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn live(&self) -> PathBuf {
        self.home().join("etc/web")
    }

    /// The staging directory beside the set.
    pub(super) fn staging(&self) -> PathBuf {
        let name = crate::apply::place::name_beside(&self.rules, &server());
        self.home().join("etc").join(crate::beneath::os(&name))
    }

    pub(super) fn model(&self) -> PathBuf {
        self.home().join("model")
    }

    pub(super) fn site(&self) -> Site {
        self.site_of(vec![Source::new(Arc::new(self.rules.clone()), self.live())])
    }

    /// With these sets, and the log opened anew.
    pub(super) fn site_of(&self, sources: Vec<Source>) -> Site {
        fs::create_dir_all(self.history()).unwrap();
        let log = Arc::new(Log::open(&self.history()).unwrap());
        Site { sources, state: self.state.clone(), log, idle: Arc::default(), server: server() }
    }

    /// Where the log is.
    pub(super) fn history(&self) -> PathBuf {
        self.state.join("history")
    }

    /// The revision that the log names as the position.
    pub(super) fn noted(&self) -> Option<RevisionId> {
        Log::open(&self.history()).unwrap().position::<Any<u32>>().unwrap().map(|any| any.0).map(|_| revision())
    }

    /// The tree of a directory under the set's rules.
    pub(super) fn tree(&self, path: &Path) -> Tree {
        let rules = Arc::new(self.rules.clone());
        let source = Source::new(rules.clone(), path.to_owned());
        scan(&[source], &Tree::empty([rules]), &Look::Bytes).unwrap().tree
    }

    /// Asserts that the set holds what the model holds, and nothing is left of the way there.
    pub(super) fn assert_is_model(&self) {
        assert_same(&self.tree(&self.live()), &self.tree(&self.model()));
        self.assert_clean();
    }

    pub(super) fn assert_clean(&self) {
        assert!(!log::read(&self.history()).unwrap().is_switching(), "the journal stays");
        assert!(!self.staging().exists(), "staging stays");
        assert!(!self.live().join(".bellwether").exists(), "staging inside stays");
    }

    /// Syncs the set to the model; what is there counts as expected.
    pub(super) fn sync(&self) -> Result<Switched, Outcome> {
        let live = self.tree(&self.live());
        self.sync_expecting(&live.clone(), &live)
    }

    pub(super) fn sync_expecting(&self, expected: &Tree, live: &Tree) -> Result<Switched, Outcome> {
        let target = self.tree(&self.model());
        let changes = live.diff(&target);
        let job = Job { revision: revision(), label: "1.7".to_owned(), live, expected, target: &target, changes };
        self.apply(&job)
    }

    pub(super) fn apply(&self, job: &Job<'_>) -> Result<Switched, Outcome> {
        self.staged(job)?.switch().map_err(Outcome::Failed)
    }

    pub(super) fn staged(&self, job: &Job<'_>) -> Result<crate::apply::Staged, Outcome> {
        self.staged_at(&self.site(), job)
    }

    /// As an agent that has applied here before.
    pub(super) fn staged_at(&self, site: &Site, job: &Job<'_>) -> Result<crate::apply::Staged, Outcome> {
        let mut plan = Plan::with(site, job, self.ways).map_err(Outcome::Refused)?;
        plan.look_elsewhere(job.live).map_err(Outcome::Refused)?;
        let places = places(job.target);
        for chunk in plan.missing() {
            let (path, offset) = &places[&chunk.hash];
            let mut bytes = vec![0; chunk.length as usize];
            let file = fs::File::open(self.model().join(crate::beneath::os(path.as_bytes()))).unwrap();
            file.read_exact_at(&mut bytes, *offset).unwrap();
            plan.supply(&chunk.hash, &bytes).map_err(Outcome::Refused)?;
        }
        plan.staged().map_err(Outcome::Refused)
    }

    /// Syncs and commits, marking in the recording when the caller has noted the revision.
    pub(super) fn sync_and_commit(&self) -> Result<(), Outcome> {
        let switched = self.sync()?;
        if let Err(error) = note(&switched) {
            let back = switched.take_back();
            return Err(Outcome::Failed(back.err().unwrap_or(Failed::TakenBack { what: error.to_string() })));
        }
        recording::mark(&self.state, "noted");
        switched.commit();
        Ok(())
    }

    /// Every kept copy, as paths below `recovery/<time>-<label>/`, without the manifest.
    pub(super) fn kept(&self) -> Vec<String> {
        let Ok(points) = fs::read_dir(self.state.join("recovery")) else { return Vec::new() };
        let mut kept = Vec::new();
        for point in points {
            let point = point.unwrap().path();
            assert!(point.join("manifest.json").exists());
            files(&point, &point, &mut kept);
        }
        kept.retain(|path| path != "manifest.json");
        kept.sort();
        kept
    }
}

/// Notes that the sets hold the revision.
pub(super) fn note(switched: &Switched) -> Result<(), StateFileError> {
    switched.work.log.note(&Any(1u32))
}

/// The server that stages.
pub(super) fn server() -> PublicKey {
    PublicKey::try_from(&[7; 32][..]).unwrap()
}

pub(super) fn revision() -> RevisionId {
    RevisionId(Hash::of(b"the new revision"))
}

fn files(top: &Path, at: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            files(top, &path, found);
        } else {
            found.push(path.strip_prefix(top).unwrap().display().to_string());
        }
    }
}

/// Where the bytes of each chunk are.
fn places(tree: &Tree) -> HashMap<Hash, (EntryPath, u64)> {
    let mut places = HashMap::new();
    tree.visit(&mut |_, path, node| {
        let Kind::File(content) = node.entry().kind else { return };
        let mut offset = 0;
        for chunk in content.chunks() {
            places.insert(chunk.hash, (path.clone(), offset));
            offset += u64::from(chunk.length);
        }
    });
    places
}

pub(super) fn assert_same(a: &Tree, b: &Tree) {
    let different: Vec<_> = a.diff(b).into_iter().map(|change| (change.path, change.entry)).collect();
    assert!(a.root() == b.root(), "they differ: {different:?}");
}

/// Makes what `specs` say: `dir/`, `file=content`, `link->target`, each with an optional `@mode` in octal. What cannot be
/// made, because something is in the way, is left out.
pub(super) fn build(root: &Path, specs: &[impl AsRef<str>]) {
    for spec in specs {
        let (spec, mode) = match spec.as_ref().rsplit_once('@') {
            Some((spec, mode)) => (spec, Some(u32::from_str_radix(mode, 8).unwrap())),
            None => (spec.as_ref(), None),
        };
        let path = |name: &str| {
            let path = root.join(name);
            let _ = fs::create_dir_all(path.parent().unwrap());
            path
        };
        let made = if let Some((name, target)) = spec.split_once("->") {
            let _ = std::os::unix::fs::symlink(target, path(name));
            continue;
        } else if let Some((name, content)) = spec.split_once('=') {
            let path = path(name);
            if path.is_symlink() {
                continue;
            }
            fs::write(&path, content).map(|()| path)
        } else {
            fs::create_dir_all(path(spec)).map(|()| path(spec))
        };
        if let (Ok(path), Some(mode)) = (made, mode) {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// Removes what is at `path`, whatever it is.
pub(super) fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else if path.symlink_metadata().is_ok() {
        fs::remove_file(path).unwrap();
    }
}
