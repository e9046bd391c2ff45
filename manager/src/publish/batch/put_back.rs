//! Puts the edits of a batch back: the entries that changed since it began are as in the head again. Edits from before the
//! batch stay as they are, changed by it or not: their content of before is nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bellwether_proto::{
    entry::{EntryPath, Kind},
    name::SetName,
};
use bellwether_store::{
    scan::{Depth, Look, scan},
    tree::{Change, Tree},
};

use crate::{
    publish::{
        discard::{self, DiscardError, Discarded},
        own_sets,
    },
    shared::Shared,
};

/// The label of kept copies that this makes.
const LABEL: &str = "batch";

/// The entries with edits that were there before a batch. One that was removed, or is no directory any more, stands for all
/// that was below it.
#[derive(Debug, Default)]
pub(super) struct Before(BTreeMap<(SetName, EntryPath), Depth>);

impl Before {
    /// These edits of the head, and entries that cannot be read.
    pub(super) fn new(edits: Vec<Change>, unread: impl Iterator<Item = (SetName, EntryPath)>) -> Self {
        let edits = edits.into_iter().map(|edit| {
            let depth = if is_directory(&edit) { Depth::Entry } else { Depth::All };
            ((edit.set, edit.path), depth)
        });
        Self(edits.chain(unread.map(|place| (place, Depth::All))).collect())
    }

    /// As `SET:PATH`.
    pub(super) fn named(&self) -> Vec<String> {
        self.0.keys().map(|(set, path)| format!("{set}:{path}")).collect()
    }

    fn has(&self, set: &SetName, path: &EntryPath) -> bool {
        let depth = |at: &EntryPath| self.0.get(&(set.clone(), at.clone())).copied();
        upwards(path).any(|at| depth(&at).is_some_and(|depth| depth == Depth::All || at == *path))
    }
}

/// A path, and all above it.
fn upwards(path: &EntryPath) -> impl Iterator<Item = EntryPath> {
    std::iter::successors(Some(path.clone()), |path| path.split().map(|(above, _)| above))
}

fn is_directory(change: &Change) -> bool {
    change.entry.as_ref().is_some_and(|entry| entry.kind == Kind::Directory)
}

/// What was put back.
pub(super) struct PutBack {
    pub(super) dropped: Discarded,
    /// The sets' changes.
    pub(super) changes: Vec<Change>,
    /// Entries that stay as they are, as `SET:PATH`.
    pub(super) left: Vec<String>,
}

/// Puts the content of the head back, but not at `before`. `known`: the sets as last scanned. Blocks.
pub(super) fn put_back(shared: &Arc<Shared>, known: &Tree, before: &Before) -> Result<PutBack, DiscardError> {
    shared.undisputed().map_err(DiscardError::Disputed)?;
    let head = shared.head.borrow().clone();
    let sources = own_sets::sources(shared, &head).ok_or(DiscardError::OtherRules)?;
    let live = scan(&sources, known, &Look::Stats)?.tree;
    let (due, left) = divide(&live, live.diff(&head.tree), before);
    let target = live.apply(due)?;
    let changes = live.diff(&target);
    let dropped = discard::switch(shared, sources, live, &target, LABEL)?;
    Ok(PutBack { dropped, changes, left })
}

/// Divides the ways back to the head into those of a batch and the places of earlier edits, as `SET:PATH`.
fn divide(live: &Tree, back: Vec<Change>, before: &Before) -> (Vec<Change>, Vec<String>) {
    let (left, mut due): (Vec<_>, Vec<_>) = back.into_iter().partition(|change| before.has(&change.set, &change.path));
    // A directory is removed as a whole: of one that stays, what the batch has put into it goes.
    let staying: BTreeSet<_> =
        left.iter().filter(|gone| !is_directory(gone)).map(|gone| (gone.set.clone(), gone.path.clone())).collect();
    if !staying.is_empty() {
        let mut last = None;
        live.visit(&mut |set, path, _| {
            let stays = || upwards(path).any(|above| staying.contains(&(set.clone(), above)));
            let gone =
                last.as_ref().is_some_and(|(of, above): &(SetName, EntryPath)| of == set && path.is_within(above));
            if !gone && stays() && !before.has(set, path) {
                due.push(Change { set: set.clone(), path: path.clone(), entry: None });
                last = Some((set.clone(), path.clone()));
            }
        });
        due.sort_by(|a, b| (&a.set, &a.path).cmp(&(&b.set, &b.path)));
    }
    (due, left.iter().map(|change| format!("{}:{}", change.set, change.path)).collect())
}

#[cfg(test)]
mod tests;
