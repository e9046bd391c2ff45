//! A journalled switch of the manager's own sets, to entries that it is to publish next: a member's edits that are kept,
//! or earlier content. The publisher alone does it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bellwether_proto::{
    entry::{Entry, EntryPath, Kind},
    name::SetName,
    revision::RevisionId,
};
use bellwether_store::{
    apply::{Failed, Job, Plan, Refused, Site},
    history::{HistoryError, Packs},
    scan::{Depth, Look, ScanError, Source, scan},
    tree::{Change, Node, Tree},
};

use crate::{
    publish::{
        head::Head,
        rejection,
        round::{Prepared, PublishError},
    },
    shared::Shared,
};

/// The most paths that a refusal names.
const NAMED: usize = 10;
/// The most changes that an answer lists.
const LISTED: usize = 100;

/// The sets as they are now where `changes` are to be made.
pub(super) struct Live {
    sources: Vec<Source>,
    pub(super) tree: Tree,
}

impl Live {
    /// Scans the places of `changes`. `known`: the sets as last scanned.
    pub(super) fn scan(sources: Vec<Source>, known: &Tree, changes: &[Change]) -> Result<Self, ScanError> {
        let tree = scan(&sources, known, &Look::At(places(changes)))?.tree;
        Ok(Self { sources, tree })
    }

    /// As they were just scanned.
    pub(super) fn of(sources: Vec<Source>, tree: Tree) -> Self {
        Self { sources, tree }
    }

    /// The changes at places that do not hold what they hold in the head: edits that are not published.
    pub(super) fn unpublished<'a>(&self, head: &Tree, changes: &'a [Change]) -> Vec<&'a Change> {
        let differs = |change: &&Change| {
            let at = |tree: &Tree| tree.get(&change.set, &change.path);
            // A directory that was removed here would come back with this entry alone.
            let directory = |tree: &Tree| {
                let above = change.path.split().map(|(above, _)| above)?;
                tree.get(&change.set, &above).filter(|node| matches!(node, Node::Directory(_)))
            };
            let is_gone = change.entry.is_some() && directory(head).is_some() && directory(&self.tree).is_none();
            is_gone || !same(at(&self.tree).as_ref(), at(head).as_ref(), change)
        };
        changes.iter().filter(differs).collect()
    }

    /// Plans the switch from the head to `target`. The plan is to be supplied with what it lacks.
    pub(super) fn plan(
        &self,
        shared: &Shared,
        (head, target): (&Tree, &Tree),
        changes: Vec<Change>,
        label: &str,
    ) -> Result<Plan, Refused> {
        let log = shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner).log().clone();
        let (sources, state, server) = (self.sources.clone(), shared.state.clone(), shared.key.public());
        let site = Site { sources, state, log, idle: Arc::default(), server };
        // There is no header yet; the root identifies it as well.
        let revision = RevisionId(target.root());
        let job = Job { revision, label: label.to_owned(), live: &self.tree, expected: head, target, changes };
        Plan::new(&site, &job)
    }
}

/// Supplies what a plan lacks from the packs of the history.
pub(super) fn supply(plan: &mut Plan, packs: &Packs) -> Result<Result<(), Refused>, HistoryError> {
    let missing: HashSet<_> = plan.missing().iter().map(|chunk| chunk.hash).collect();
    let mut supplied = Ok(());
    packs.chunks(&missing, &mut |chunk, bytes| {
        if supplied.is_ok() {
            supplied = plan.supply(&chunk.hash, &bytes);
        }
    })?;
    Ok(supplied)
}

/// The switch did not come to its end.
#[derive(Debug)]
pub(super) enum SwitchError {
    Refused(Refused),
    Failed(Failed),
}

impl From<Refused> for SwitchError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Failed> for SwitchError {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// Switches durably to what is staged: all of it or, with an error or after a crash, nothing. The kept copies that were made, as
/// paths.
pub(super) fn switch(shared: &Shared, plan: Plan) -> Result<Vec<String>, SwitchError> {
    let switched = plan.staged()?.begin(None)?.switch()?;
    let kept = switched.kept.clone();
    switched.finish();
    let settled = shared.history.write().unwrap_or_else(std::sync::PoisonError::into_inner).settle(false);
    if let Err(error) = settled {
        tracing::warn!(error = &error as &dyn std::error::Error, "the log grows: tried again after the next switch");
    }
    Ok(kept)
}

/// The sets under the rules of the head; none: the record has other rules by now.
pub(super) fn sources(shared: &Shared, head: &Head) -> Option<Vec<Source>> {
    let sources = shared.sources();
    let rules = |set: &bellwether_store::tree::SetTree| sources.iter().any(|source| source.rules == set.rules);
    head.tree.sets().iter().all(rules).then_some(sources)
}

/// Checks that what is to be published has the `changes` that were made in these sets.
///
/// # Errors
/// Somebody edited one of the entries meanwhile.
pub(super) fn check_found(prepared: &Prepared, changes: &[Change]) -> Result<(), PublishError> {
    let kind = |entry: Option<Entry>| entry.map(|entry| entry.kind);
    let is_edited = |change: &&Change| {
        let found = kind(entry(prepared.tree().get(&change.set, &change.path).as_ref()));
        // A directory with excluded files in it stays.
        let stays = change.entry.is_none() && found == Some(Kind::Directory);
        !stays && found != kind(change.entry.clone()) && !prepared.is_unread(&change.set, &change.path)
    };
    match changes.iter().find(is_edited) {
        None => Ok(()),
        Some(change) => Err(PublishError::Edited(rejection::name(change))),
    }
}

/// Whether the content that a change replaces is the same in both; for a directory that stays one, without its entries.
pub(super) fn same(a: Option<&Node>, b: Option<&Node>, change: &Change) -> bool {
    let stays = |node: Option<&Node>| matches!(node, Some(Node::Directory(_)));
    let directory = change.entry.as_ref().is_some_and(|entry| entry.kind == Kind::Directory);
    match (a, b) {
        _ if directory && stays(a) && stays(b) => entry(a) == entry(b),
        (Some(a), Some(b)) => a.same(b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The entry of a node.
pub(super) fn entry(node: Option<&Node>) -> Option<Entry> {
    node.map(Node::entry)
}

/// The places to scan for `changes`.
pub(super) fn places(changes: &[Change]) -> BTreeMap<(SetName, EntryPath), Depth> {
    let depth = |change: &Change| if change.entry.is_none() { Depth::All } else { Depth::Entry };
    changes.iter().map(|change| ((change.set.clone(), change.path.clone()), depth(change))).collect()
}

/// The first changes as `SET:PATH`, for people.
pub(super) fn named(changes: &[&Change]) -> String {
    let more = changes.len().saturating_sub(NAMED);
    let place = |change: &&Change| format!("{}:{}", change.set, change.path);
    let names = changes.iter().take(NAMED).map(place).collect::<Vec<_>>().join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

/// The first hundred changes as `+ SET:PATH`, `~ SET:PATH` or `- SET:PATH`.
pub(super) fn lines(changes: &[Change], head: &Tree) -> Vec<String> {
    let line = |change: &Change| {
        let sign = match (&change.entry, head.get(&change.set, &change.path)) {
            (None, _) => '-',
            (Some(_), None) => '+',
            (Some(_), Some(_)) => '~',
        };
        format!("{sign} {}:{}", change.set, change.path)
    };
    changes.iter().take(LISTED).map(line).collect()
}
