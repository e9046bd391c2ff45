//! One apply on its way: the areas, the journal that is being filled, what is staged.

use std::{collections::BTreeMap, io, os::fd::AsFd, path::PathBuf, sync::Arc};

use bellwether_proto::{
    clock,
    entry::{Entry, EntryPath, Meta},
    hash::Hash,
    key::PublicKey,
    name::SetName,
};
use rustix::io::Errno;

use super::{
    Job, Refused, Site,
    carry::Carrier,
    journal::{Act, Journal, JournalSet, Operation, Phase},
    keep, obstacle,
    place::{Area, Idle},
    plan::{self, Planned, Trees},
    space::{self, Need},
    stage::{self, Failure, Staging},
};
use crate::{
    attributes::{Accounts, Unheld},
    durable,
    log::Log,
    scan::{Source, content},
    tree::{Node, Tree},
};

/// What the file systems are taken to be; tests take them for worse.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways {
    /// Staging beside the set is tried.
    pub(super) beside: bool,
    /// Exchanges are tried.
    pub(super) exchange: bool,
    /// Case does not count, whatever is found out.
    pub(super) folds: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { beside: true, exchange: true, folds: false }
    }
}

/// An apply; see the module.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) sources: Vec<Source>,
    pub(super) state: PathBuf,
    pub(super) log: Arc<Log>,
    idle: Arc<Idle>,
    server: PublicKey,
    pub(super) areas: Vec<Area>,
    pub(super) journal: Journal,
    pub(super) staging: Staging,
    pub(super) live: Tree,
    pub(super) expected: Tree,
    pub(super) target: Tree,
    pub(super) accounts: Accounts,
    needs: Vec<Need>,
    ways: Ways,
}

/// An apply that has touched nothing live: dropped, it removes what was staged.
#[derive(Debug)]
pub(super) struct Unswitched(pub(super) Option<Work>);

impl Unswitched {
    /// The apply.
    ///
    /// # Panics
    /// After [`Unswitched::take`], which takes the whole.
    pub(super) fn work(&mut self) -> &mut Work {
        self.0.as_mut().expect("taken by value only")
    }

    pub(super) fn take(mut self) -> Work {
        self.0.take().expect("taken by value only")
    }
}

impl Drop for Unswitched {
    fn drop(&mut self) {
        if let Some(work) = &mut self.0 {
            work.leave_staging();
        }
    }
}

impl Work {
    /// An apply of which only the journal is known.
    pub(super) fn new(site: &Site, journal: Journal, areas: Vec<Area>) -> Self {
        Self {
            sources: site.sources.clone(),
            state: site.state.clone(),
            log: site.log.clone(),
            idle: site.idle.clone(),
            server: site.server,
            areas,
            journal,
            staging: Staging::default(),
            live: Tree::default(),
            expected: Tree::default(),
            target: Tree::default(),
            accounts: Accounts::new(),
            needs: Vec::new(),
            ways: Ways::default(),
        }
    }

    /// Plans the job and makes what needs no content: directories, links and empty files.
    pub(super) fn plan(site: &Site, job: &Job<'_>, ways: Ways) -> Result<Self, Refused> {
        let journal = Journal {
            revision: job.revision.0,
            label: job.label.clone(),
            when: keep::utc(clock::now()),
            phase: Phase::Forward,
            sets: Vec::new(),
            operations: Vec::new(),
            wanted: Vec::new(),
        };
        let new = Self::new(site, journal, Vec::new());
        let mut unswitched = Unswitched(Some(Self {
            live: job.live.clone(),
            expected: job.expected.clone(),
            target: job.target.clone(),
            ways,
            ..new
        }));
        let work = unswitched.work();
        work.add_sets(job)?;
        work.check_space()?;
        work.stage()?;
        Ok(unswitched.take())
    }

    /// A set that is not configured here (any more) is left as it is.
    fn add_sets(&mut self, job: &Job<'_>) -> Result<(), Refused> {
        let mut changes: BTreeMap<&SetName, BTreeMap<EntryPath, Option<Entry>>> = BTreeMap::new();
        for change in &job.changes {
            changes.entry(&change.set).or_default().insert(change.path.clone(), change.entry.clone());
        }
        let trees = Trees { live: job.live, target: job.target };
        for (name, changes) in changes {
            let Some(source) = self.sources.iter().find(|source| source.rules.name == *name) else { continue };
            let mut area = Area::open(source, &self.server, &self.idle, self.ways.beside)?;
            area.folds |= self.ways.folds;
            let at = (self.areas.len(), self.journal.operations.len());
            let planned = plan::plan(&area, at, trees, &self.accounts, changes);
            let beside = String::from_utf8_lossy(&area.beside).into_owned();
            let (name, path) = (name.clone(), area.path.clone());
            self.journal.sets.push(JournalSet { name, path, inside: area.inside, beside });
            self.areas.push(area);
            let Planned { operations, wanted } = planned?;
            self.journal.operations.extend(operations);
            self.journal.wanted.extend(wanted);
        }
        Ok(())
    }

    fn check_space(&mut self) -> Result<(), Refused> {
        let mut staged = vec![(0, 0); self.areas.len()];
        let mut replaced = vec![0; self.areas.len()];
        let mut history = 0;
        for operation in &self.journal.operations {
            let set = &self.journal.sets[operation.set].name;
            let old = self.live.get(set, &operation.path);
            if !operation.act.moves() {
                continue;
            }
            if let Some(old) = &old
                && self.areas[operation.set].copies_up()
            {
                staged[operation.set].1 += size(old);
            }
            if let Some(old) = &old
                && !self.expected.get(set, &operation.path).is_some_and(|expected| expected.same(old))
            {
                replaced[operation.set] += size(old);
            }
            if operation.act == Act::Put {
                for wanted in self.journal.wanted_within(operation.set, &operation.path) {
                    let Some(entry) = &wanted.entry else { continue };
                    let bytes = stage::size(entry);
                    let (entries, staged) = &mut staged[operation.set];
                    (*entries, *staged) = (*entries + 1, *staged + bytes);
                    // What this server has nothing of comes in a pack, which the history keeps.
                    let known = self.live.get(set, &wanted.path).is_some_and(|node| node.entry().kind == entry.kind);
                    history += if known { 0 } else { bytes };
                }
            }
        }
        self.needs = space::needs(&self.areas, &self.state, &staged, &replaced, history);
        space::check(&self.needs)
    }

    fn stage(&mut self) -> Result<(), Refused> {
        let Self { areas, journal, staging, accounts, .. } = self;
        let mut add = || -> Result<(), Failure> {
            for operation in &journal.operations {
                let ids = |meta: &Meta| {
                    let ids = accounts.ids(&meta.owner);
                    ids.map_err(|error| (operation.set, EntryPath::root(), io::Error::other(error)))
                };
                if let Act::Meta { new, .. } = &operation.act {
                    staging.try_meta(areas, operation, new, ids(new)?)?;
                }
                if operation.act != Act::Put {
                    continue;
                }
                for wanted in journal.wanted_within(operation.set, &operation.path) {
                    let Some(entry) = &wanted.entry else { continue };
                    staging.add(areas, operation, &wanted.path, entry, ids(&entry.meta)?)?;
                }
            }
            staging.make_empty(areas)
        };
        let added = add();
        added.map_err(|failure| self.refused(failure))
    }

    /// Writes a chunk wherever it is needed.
    pub(super) fn supply(&mut self, hash: &Hash, bytes: &[u8]) -> Result<(), Refused> {
        let supplied = self.staging.supply(&self.areas, hash, bytes);
        supplied.map_err(|failure| self.refused(failure))
    }

    /// The refusal for a failure while staging; what was staged is removed when the disk is full.
    pub(super) fn refused(&self, (set, staged, source): Failure) -> Refused {
        let (area, path) = (&self.areas[set], self.live_path(set, &staged));
        if let Some(Unheld { what, why }) = Unheld::of(&source).cloned() {
            return Refused::Attribute { set: area.rules.name.clone(), path, what, why };
        }
        if matches!(Errno::from_io_error(&source), Some(Errno::NOSPC | Errno::DQUOT)) {
            self.clear_staging();
            if let Some(full) = space::full(&self.needs, area) {
                return full;
            }
        }
        Refused::Io { action: "stage", path: obstacle::full(&area.path, &path), source }
    }

    /// The entry of a set that a name in staging is for; the set's root where it is for none.
    fn live_path(&self, set: usize, staged: &EntryPath) -> EntryPath {
        let mut components = staged.components();
        let name = components.next();
        let is_for = |operation: &&Operation| operation.set == set && name == Some(&stage::name(operation)[..]);
        let Some(operation) = self.journal.operations.iter().find(is_for) else { return EntryPath::root() };
        components.fold(operation.path.clone(), |path, component| path.join(component))
    }

    pub(super) fn io(&self, source: io::Error) -> Refused {
        Refused::Io { action: "stage in", path: self.state.clone(), source }
    }

    fn clear_staging(&self) {
        for area in &self.areas {
            if let Err(error) = durable::clear(area.staging.as_fd()) {
                tracing::warn!(%error, staging = %area.staging_path().display(), "cannot clear the staging directory");
            }
        }
    }

    /// Removes all that is staged.
    pub(super) fn leave_staging(&mut self) {
        self.areas.drain(..).for_each(|area| self.idle.put(area));
    }

    pub(super) fn carrier(&self) -> Carrier<'_> {
        let Self { areas, journal, accounts, ways, .. } = self;
        Carrier { areas, journal, accounts, exchange: ways.exchange }
    }
}

fn size(node: &Node) -> u64 {
    match node {
        Node::Directory(dir) => dir.children().iter().map(|child| size(&child.node)).sum(),
        Node::File { content, .. } => content::data(content),
        Node::Link { .. } => 0,
    }
}

/// An error with its cause, in one line.
pub(super) fn with_source(error: &impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
