//! The meaning of an event for a set.

use std::path::{Path, PathBuf};

use bellwether_proto::{entry::EntryPath, name::SetName};
use notify::{
    EventKind,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind},
};

use crate::{
    scan::{Depth, Excludes, Source},
    watch::pending::Writing,
};

/// One set's path, and its excluded entries.
#[derive(Debug)]
pub(super) struct WatchedSet {
    pub(super) set: SetName,
    pub(super) root: PathBuf,
    pub(super) excludes: Option<Excludes>,
}

/// The meaning of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EventMeaning {
    /// Something changed at this path.
    At(SetName, EntryPath, Depth, Writing),
    /// A set's root came, went or was replaced, or a file system was unmounted: watches may be on the old one.
    Root(SetName),
    /// Events were lost.
    Everything,
}

pub(super) fn watched_sets(sources: Vec<Source>) -> Vec<WatchedSet> {
    let place = |source: Source| WatchedSet {
        set: source.rules.name.clone(),
        root: source.path,
        // An unusable pattern is refused when it is set, and every scan names it.
        excludes: Excludes::new(&source.rules).ok(),
    };
    sources.into_iter().map(place).collect()
}

/// Reads an event; a path may lie in several sets.
pub(super) fn read(event: &notify::Event, watched_sets: &[WatchedSet]) -> Vec<EventMeaning> {
    if event.need_rescan() {
        return vec![EventMeaning::Everything];
    }
    let depth = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Depth::Entry,
        EventKind::Access(_) => return Vec::new(),
        EventKind::Create(CreateKind::File)
        | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))
        | EventKind::Remove(_) => Depth::Entry,
        // A new directory may contain anything by now.
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => Depth::All,
    };
    let writing = writing(event);
    let pairs = event.paths.iter().flat_map(|path| watched_sets.iter().map(move |place| (path, place)));
    pairs.filter_map(|(path, place)| seen(path, place, depth, writing, &event.kind)).collect()
}

/// Whether more is to come: a file that is written in place is incomplete until it is closed.
pub(super) fn writing(event: &notify::Event) -> Writing {
    use std::os::unix::fs::MetadataExt;
    match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) => Writing::Open,
        // A link is made at once, and no process closes it.
        EventKind::Create(CreateKind::File) => {
            let new = |path: &PathBuf| path.symlink_metadata().is_ok_and(|seen| seen.is_file() && seen.nlink() == 1);
            if event.paths.iter().any(new) { Writing::Open } else { Writing::Over }
        }
        EventKind::Modify(ModifyKind::Metadata(_)) => Writing::Unknown,
        EventKind::Access(_)
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Any
        | EventKind::Other => Writing::Over,
    }
}

fn seen(path: &Path, place: &WatchedSet, depth: Depth, writing: Writing, kind: &EventKind) -> Option<EventMeaning> {
    use std::os::unix::ffi::OsStrExt;
    let stays = matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)));
    // notify reports an unmount this way: the watches there are gone.
    let unmounted = *kind == EventKind::Remove(RemoveKind::Other);
    let below = path.strip_prefix(&place.root).ok()?;
    // A name that cannot be a path of a set cannot be published either; the slow scan gives the reason.
    let below = EntryPath::new(below.as_os_str().as_bytes()).ok()?;
    if unmounted || (below.is_root() && !stays) {
        return Some(EventMeaning::Root(place.set.clone()));
    }
    if place.excludes.as_ref().is_some_and(|excludes| excludes.excluded(&below, false)) {
        return None;
    }
    Some(EventMeaning::At(place.set.clone(), below, depth, writing))
}
