//! One apply on its way: the areas, the journal that is being filled, what is staged.

use std::{collections::BTreeMap, io, os::fd::AsFd, path::PathBuf, time::SystemTime};

use bellwether_proto::{
    entry::{Entry, EntryPath},
    hash::Hash,
    name::SetName,
};
use rustix::io::Errno;

use super::{
    Job, Refused, Site,
    carry::Carrier,
    journal::{self, Act, Journal, JournalSet, Operation, Phase, Was},
    keep::{self, Leftover},
    look::{Seen, Shape, look},
    place::{Area, Held},
    plan::{self, Planned, Trees},
    space::{self, Need},
    stage::{self, Failure, Staging},
    verify,
};
use crate::{
    attributes::Accounts,
    durable, failpoint,
    scan::{self, Depth, Look, Source},
    tree::{Edit, Node, Tree},
};

/// What the file systems are taken to allow; tests take less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways {
    /// Staging beside the set is tried.
    pub(super) beside: bool,
    /// Exchanges are tried.
    pub(super) exchange: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { beside: true, exchange: true }
    }
}

/// An apply; see the module.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) sources: Vec<Source>,
    pub(super) state: PathBuf,
    pub(super) areas: Vec<Area>,
    pub(super) journal: Journal,
    pub(super) staging: Staging,
    live: Tree,
    expected: Tree,
    accounts: Accounts,
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
        if let Some(work) = &self.0 {
            work.remove_staging();
        }
    }
}

impl Work {
    /// Plans the job and makes what needs no content: directories, links and empty files.
    pub(super) fn plan(site: &Site, job: &Job<'_>, ways: Ways) -> Result<Self, Refused> {
        let mut unswitched = Unswitched(Some(Self {
            sources: site.sources.clone(),
            state: site.state.clone(),
            areas: Vec::new(),
            journal: Journal {
                revision: job.revision.0,
                label: job.label.clone(),
                when: keep::utc(SystemTime::now()),
                phase: Phase::Forward,
                sets: Vec::new(),
                operations: Vec::new(),
                wanted: Vec::new(),
            },
            staging: Staging::default(),
            live: job.live.clone(),
            expected: job.expected.clone(),
            accounts: Accounts::new(),
            needs: Vec::new(),
            ways,
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
            let area = Area::open(source, self.ways.beside)?;
            let at = (self.areas.len(), self.journal.operations.len());
            let planned = plan::plan(&area, at, trees, &self.accounts, changes);
            self.journal.sets.push(JournalSet { name: name.clone(), path: area.path.clone(), inside: area.inside });
            self.areas.push(area);
            let Planned { operations, wanted } = planned?;
            self.journal.operations.extend(operations);
            self.journal.wanted.extend(wanted);
        }
        Ok(())
    }

    fn check_space(&mut self) -> Result<(), Refused> {
        let mut staged = vec![0; self.areas.len()];
        let mut replaced = vec![0; self.areas.len()];
        let mut history = 0;
        for operation in &self.journal.operations {
            let set = &self.journal.sets[operation.set].name;
            let old = self.live.get(set, &operation.path);
            if matches!(operation.act, Act::Meta { .. }) {
                continue;
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
                    staged[operation.set] += bytes;
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
            for operation in journal.operations.iter().filter(|operation| operation.act == Act::Put) {
                for wanted in journal.wanted_within(operation.set, &operation.path) {
                    let Some(entry) = &wanted.entry else { continue };
                    let failed = |error| (operation.set, wanted.path.clone(), error);
                    let ids = accounts.ids(&entry.meta.owner).map_err(|error| failed(io::Error::other(error)))?;
                    staging.add(areas, operation, &wanted.path, entry, ids)?;
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
    pub(super) fn refused(&self, (area, path, source): Failure) -> Refused {
        let area = &self.areas[area];
        if matches!(Errno::from_io_error(&source), Some(Errno::NOSPC | Errno::DQUOT)) {
            self.clear_staging();
            if let Some(full) = space::full(&self.needs, area) {
                return full;
            }
        }
        Refused::Io { action: "stage", path: area.path.join(crate::beneath::os(path.as_bytes())), source }
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

    fn remove_staging(&self) {
        for area in &self.areas {
            if let Err(error) = area.remove_staging() {
                // The next apply or start removes it.
                tracing::warn!(%error, staging = %area.staging_path().display(), "cannot remove the staging directory");
            }
        }
    }

    fn carrier(&self) -> Carrier<'_> {
        let Self { areas, journal, accounts, ways, .. } = self;
        Carrier { areas, journal, accounts, exchange: ways.exchange }
    }

    /// Looks at every entry once more and writes the journal. Nothing live is touched; after an error there is no
    /// journal.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let mut operations = std::mem::take(&mut self.journal.operations);
        let looked = operations.iter_mut().try_for_each(|operation| self.look_again(operation));
        self.journal.operations = operations;
        looked?;
        let saved = self.journal.save(&self.state).map_err(io::Error::other);
        if saved.is_err() {
            // It may have been renamed before its directory could be synced.
            self.remove_journal()?;
        }
        saved
    }

    fn look_again(&self, operation: &mut Operation) -> io::Result<()> {
        let area = &self.areas[operation.set];
        if operation.act == Act::Put {
            let staged = look(area.staging.as_fd(), &stage::name(operation))?;
            operation.inode = staged.ok_or(io::ErrorKind::NotFound)?.inode;
        }
        if matches!(operation.act, Act::Meta { .. }) {
            return Ok(());
        }
        let held = area.hold(&operation.path)?;
        let Some(seen) = held.look()? else { return Ok(()) };
        let set = &self.journal.sets[operation.set].name;
        let live = self.live.get(set, &operation.path);
        let expected = self.expected.get(set, &operation.path);
        let entry = match (live.filter(|live| seen.is(live)), &expected) {
            (Some(known), _) => Some(known.entry()),
            (None, Some(Node::Directory(_))) | (None, None) => None,
            // Too young for its stat to be believed, or changed and changed back.
            (None, Some(expected)) => {
                let entry = expected.entry();
                verify::matches(held.at(), &entry, &area.rules, &self.accounts)?.then_some(entry)
            }
        };
        operation.keep = match (&expected, seen.shape) {
            (Some(Node::Directory(_)), Shape::Directory) => !self.as_expected(area, &operation.path)?,
            (Some(expected), _) => entry.as_ref() != Some(&expected.entry()),
            (None, _) => true,
        };
        operation.was = Some(Was {
            inode: seen.inode,
            size: seen.size,
            mtime: seen.mtime,
            directory: seen.shape == Shape::Directory,
            entry,
        });
        Ok(())
    }

    /// Whether a directory holds exactly what it is expected to hold, at any depth.
    fn as_expected(&self, area: &Area, path: &EntryPath) -> io::Result<bool> {
        let mut open = vec![path.clone()];
        while let Some(path) = open.pop() {
            let directory = area.directory(&path)?;
            let expected = self.expected.get(&area.rules.name, &path);
            let names = durable::names(directory.as_fd())?;
            let Some(Node::Directory(expected)) = expected else { return Ok(false) };
            if names.len() != expected.children().len() {
                return Ok(false);
            }
            for child in expected.children() {
                let below = path.join(&child.name);
                let Some(seen) = look(directory.as_fd(), &child.name)? else { return Ok(false) };
                match (&child.node, seen.shape) {
                    (Node::Directory(_), Shape::Directory) => open.push(below),
                    (node, _) if self.unchanged(area, &below, &seen, node) => {}
                    (node, _) => {
                        let at = durable::Name { directory: directory.as_fd(), name: &child.name };
                        if !verify::matches(at, &node.entry(), &area.rules, &self.accounts)? {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether the scan read this very entry, and found what is expected.
    fn unchanged(&self, area: &Area, path: &EntryPath, seen: &Seen, expected: &Node) -> bool {
        self.live.get(&area.rules.name, path).is_some_and(|live| seen.is(&live) && live.same(expected))
    }

    /// Does the operations, makes them durable and reads everything back. The error says which operation failed.
    pub(super) fn carry_out(&mut self) -> Result<(Tree, Vec<String>), String> {
        let point = |name: &str| failpoint::check(name).map_err(|error| error.to_string());
        point("apply.journal")?;
        self.exchange_all()?;
        point("apply.exchanged")?;
        for area in &mut self.areas {
            area.refresh().map_err(|error| format!("cannot open {}: {error}", area.path.display()))?;
        }
        self.carrier().sync().map_err(|error| format!("cannot make the switch durable: {error}"))?;
        point("apply.synced")?;
        let live = self.read_back()?;
        let kept = keep::planned(&self.journal, &self.areas, &self.state, Leftover::Old);
        let kept = kept.map_err(|error| format!("cannot look at what was replaced: {error}"))?;
        point("apply.read-back")?;
        Ok((live, kept))
    }

    fn exchange_all(&self) -> Result<(), String> {
        let carrier = self.carrier();
        let mut last: Option<(usize, EntryPath, Held)> = None;
        for operation in &self.journal.operations {
            let set = operation.set;
            let near = last.as_ref().filter(|(before, ..)| *before == set).map(|(_, path, held)| (path, held));
            let switch = || {
                failpoint::check("apply.before-exchange")?;
                let held = self.areas[set].hold_after(near, &operation.path)?;
                carrier.switch(operation, held.clone())?;
                failpoint::check("apply.after-exchange")?;
                Ok(held)
            };
            let held = switch().map_err(|error: io::Error| {
                format!("cannot switch {}:{}: {error}", self.journal.sets[set].name, operation.path)
            })?;
            last = Some((set, operation.path.clone(), held));
        }
        Ok(())
    }

    /// Reads every changed entry from the disk and compares it with what it should be (invariant 5).
    fn read_back(&self) -> Result<Tree, String> {
        let mut at = BTreeMap::new();
        for operation in &self.journal.operations {
            let depth = if matches!(operation.act, Act::Meta { .. }) { Depth::Entry } else { Depth::All };
            at.insert((self.journal.sets[operation.set].name.clone(), operation.path.clone()), depth);
        }
        let before = self.forgotten();
        let scan = scan::scan(&self.sources, &before, &Look::At(at));
        let tree = scan.map_err(|error| format!("cannot read back: {}", with_source(&error)))?.tree;
        let wrong = self.journal.wanted.iter().find(|wanted| {
            let name = &self.journal.sets[wanted.set].name;
            let now = tree.get(name, &wanted.path).map(|node| node.entry());
            now != wanted.entry && !wanted.stays
        });
        match wrong {
            None => Ok(tree),
            Some(wrong) => {
                Err(format!("{}:{} is not what was put there", self.journal.sets[wrong.set].name, wrong.path))
            }
        }
    }

    /// The sets as they were known, without what was exchanged: that is read whatever its stat says.
    fn forgotten(&self) -> Tree {
        let exchanged = self.journal.operations.iter().filter(|o| !matches!(o.act, Act::Meta { .. }));
        let known = exchanged.filter_map(|operation| {
            let set = &self.journal.sets[operation.set].name;
            self.live.get(set, &operation.path)?;
            Some((set.clone(), operation.path.clone(), Edit::Remove))
        });
        self.live.edit(known).unwrap_or_else(|_| Tree::empty(self.sources.iter().map(|s| s.rules.clone())))
    }

    /// Undoes every operation. The error names what could not be undone; then the journal stays.
    pub(super) fn take_back(&mut self) -> Result<(), String> {
        failpoint::hit("apply.back");
        self.journal.phase = Phase::Back;
        if let Err(error) = self.journal.save(&self.state) {
            // A crash from here on would finish the switch instead: as whole as its way back.
            tracing::warn!(error = with_source(&error), "cannot note that the switch is taken back");
        }
        let mut failures = Vec::new();
        let carrier = self.carrier();
        for operation in self.journal.operations.iter().rev() {
            if let Err(error) = carrier.back(operation) {
                failures.push(format!("{}:{}: {error}", self.journal.sets[operation.set].name, operation.path));
            }
            failpoint::hit("apply.back-entry");
        }
        if !failures.is_empty() {
            return Err(failures.join("; "));
        }
        carrier.sync().map_err(|error| format!("cannot make the way back durable: {error}"))?;
        failpoint::hit("apply.back-synced");
        self.finish(Leftover::New).map_err(|error| format!("cannot remove what was staged: {error}"))?;
        failpoint::hit("apply.back-done");
        Ok(())
    }

    /// Keeps what has to be kept, removes the journal durably, then the rest of what is in staging.
    pub(super) fn finish(&self, leftover: Leftover) -> io::Result<()> {
        failpoint::check("apply.commit")?;
        keep::keep(&self.journal, &self.areas, &self.state, leftover)?;
        failpoint::check("apply.kept")?;
        self.remove_journal()?;
        failpoint::hit("apply.journal-removed");
        self.remove_staging();
        failpoint::hit("apply.cleaned");
        Ok(())
    }

    fn remove_journal(&self) -> io::Result<()> {
        let state = std::fs::File::open(&self.state)?;
        match durable::remove(state.as_fd(), journal::NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        durable::sync_directory(state.as_fd())
    }

    /// The apply that a journal tells of, with its sets opened again.
    pub(super) fn resume(site: &Site, journal: Journal) -> Result<Self, String> {
        let mut areas = Vec::new();
        for set in &journal.sets {
            let source = site.sources.iter().find(|source| source.rules.name == set.name);
            let source = source.filter(|source| source.path == set.path).ok_or_else(|| {
                let path = set.path.display();
                format!("set {} was at {path} when the switch began; configure it there until it is finished", set.name)
            })?;
            let opened = Area::reopen(source, set.inside);
            areas.push(opened.map_err(|error| format!("cannot open set {}: {error}", set.name))?);
        }
        Ok(Self {
            sources: site.sources.clone(),
            state: site.state.clone(),
            areas,
            journal,
            staging: Staging::default(),
            live: Tree::default(),
            expected: Tree::default(),
            accounts: Accounts::new(),
            needs: Vec::new(),
            ways: Ways::default(),
        })
    }

    /// Completes every operation that can be completed; gives those that cannot, by name.
    pub(super) fn complete(&mut self) -> Result<Vec<String>, String> {
        let mut impossible = Vec::new();
        let carrier = self.carrier();
        for operation in &self.journal.operations {
            let named = format!("{}:{}", self.journal.sets[operation.set].name, operation.path);
            match carrier.forward(operation) {
                Ok(true) => {}
                Ok(false) => impossible.push(named),
                Err(error) => impossible.push(format!("{named} ({error})")),
            }
        }
        for area in &mut self.areas {
            area.refresh().map_err(|error| format!("cannot open {}: {error}", area.path.display()))?;
        }
        self.carrier().sync().map_err(|error| format!("cannot make the switch durable: {error}"))?;
        Ok(impossible)
    }

    /// Every path that does not hold what is wanted there.
    pub(super) fn differing(&self) -> Vec<String> {
        self.carrier().differing()
    }
}

fn size(node: &Node) -> u64 {
    match node {
        Node::Directory(dir) => dir.children().iter().map(|child| size(&child.node)).sum(),
        Node::File { content, .. } => content.size(),
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
