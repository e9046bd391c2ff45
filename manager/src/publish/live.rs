//! Sets that are edited in a directory of their own (`source` in agent.toml, a git checkout for example), while their path on this
//! server is live. The live paths are the first that a revision is switched to: after its pack is made, and before it is in the
//! history. What their commands refuse is no revision. The journal names the revision, so a crash before the history has it
//! takes the switch back. Edits at a live path are drift.

mod publisher;

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bellwether_local::prove::{self, Commands, Complaint, Inside};
use bellwether_proto::{
    advice::{Advice, Advise},
    clock::micros,
    entry::EntryPath,
    hash::Hash,
    level::{Level, State},
    name::SetName,
    revision::{Epoch, Number, RevisionId, SignedHeader},
    status::{Event, Observation},
};
use bellwether_store::{
    apply::{Failed, Idle, Job, Plan, Refused, Site, Staged, Switched},
    beneath::Root,
    history::HistoryError,
    mutex::locked,
    scan::{Excludes, Look, ScanError, Source, scan, sources},
    state::{
        file::{self, StateFileError},
        layout::Layout,
    },
    tree::{Node, SetTree, Tree},
};
use serde::{Deserialize, Serialize};

pub(crate) use self::publisher::LiveLook;
use crate::{
    failpoints,
    past::Past,
    publish::{discard::Discarded, own_sets},
    shared::Shared,
};

/// The most paths of drift that the monitor is told.
const TOLD: usize = 5;

/// The sets' live paths do not take a revision, and hold what they held, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// They cannot be read.
    #[error("the paths of the sets on this server cannot be read")]
    Scan(#[from] ScanError),
    /// They cannot hold it.
    #[error("the paths of the sets on this server cannot take it")]
    Refused(#[from] Refused),
    /// The switch failed.
    #[error("the paths of the sets on this server could not be switched")]
    Failed(#[from] Failed),
    /// The content is not in the history.
    #[error("the history cannot be read")]
    History(#[from] HistoryError),
    /// The manager stops while commands run.
    #[error("the manager is stopping")]
    Stopping,
    /// A command of a set refuses it.
    #[error("refused: {}", .0.reason)]
    Rejected(Complaint),
}

/// A git checkout would be published with its `.git`, or lose it.
#[derive(Debug, thiserror::Error)]
#[error("the source of set {set}, {path}, is a git checkout, and the group does not exclude its .git")]
pub struct Checkout {
    /// The set.
    pub set: SetName,
    /// The checkout.
    pub path: PathBuf,
}

impl Advise for Checkout {
    fn advice(&self) -> Option<Advice> {
        let command = format!("bellwether group set --exclude '{}=/.git'", self.set);
        Some(Advice::run("leave it out on all servers, at the manager", command))
    }
}

/// The directories from which this manager has published, in one epoch: what they hold is a person's work on the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trusted {
    epoch: Epoch,
    sources: BTreeMap<SetName, PathBuf>,
}

impl State for Trusted {
    fn level(&self) -> Level {
        Level(2)
    }
}

/// The live paths, shared by the manager's tasks. Only the publisher writes there.
#[derive(Debug)]
pub(crate) struct Lives {
    /// Of the sets that are edited elsewhere.
    paths: Vec<(SetName, PathBuf)>,
    /// Where these are edited.
    edited: BTreeMap<SetName, PathBuf>,
    /// The live paths as last scanned.
    known: Mutex<Tree>,
    idle: Arc<Idle>,
    /// The root of the last tree that a service did not work with, and why. By itself it is not tried again.
    refused: Mutex<Option<(Hash, Complaint)>>,
    file: PathBuf,
    /// Whether the edited directories may hold what is older than the head: nothing of them is published without a person.
    stale: AtomicBool,
}

impl Lives {
    /// The live paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (SetName, PathBuf)> {
        self.paths.iter().cloned()
    }

    /// Opens the state in the state directory `state`. `edited`: where sets are edited, of those whose paths are in `sets`.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(crate) fn open(
        state: &Path,
        sets: &[(SetName, PathBuf)],
        edited: BTreeMap<SetName, PathBuf>,
        epoch: Epoch,
    ) -> Result<Self, StateFileError> {
        let file = Layout::new(state.to_owned()).sources();
        if edited.is_empty() {
            // What is edited at its path from now on is not in a directory that an earlier note names.
            forget(&file)?;
        }
        let trusted: Option<Trusted> = file::load(&file)?;
        let is_trusted = trusted.is_some_and(|trusted| trusted == Trusted { epoch, sources: edited.clone() });
        let paths = sets.iter().filter(|(set, _)| edited.contains_key(set)).cloned().collect();
        let stale = AtomicBool::new(!edited.is_empty() && !is_trusted);
        Ok(Self {
            paths,
            edited,
            known: Mutex::default(),
            idle: Arc::default(),
            refused: Mutex::default(),
            file,
            stale,
        })
    }

    /// Whether a set has a live path beside the directory in which it is edited.
    pub(crate) fn has(&self, set: &SetName) -> bool {
        self.edited.contains_key(set)
    }

    /// Whether no set has.
    pub(crate) fn is_empty(&self) -> bool {
        self.edited.is_empty()
    }

    /// Where the sets of `sets` are edited.
    pub(crate) fn edited(&self, sets: Vec<(SetName, PathBuf)>) -> Vec<(SetName, PathBuf)> {
        let edited = |(set, path): (SetName, PathBuf)| {
            let path = self.edited.get(&set).cloned().unwrap_or(path);
            (set, path)
        };
        sets.into_iter().map(edited).collect()
    }

    /// Whether nothing is published without a person, because another manager may have made the head since the edited
    /// directories were in use.
    pub(crate) fn holds(&self) -> bool {
        self.stale.load(Ordering::SeqCst)
    }

    /// Why the tree with that root is not tried again by itself; none: it is.
    pub(crate) fn refused(&self, root: Hash) -> Option<Complaint> {
        locked(&self.refused).as_ref().filter(|(refused, _)| *refused == root).map(|(_, complaint)| complaint.clone())
    }

    /// Notes durably that the edited directories are in line with the head, or that a person decided so. Blocks.
    pub(crate) fn trust(&self, epoch: Epoch) -> Result<(), StateFileError> {
        if self.holds() {
            file::save(&self.file, &Trusted { epoch, sources: self.edited.clone() })?;
            self.stale.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Finds a set whose edited directory is a git checkout, of which the group's rules do not exclude `.git`.
    pub(crate) fn checkout(&self, sources: &[Source]) -> Option<Checkout> {
        let git = EntryPath::new(b".git").ok()?;
        let with_git = |source: &&Source| {
            let found = source.path.join(".git").symlink_metadata();
            // Rules that cannot be used are reported by the scan.
            let excluded = |is_dir| Excludes::new(&source.rules).is_ok_and(|excludes| excludes.excluded(&git, is_dir));
            self.has(&source.rules.name) && found.is_ok_and(|found| !excluded(found.is_dir()))
        };
        let source = sources.iter().find(with_git)?;
        Some(Checkout { set: source.rules.name.clone(), path: source.path.clone() })
    }
}

fn forget(file: &Path) -> Result<(), StateFileError> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StateFileError::Io { action: "remove", path: file.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Shared {
    /// The live paths of the sets that are edited elsewhere, under the record's rules.
    fn live_sources(&self) -> Vec<Source> {
        self.roots.guard(sources(self.record.borrow().record(), &self.live.paths))
    }

    /// The commands of these sets.
    pub(super) fn commands_of(&self, sets: &[SetName]) -> Commands {
        let some = self.commands.iter().filter(|(set, _)| sets.contains(set));
        some.map(|(set, commands)| (set.clone(), commands.clone())).collect()
    }
}

/// The live paths hold a revision that the history does not have yet. Dropped, this leaves the journal, as a crash would.
#[derive(Debug)]
pub(super) struct Followed {
    switched: Switched,
    number: Number,
    began: Instant,
}

impl Followed {
    /// The history has the revision.
    pub(super) fn keep(self, shared: &Shared) {
        failpoints::hit("live.kept");
        let (kept, revision, micros) = (self.switched.kept.clone(), self.number, micros(self.began));
        *locked(&shared.live.known) = self.switched.live.clone();
        self.switched.finish();
        settle(shared);
        shared.see(Event::Server(shared.name.clone(), Observation::Done { revision, micros, kept }));
    }

    /// The history cannot take it.
    pub(super) fn take_back(self, shared: &Shared) {
        if let Err(error) = self.switched.take_back() {
            fails(shared, &error.to_string());
        }
    }
}

/// Switches the live paths to `target`, which the history has next under `header`, and has the services take it; none if they hold
/// it already. Blocks.
pub(super) fn follow(
    shared: &Arc<Shared>,
    header: &SignedHeader,
    target: &Tree,
) -> Result<Option<Followed>, LiveError> {
    if shared.live.is_empty() {
        return Ok(None);
    }
    switch(shared, header, target).inspect_err(|error| {
        if let LiveError::Failed(failed) = error {
            fails(shared, &failed.to_string());
        }
    })
}

fn switch(shared: &Arc<Shared>, header: &SignedHeader, target: &Tree) -> Result<Option<Followed>, LiveError> {
    let (began, number) = (Instant::now(), header.number());
    let mut sets = changed(shared, target);
    let Some(staged) = stage(shared, target, header.id(), &number.to_string())? else {
        // Somebody has put the new content there already.
        let commands = shared.commands_of(&sets);
        let proved = shared
            .wait_for_commands(prove::prove(&commands, true, &shared.secrets(), |_| {}))
            .ok_or(LiveError::Stopping)?;
        return proved.map(|()| None).map_err(|complaint| refuse(shared, header, complaint));
    };
    sets.extend(staged.sets());
    let commands = shared.commands_of(&sets);
    failpoints::hit("live.staged");
    let validates = validate(shared, &commands, &staged)?;
    let switched = staged.begin(None)?.switch()?;
    failpoints::hit("live.switched");
    let proved = shared.wait_for_commands(prove::prove(&commands, validates, &shared.secrets(), |_| {}));
    failpoints::hit("live.proved");
    match proved {
        Some(Ok(())) => Ok(Some(Followed { switched, number, began })),
        None => {
            // The next start has the services take what is there.
            switched.take_back()?;
            Err(LiveError::Stopping)
        }
        Some(Err(complaint)) => {
            switched.take_back()?;
            if let Some(Err(again)) =
                shared.wait_for_commands(prove::prove(&commands, false, &shared.secrets(), |_| {}))
            {
                fails(
                    shared,
                    &format!("{}; with the files from before it fails, too: {}", complaint.reason, again.reason),
                );
            }
            Err(refuse(shared, header, complaint))
        }
    }
}

/// Notes that a service does not work with a revision, so that it is not switched to again and again.
fn refuse(shared: &Shared, header: &SignedHeader, complaint: Complaint) -> LiveError {
    *locked(&shared.live.refused) = Some((header.header().root, complaint.clone()));
    LiveError::Rejected(complaint)
}

/// The sets with a live path that differ between the head and `target`.
fn changed(shared: &Shared, target: &Tree) -> Vec<SetName> {
    let head = shared.head.borrow().tree.clone();
    let root = |tree: &Tree, set: &SetName| tree.set(set).and_then(|set| set.root.as_ref().map(|root| root.hash()));
    let names = shared.live.edited.keys();
    names.filter(|set| root(&head, set) != root(target, set)).cloned().collect()
}

/// Runs the commands that validate on what is staged. Returns whether they are to run after the switch.
fn validate(shared: &Shared, commands: &Commands, staged: &Staged) -> Result<bool, LiveError> {
    if commands.values().all(|commands| commands.validate.is_none()) {
        return Ok(false);
    }
    match staged.view() {
        Ok(view) => match shared.wait_for_commands(prove::validate_inside(commands, &shared.secrets(), &view)) {
            Some(Inside::Good) => Ok(false),
            Some(Inside::Unable) => Ok(true),
            Some(Inside::Bad(complaint)) => Err(LiveError::Rejected(complaint)),
            None => Err(LiveError::Stopping),
        },
        Err(error) => {
            tracing::warn!(%error, "the new files cannot be shown before the switch: they are validated after it");
            Ok(true)
        }
    }
}

/// Drops the edits at the live paths, or only shows them: they hold the head again. What is dropped becomes a kept copy. Returns
/// the sets that changed, too. Blocks.
pub(super) fn restore(shared: &Arc<Shared>, dry_run: bool) -> Result<(Discarded, Vec<SetName>), LiveError> {
    let head = shared.head.borrow().tree.clone();
    if shared.live.is_empty() {
        return Ok((Discarded::default(), Vec::new()));
    }
    let (_, live, target) = look(shared, &head)?;
    let changes = live.diff(&target);
    let mut done = Discarded::of(&changes, &live);
    done.first.iter_mut().for_each(|line| line.push_str(" (at the set's own path)"));
    if dry_run || changes.is_empty() {
        return Ok((done, Vec::new()));
    }
    let Some(staged) = stage(shared, &head, RevisionId(target.root()), "discard")? else {
        return Ok((done, Vec::new()));
    };
    let sets = staged.sets();
    let switched = staged.begin(None)?.switch()?;
    done.kept = switched.kept.clone();
    *locked(&shared.live.known) = switched.live.clone();
    switched.finish();
    settle(shared);
    Ok((done, sets))
}

/// The number of edits at the live paths, and the first of them.
fn drift(shared: &Shared) -> Result<(u64, Vec<String>), LiveError> {
    let head = shared.head.borrow().tree.clone();
    let (_, live, target) = look(shared, &head)?;
    let edits = target.diff(&live);
    let first = edits.iter().take(TOLD).map(|edit| format!("{}:{}", edit.set, edit.path)).collect();
    Ok((edits.len() as u64, first))
}

/// The live paths, what they hold, and the part of `tree` that is due there.
fn look(shared: &Shared, tree: &Tree) -> Result<(Vec<Source>, Tree, Tree), LiveError> {
    let sources = shared.live_sources();
    let part = |source: &Source| SetTree {
        rules: source.rules.clone(),
        root: tree.set(&source.rules.name).and_then(|set| set.root.clone()),
    };
    let target = Tree::new(sources.iter().map(part).collect());
    let known = locked(&shared.live.known).clone();
    let live = scan(&sources, &known, &Look::Stats)?.tree;
    *locked(&shared.live.known) = live.clone();
    Ok((sources, live, target))
}

/// Stages what the live paths lack of `tree`; none if they lack nothing.
fn stage(shared: &Arc<Shared>, tree: &Tree, revision: RevisionId, label: &str) -> Result<Option<Staged>, LiveError> {
    let (sources, live, target) = look(shared, tree)?;
    let changes = live.diff(&target);
    if changes.is_empty() {
        return Ok(None);
    }
    let head = shared.head.borrow().tree.clone();
    let expected = Tree::new(head.sets().iter().filter(|set| shared.live.has(&set.rules.name)).cloned().collect());
    let log = shared.history.read().unwrap_or_else(PoisonError::into_inner).log().clone();
    let (state, idle, server) = (shared.state.clone(), shared.live.idle.clone(), shared.key.public());
    let site = Site { sources, state, log, idle, server };
    let job = Job { revision, label: label.to_owned(), live: &live, expected: &expected, target: &target, changes };
    let mut plan = Plan::new(&site, &job)?;
    supply(shared, &target, &mut plan)?;
    own_sets::supply(&mut plan, Past::of(shared).packs())??;
    Ok(Some(plan.staged()?))
}

/// Supplies what the edited directories have. A file that changed meanwhile supplies nothing, and its content is missing.
fn supply(shared: &Shared, target: &Tree, plan: &mut Plan) -> Result<(), Refused> {
    let wanted: HashSet<Hash> = plan.missing().iter().map(|chunk| chunk.hash).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let roots: BTreeMap<SetName, Root> = shared
        .sources()
        .into_iter()
        .filter_map(|source| Some((source.rules.name.clone(), Root::open(&source.path).ok()?)))
        .collect();
    let mut done = Ok(());
    target.visit(&mut |set, path, node| {
        let Node::File { content, .. } = node else { return };
        if done.is_err() || !content.chunks().iter().any(|chunk| wanted.contains(&chunk.hash)) {
            return;
        }
        let Some(file) = roots.get(set).and_then(|root| root.file(path).ok()) else { return };
        done = supply_from(&file, content.chunks().iter().map(|chunk| (chunk.hash, chunk.length)), &wanted, plan);
    });
    done
}

fn supply_from(
    file: &File,
    chunks: impl Iterator<Item = (Hash, u32)>,
    wanted: &HashSet<Hash>,
    plan: &mut Plan,
) -> Result<(), Refused> {
    let (mut offset, mut buffer) = (0, Vec::new());
    for (hash, length) in chunks {
        if wanted.contains(&hash) {
            buffer.resize(length as usize, 0);
            if file.read_exact_at(&mut buffer, offset).is_ok() && Hash::of(&buffer) == hash {
                plan.supply(&hash, &buffer)?;
            }
        }
        offset += u64::from(length);
    }
    Ok(())
}

/// Keeps the log short.
fn settle(shared: &Shared) {
    let settled = shared.history.write().unwrap_or_else(PoisonError::into_inner).settle(false);
    if let Err(error) = settled {
        tracing::warn!(error = &error as &dyn std::error::Error, "the log grows: tried again after the next switch");
    }
}

/// Tells that this server's services, or its files, are in error.
fn fails(shared: &Shared, why: &str) {
    tracing::error!(why, "the live paths of this manager fail");
    let reason = format!("{why}; correct the files, or: bellwether rollback");
    shared.see(Event::Server(shared.name.clone(), Observation::Failed(reason)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(state: &Path, edited: &[(&str, &str)], epoch: u64) -> Lives {
        let name = |name: &str| name.parse::<SetName>().unwrap();
        let sets = [(name("web"), PathBuf::from("/live/web")), (name("conf"), PathBuf::from("/live/conf"))];
        let edited = edited.iter().map(|(set, path)| (name(set), PathBuf::from(path))).collect();
        Lives::open(state, &sets, edited, Epoch(epoch)).unwrap()
    }

    #[test]
    fn a_source_is_published_by_itself_in_the_epoch_in_which_it_was_in_line_with_the_head() {
        let state = tempfile::tempdir().unwrap();
        let web = [("web", "/git/web")];
        let first = lives(state.path(), &web, 1);
        assert!(first.holds() && !first.is_empty());
        first.trust(Epoch(1)).unwrap();
        assert!(!first.holds() && !lives(state.path(), &web, 1).holds());
        assert!(lives(state.path(), &web, 2).holds(), "another manager may have published");
        assert!(lives(state.path(), &[("web", "/git/other")], 1).holds(), "another directory");
        assert!(lives(state.path(), &[("web", "/git/web"), ("conf", "/git/conf")], 1).holds(), "one more");
        assert!(!lives(state.path(), &[], 1).holds(), "every set is edited at its path");
        assert!(lives(state.path(), &web, 1).holds(), "edits were made at the path meanwhile");
    }

    #[test]
    fn sets_are_edited_in_their_sources_and_live_at_their_paths() {
        let state = tempfile::tempdir().unwrap();
        let lives = lives(state.path(), &[("web", "/git/web")], 1);
        let sets = vec![("conf".parse().unwrap(), "/live/conf".into()), ("web".parse().unwrap(), "/live/web".into())];
        let edited: Vec<_> =
            lives.edited(sets).into_iter().map(|(set, path)| format!("{set}={}", path.display())).collect();
        assert_eq!(edited, ["conf=/live/conf", "web=/git/web"]);
        assert_eq!(lives.paths, [("web".parse().unwrap(), "/live/web".into())]);
    }
}
