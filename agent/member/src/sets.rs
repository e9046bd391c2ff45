//! The sets on this server: where they are, what they should hold, what they were last seen to hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use bellwether_proto::{
    entry::{Entry, EntryPath, Kind},
    error::chain,
    key::PublicKey,
    name::SetName,
    record::SetRules,
    revision::{Number, SignedHeader},
};
use bellwether_store::{
    apply::{Idle, Job, Plan, Refused, Site},
    index,
    log::Log,
    pack::{self, OldChunks},
    root::Roots,
    scan::{Depth, HardLink, Keeping, Look, Scan, ScanError, Source, Unread, scan_expecting, scan_keeping},
    state::layout::Layout,
    tree::{Change, Edit, Node, Tree, TreeError},
};

use super::{
    OpenError, drift,
    receive::{Planned, ReceiveError},
};

/// The sets of this member.
#[derive(Debug)]
pub(crate) struct Sets {
    /// Where they are.
    pub(crate) paths: BTreeMap<SetName, PathBuf>,
    state: PathBuf,
    log: Arc<Log>,
    /// Their staging places.
    idle: Arc<Idle>,
    /// What is known of their directories.
    roots: Roots,
    server: PublicKey,
    /// The tree of the revision that is held; empty when none is.
    pub(crate) tree: Tree,
    /// As last scanned, drift included.
    pub(crate) live: Tree,
    /// Files with more than one name.
    pub(crate) links: BTreeSet<HardLink>,
    /// Sets that cannot be compared, and why: their directories are other places, or not there to be read.
    pub(crate) away: BTreeMap<SetName, String>,
    /// What is offered does not descend from the revision held: all that it replaces is kept (W26).
    pub(crate) forked: Option<Number>,
}

impl Sets {
    /// Scans the sets under the rules of `tree`: by stat, or by every byte after another boot.
    pub(crate) fn open(
        paths: BTreeMap<SetName, PathBuf>,
        layout: &Layout,
        log: Arc<Log>,
        server: PublicKey,
        tree: Tree,
    ) -> Result<Self, OpenError> {
        let rules = rules(&tree);
        let known = index::load(&layout.index(), &rules);
        let look = if known.as_ref().is_some_and(|known| known.same_boot) { Look::Stats } else { Look::Bytes };
        let before = known.map_or_else(|| Tree::empty(rules.iter().cloned()), |known| known.tree);
        let roots = Roots::open(layout.state(), paths.keys().cloned())?;
        let sources = roots.guard(sources(&paths, &rules).map_err(OpenError::NoPath)?);
        let found = what_can_be_read(&sources, &before, &look, &tree)?;
        // Told as soon as somebody listens.
        let away = found.unread.iter().filter_map(is_away).collect();
        let (live, links) = (found.tree, found.links.into_iter().collect());
        Ok(Self {
            paths,
            state: layout.state().to_owned(),
            log,
            idle: Arc::default(),
            roots,
            server,
            tree,
            live,
            links,
            away,
            forked: None,
        })
    }

    /// Looks at the sets again; what cannot be read stays as it was known, is named in the log, and is returned.
    pub(crate) fn look_around(&mut self, look: &Look) -> Result<Vec<Unread>, ScanError> {
        let Scan { tree, links, unread, .. } = what_can_be_read(&self.site().sources, &self.live, look, &self.tree)?;
        self.live = tree;
        let kept = |set: &SetName, path: &EntryPath| match look {
            Look::Stats | Look::Bytes => false,
            Look::At(places) => places.keys().all(|(of, at)| of != set || !path.is_within(at)),
        };
        self.links.retain(|link| kept(&link.set, &link.path));
        self.links.extend(links);
        // Only what was looked at is where it was.
        let looked = |set: &SetName| match look {
            Look::Stats | Look::Bytes => true,
            Look::At(places) => places.keys().any(|(of, _)| of == set),
        };
        self.away.retain(|set, _| !looked(set));
        self.away.extend(unread.iter().filter_map(is_away));
        Ok(unread)
    }

    /// Looks at the sets again.
    ///
    /// # Errors
    /// Something cannot be read.
    pub(crate) fn look(&mut self, look: &Look) -> Result<(), ScanError> {
        self.live = scan_expecting(&self.site().sources, &self.live, look, &self.tree)?.tree;
        Ok(())
    }

    /// The sets under the rules of the revision that is held. All have a path: it was taken with one.
    pub(crate) fn site(&self) -> Site {
        let sources = self.roots.guard(sources(&self.paths, &rules(&self.tree)).unwrap_or_default());
        Site { sources, state: self.state.clone(), log: self.log.clone(), idle: self.idle.clone(), server: self.server }
    }

    /// What a pack's changes make of this server: the target tree, checked against the signed root, and the plan.
    pub(crate) fn plan(
        &mut self,
        head: &pack::Head,
        changes: Vec<Change>,
    ) -> Result<(Planned, OldChunks), ReceiveError> {
        let sources = sources(&self.paths, &head.rules).map_err(|set| {
            ReceiveError::Setup(format!("set {set} has no path on this server: add it to agent.toml and start again"))
        })?;
        let sources = self.roots.guard(sources);
        let parent =
            if head.base { Tree::empty(head.rules.iter().cloned()) } else { self.tree.with_rules(&head.rules) };
        let update = (!head.base).then(|| changes.clone());
        let target = parent.apply(changes).map_err(|e| ReceiveError::Tree(e.to_string()))?;
        if target.root() != head.header.header().root {
            return Err(ReceiveError::Tree("it has another root hash".into()));
        }
        let look = match &update {
            Some(changes) if rules(&self.live) == head.rules => Look::At(places(changes)),
            Some(_) | None => Look::Stats,
        };
        self.live = scan_expecting(&sources, &self.live, &look, &self.tree)?.tree;
        let olds = update.as_ref().map(|changes| OldChunks::new(&self.tree, changes, &sources)).unwrap_or_default();
        let changes = match update {
            Some(changes) => whole_directories(&self.live, (&parent, &target), changes),
            None => self.live.diff(&target),
        };
        let site = Site {
            sources,
            state: self.state.clone(),
            log: self.log.clone(),
            idle: self.idle.clone(),
            server: self.server,
        };
        let plan = match self.forked {
            None => self.plan_for(&site, &head.header, &self.tree, &target, changes)?,
            Some(_) => {
                // Nothing that is here is expected: whatever is replaced is in no history but this server's.
                let nothing = Tree::empty(head.rules.iter().cloned());
                self.plan_for(&site, &head.header, &nothing, &target, changes)?
            }
        };
        Ok((Planned { plan, target }, olds))
    }

    /// The same, unless there are edits of this server's own. `given` (none: edits are no matter) are those that may be
    /// there all the same.
    pub(crate) fn plan_over(
        &mut self,
        head: &pack::Head,
        changes: Vec<Change>,
        given: Option<&[Change]>,
    ) -> Result<(Planned, OldChunks), ReceiveError> {
        let planned = self.plan(head, changes)?;
        self.check_held(given)?;
        Ok(planned)
    }

    /// Checks that there are no edits of this server's own but those `given` (none: edits are no matter).
    pub(crate) fn check_held(&self, given: Option<&[Change]>) -> Result<(), ReceiveError> {
        let Some(given) = given else { return Ok(()) };
        let edits = self.edits();
        match drift::first_held(&edits, given) {
            None => Ok(()),
            Some(first) => Err(ReceiveError::Held(drift::held(edits.len(), &format!("{}:{}", first.set, first.path)))),
        }
    }

    /// What the sets hold and the revision does not; none while no revision is held.
    pub(crate) fn edits(&self) -> Vec<Change> {
        let mut edits = self.tree.diff(&self.live);
        // What lies in another place is no edit.
        edits.retain(|edit| !self.away.contains_key(&edit.set));
        edits
    }

    /// The plan that makes the sets hold what they hold now, with these edits undone.
    pub(crate) fn plan_without(&self, header: &SignedHeader, edits: &[Change]) -> Result<Plan, ReceiveError> {
        let target = self.undone(edits).map_err(|e| ReceiveError::Tree(e.to_string()))?;
        Ok(self.plan_for(&self.site(), header, &target, &target, self.live.diff(&target))?)
    }

    fn undone(&self, edits: &[Change]) -> Result<Tree, TreeError> {
        let mut whole: Option<&Change> = None;
        let undo = edits.iter().filter_map(|edit| {
            if whole.is_some_and(|above| above.set == edit.set && edit.path.is_within(&above.path)) {
                return None;
            }
            let undo = match (self.tree.get(&edit.set, &edit.path), &edit.entry) {
                (Some(Node::Directory(dir)), Some(Entry { kind: Kind::Directory, .. })) => {
                    return Some((edit.set.clone(), edit.path.clone(), Edit::Directory(dir.meta().clone())));
                }
                (Some(node), _) => Edit::Put(node),
                (None, _) => Edit::Remove,
            };
            whole = Some(edit);
            Some((edit.set.clone(), edit.path.clone(), undo))
        });
        self.live.edit(undo.collect::<Vec<_>>())
    }

    /// The plan that makes the sets hold what is held by the record again, whatever was edited.
    pub(crate) fn plan_back(&mut self, header: &SignedHeader) -> Result<Planned, ReceiveError> {
        self.forked = None;
        let target = self.tree.clone();
        let plan = self.plan_for(&self.site(), header, &target, &target, self.live.diff(&target))?;
        Ok(Planned { plan, target })
    }

    /// The plan that takes the sets from the revision that is held to another one: `target` is its tree. Edits beside what differs
    /// between the two stay.
    pub(crate) fn plan_to(&mut self, header: &SignedHeader, target: Tree) -> Result<Planned, ReceiveError> {
        self.forked = None;
        let sources = sources(&self.paths, &rules(&target)).map_err(|set| {
            ReceiveError::Setup(format!("set {set} has no path on this server: add it to agent.toml and start again"))
        })?;
        let site = Site { sources: self.roots.guard(sources), ..self.site() };
        let expected = self.tree.with_rules(&rules(&target));
        let changes = expected.diff(&target);
        self.live = scan_expecting(&site.sources, &self.live, &Look::At(places(&changes)), &expected)?.tree;
        let changes = whole_directories(&self.live, (&expected, &target), changes);
        let plan = self.plan_for(&site, header, &expected, &target, changes)?;
        Ok(Planned { plan, target })
    }

    fn plan_for(
        &self,
        site: &Site,
        header: &SignedHeader,
        expected: &Tree,
        target: &Tree,
        changes: Vec<Change>,
    ) -> Result<Plan, Refused> {
        let live = &self.live;
        let label = match self.forked {
            Some(fork) => format!("{}-instead-of-{fork}", header.number()),
            None => header.number().to_string(),
        };
        Plan::new(site, &Job { revision: header.id(), label, live, expected, target, changes })
    }

    /// Saves what is known of the files, so that the next start need not read them.
    pub(crate) fn save_index(&self, layout: &Layout) {
        if let Err(error) = index::save(&layout.index(), &self.live) {
            tracing::warn!(%error, "the index was not saved: the next start reads every file");
        }
        self.save_roots();
    }

    /// A person said that the sets are where they are.
    pub(crate) fn accept_roots(&self) {
        self.roots.accept();
    }

    /// Saves what is known of the sets' directories, where that is news.
    pub(crate) fn save_roots(&self) {
        if let Err(error) = self.roots.save() {
            tracing::warn!(%error, "what is known of the sets' directories was not saved");
        }
    }
}

/// The set whose directory cannot be looked at at all, and why.
fn is_away(unread: &Unread) -> Option<(SetName, String)> {
    if !unread.path.is_root() {
        return None;
    }
    let why = chain(&unread.why);
    let why = match &unread.why {
        ScanError::Elsewhere { .. } => {
            format!(
                "{why}; mount again what was there, or, if this is meant, on this server: bellwether publish --accept"
            )
        }
        _ => why,
    };
    Some((unread.set.clone(), why))
}

/// The sets, with what cannot be read now as it was `before`; `held`: the tree of the revision.
fn what_can_be_read(sources: &[Source], before: &Tree, look: &Look, held: &Tree) -> Result<Scan, ScanError> {
    let found = scan_keeping(sources, before, look, Keeping { last: before, expected: held, patience: None })?;
    for unread in &found.unread {
        let (set, path) = (&unread.set, &unread.path);
        tracing::warn!(%set, %path, why = unread.reason(), "an entry cannot be looked at; the others are");
    }
    Ok(found)
}

/// Where an update changes something. Looked at again before it is planned: what somebody made there since the last look
/// (a directory with local files, say) stays.
fn places(changes: &[Change]) -> BTreeMap<(SetName, EntryPath), Depth> {
    changes.iter().map(|change| ((change.set.clone(), change.path.clone()), Depth::Entry)).collect()
}

/// The changes from `held` to `target`, with all that is below each directory that somebody removed here and that a change
/// needs again: a service never gets a directory that has the changed files alone.
fn whole_directories(live: &Tree, (held, target): (&Tree, &Tree), changes: Vec<Change>) -> Vec<Change> {
    let needed: BTreeSet<_> = changes.iter().filter(|change| change.entry.is_some()).filter_map(above).collect();
    let gone = |(set, path): (&SetName, EntryPath)| {
        let mut gone = None;
        let mut at = Some(path);
        while let Some(path) = at {
            match live.get(set, &path) {
                Some(Node::Directory(_)) => break,
                // It is in the way, and not followed.
                Some(Node::Link { .. }) => return None,
                Some(Node::File { .. }) | None => {}
            }
            at = path.split().map(|(above, _)| above);
            if matches!(held.get(set, &path), Some(Node::Directory(_))) {
                gone = Some((set.clone(), path));
            }
        }
        gone
    };
    let gone: BTreeSet<_> = needed.into_iter().filter_map(gone).collect();
    if gone.is_empty() {
        return changes;
    }
    let without = held.edit(gone.into_iter().map(|(set, path)| (set, path, Edit::Remove)));
    without.map(|without| without.diff(target)).unwrap_or(changes)
}

/// The directory that a change is in.
fn above(change: &Change) -> Option<(&SetName, EntryPath)> {
    change.path.split().map(|(above, _)| (&change.set, above))
}

fn rules(tree: &Tree) -> Vec<Arc<SetRules>> {
    tree.sets().iter().map(|set| set.rules.clone()).collect()
}

/// Where the sets of these rules are on this server.
///
/// # Errors
/// The name of one that has no path.
pub(crate) fn sources(paths: &BTreeMap<SetName, PathBuf>, rules: &[Arc<SetRules>]) -> Result<Vec<Source>, SetName> {
    let source = |rules: &Arc<SetRules>| {
        let path = paths.get(&rules.name).ok_or_else(|| rules.name.clone())?;
        Ok(Source::new(rules.clone(), path.clone()))
    };
    rules.iter().map(source).collect()
}
