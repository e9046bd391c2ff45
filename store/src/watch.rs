//! Watching: the kernel's events tell where to scan, and this module ensures that they come.
//!
//! One task arms the watches: each set's root with everything below, and its parent, because a watch follows the inode
//! of a root that is replaced. It tells the monitor, for each set, how changes are noticed. Every two seconds it checks
//! what no event tells: whether each root is still the watched directory (one above may have been renamed, or something
//! mounted), and whether a file was edited through another of its names. It arms the watches anew when a root was
//! replaced, when a watch was refused, and when a rescan ([`Rescans`]) found an unannounced change. notify's own thread
//! calls [`PendingChanges`], for which the publisher waits, and wakes the task over a small channel.

mod arm;
pub mod debounce;
mod events;
mod look;
pub mod pending;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{entry::EntryPath, name::SetName, record::SignedRecord, status::Event};
use tokio::sync::{mpsc, watch};

use crate::{
    scan::{Depth, HardLink, sources},
    tree::Tree,
    watch::pending::{PendingChanges, Writing},
};

use self::{
    arm::{Arm, Wake, Watching},
    events::{WatchedSet, watched_sets},
    look::{FILES, Marks, look},
    told::Told,
};

/// The pause before a failed watch is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// The interval of checks for changes without an event.
const LOOK: Duration = Duration::from_secs(2);
/// The longest delay of an event after a rescan found its change.
const LATE: Duration = Duration::from_secs(2);
/// The time for which a set is also rescanned after a change without an event.
const MISSED: Duration = Duration::from_secs(600);
/// The most wake-ups that wait; more would add nothing.
const WAKES: usize = 64;
/// The most paths that a rescan names.
const NAMED: usize = 100;

/// The watched sets, their rules, and the channels.
#[derive(Debug)]
pub struct Watched {
    /// The record in force: its rules exclude entries.
    pub record: watch::Receiver<Arc<SignedRecord>>,
    /// The paths of the sets on this server.
    pub sets: Vec<(SetName, PathBuf)>,
    /// Receives [`Event::Watching`].
    pub events: mpsc::UnboundedSender<Event>,
    /// The findings of rescans.
    pub found: mpsc::UnboundedReceiver<Found>,
    /// The present files.
    pub files: watch::Receiver<Files>,
}

/// The sets as last scanned, and their files with several names.
#[derive(Debug, Clone, Default)]
pub struct Files {
    tree: Tree,
    links: Vec<HardLink>,
}

/// The way changes of each set are noticed: by events (none), or also by frequent rescans, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modes(Option<BTreeMap<SetName, Option<String>>>);

impl Modes {
    /// Whether the watches were armed, as far as possible.
    pub fn are_known(&self) -> bool {
        self.0.is_some()
    }

    /// Whether events alone do not suffice.
    pub fn need_rescans(&self) -> bool {
        self.0.iter().flat_map(BTreeMap::values).any(Option::is_some)
    }
}

/// The findings of a rescan.
#[derive(Debug)]
pub struct Found(Vec<(SetName, EntryPath)>);

/// Reports the findings of rescans, and the files with several names.
#[derive(Debug, Clone)]
pub struct Rescans {
    found: mpsc::UnboundedSender<Found>,
    files: watch::Sender<Files>,
}

impl Rescans {
    /// With the receivers for the task.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Found>, watch::Receiver<Files>) {
        let (found, from) = mpsc::unbounded_channel();
        let files = watch::Sender::default();
        let known = files.subscribe();
        (Self { found, files }, from, known)
    }

    /// Reports an unrequested rescan that led from `before` to `after`: events should have told these changes.
    pub fn found(&self, before: &Tree, after: &Tree) {
        let paths: Vec<_> =
            before.diff(after).into_iter().take(NAMED).map(|change| (change.set, change.path)).collect();
        if !paths.is_empty() {
            // The receiver is gone when the role ends.
            let _ = self.found.send(Found(paths));
        }
    }

    /// Reports the sets, and their files with several names (hard links). Drops those beyond the limit.
    pub fn scanned(&self, tree: &Tree, links: &mut BTreeSet<HardLink>) {
        while links.len() > FILES + 1 {
            links.pop_last();
        }
        self.files.send_replace(Files { tree: tree.clone(), links: links.iter().cloned().collect() });
    }
}

/// The reasons that events do not suffice for a set.
#[derive(Debug, Default)]
struct Doubts {
    /// A watch was refused.
    refused: BTreeMap<SetName, String>,
    /// Other machines' changes in that kind of file system make no event here.
    remote: BTreeMap<SetName, String>,
    /// Too many files have several names.
    linked: BTreeMap<SetName, String>,
    /// A change came without an event; this counts until the given time.
    missed: BTreeMap<SetName, (Instant, String)>,
}

impl Doubts {
    fn modes(&self, watched_sets: &[WatchedSet]) -> Modes {
        let why = |set: &SetName| {
            let missed = self.missed.get(set).map(|(_, why)| why);
            self.refused.get(set).or(missed).or(self.remote.get(set)).or(self.linked.get(set)).cloned()
        };
        Modes(Some(watched_sets.iter().map(|place| (place.set.clone(), why(&place.set))).collect()))
    }
}

/// Keeps the watches armed until `shutdown`. Changes before an arming made no event, so a whole scan follows each.
pub async fn run(
    watched: Watched,
    dirty: Arc<PendingChanges>,
    modes: watch::Sender<Modes>,
    mut shutdown: watch::Receiver<bool>,
) {
    let Watched { mut record, sets, events, mut found, files } = watched;
    let mut missed = BTreeMap::new();
    loop {
        let current = record.borrow_and_update().clone();
        let rules = &current.record().policy.sets;
        let watched_sets = Arc::new(watched_sets(sources(current.record(), &sets)));
        let doubts = Doubts { missed, ..Doubts::default() };
        let (told, files) = (Arc::new(Told::default()), files.clone());
        let mut watch = Watch { watched_sets, doubts, told, files, events: &events, modes: &modes, dirty: &dirty };
        let changed = async {
            // An error means that the role, and so this task, ends soon.
            if record.wait_for(|record| record.record().policy.sets != *rules).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = watch.keep(&mut found) => {}
            () = changed => {}
            // An error means that the sender is gone, which is a signal to stop.
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        missed = watch.doubts.missed;
    }
}

struct Watch<'a> {
    watched_sets: Arc<Vec<WatchedSet>>,
    doubts: Doubts,
    told: Arc<Told>,
    files: watch::Receiver<Files>,
    events: &'a mpsc::UnboundedSender<Event>,
    modes: &'a watch::Sender<Modes>,
    dirty: &'a Arc<PendingChanges>,
}

impl Watch<'_> {
    /// Arms the watches again and again. If it is cancelled, the watches go.
    async fn keep(&mut self, found: &mut mpsc::UnboundedReceiver<Found>) {
        loop {
            let (wake, mut woken) = mpsc::channel(WAKES);
            let Some((watching, marks)) = self.arm(wake).await else { return };
            self.dirty.note_everything(Instant::now());
            self.until_anew(marks, &mut woken, found).await;
            drop(watching);
        }
    }

    async fn arm(&mut self, wake: mpsc::Sender<Wake>) -> Option<(Option<Watching>, Marks)> {
        let (watched_sets, dirty, told) = (self.watched_sets.clone(), self.dirty.clone(), self.told.clone());
        let arm = move || {
            // Taken before the watches, so that the first check notices a root that is replaced meanwhile.
            let marks = Marks::of(&watched_sets);
            (arm::arm(&watched_sets, Arm { dirty, told, wake }), marks)
        };
        let ((watching, refused), marks) = tokio::task::spawn_blocking(arm).await.ok()?;
        self.doubts.refused = refused;
        self.doubts.remote = marks.remote();
        self.say();
        Some((watching, marks))
    }

    /// Checks for changes without an event, until the watches are to be armed anew.
    async fn until_anew(
        &mut self,
        mut marks: Marks,
        woken: &mut mpsc::Receiver<Wake>,
        found: &mut mpsc::UnboundedReceiver<Found>,
    ) {
        let mut again = (!self.doubts.refused.is_empty()).then(|| Instant::now() + AGAIN);
        let mut unsure: Vec<(Instant, Found)> = Vec::new();
        let mut next = Instant::now() + LOOK;
        loop {
            let at = unsure.iter().map(|(at, _)| *at).chain(again).fold(next, Instant::min);
            tokio::select! {
                // None: there are no watches.
                Some(wake) = woken.recv() => match wake {
                    Wake::Refused(set, why) => {
                        again.get_or_insert(Instant::now() + AGAIN);
                        self.refused(set, why);
                    }
                    Wake::Root => return,
                },
                Some(paths) = found.recv() => unsure.push((Instant::now() + LATE, paths)),
                () = tokio::time::sleep_until(at.into()) => {}
            }
            let now = Instant::now();
            if again.is_some_and(|at| at <= now) {
                return;
            }
            let over = unsure.extract_if(.., |(at, _)| *at <= now).flat_map(|(_, Found(paths))| paths).collect();
            if self.missed(over, now) {
                return;
            }
            if next <= now {
                next = now + LOOK;
                let Some((after, moved)) = self.look(marks).await else { return };
                marks = after;
                if moved {
                    return;
                }
            }
        }
    }

    /// Notes that a watch was refused after the arming: by the limit, or by the entry.
    fn refused(&mut self, set: Option<SetName>, why: String) {
        for place in self.watched_sets.iter().filter(|place| set.as_ref().is_none_or(|set| *set == place.set)) {
            tracing::warn!(set = %place.set, why, "a watch was refused");
            self.doubts.refused.insert(place.set.clone(), why.clone());
        }
        self.dirty.note_everything(Instant::now());
        self.say();
    }

    /// Whether to arm the watches anew, because a rescan has found changes at `paths` without an event.
    fn missed(&mut self, paths: Vec<(SetName, EntryPath)>, now: Instant) -> bool {
        let before = self.doubts.missed.len();
        self.doubts.missed.retain(|_, (until, _)| *until > now);
        let mut anew = false;
        for (set, path) in paths {
            // An unwatched path has no events anyway.
            let told = self.told.tells(&set, &path, now) || self.doubts.refused.contains_key(&set);
            if told || !self.watched_sets.iter().any(|place| place.set == set) {
                continue;
            }
            let why = format!("{set}:{path} changed without an event; the watches were armed anew");
            let known = self.doubts.missed.insert(set.clone(), (now + MISSED, why));
            if known.is_none() {
                tracing::warn!(%set, %path, "a rescan has found a change without an event: the watches are armed anew");
                anew = true;
            }
        }
        if before != self.doubts.missed.len() {
            self.say();
        }
        anew
    }

    /// Checks the roots, and files with several names; returns whether to arm the watches anew. None: the process ends.
    async fn look(&mut self, marks: Marks) -> Option<(Marks, bool)> {
        let (watched_sets, files) = (self.watched_sets.clone(), self.files.borrow().clone());
        let looked = tokio::task::spawn_blocking(move || look(&watched_sets, &files, marks)).await.ok()?;
        let now = Instant::now();
        for (set, path) in looked.edited {
            self.told.note(&set, &path, Depth::Entry, now);
            self.dirty.note(set, path, Depth::Entry, Writing::Unknown, now);
        }
        if self.doubts.linked != looked.unseen {
            self.doubts.linked = looked.unseen;
            self.say();
        }
        for set in &looked.moved {
            tracing::info!(%set, "its directory was replaced or mounted over: the watches are armed anew");
        }
        Some((looked.marks, !looked.moved.is_empty()))
    }

    fn say(&self) {
        let next = self.doubts.modes(&self.watched_sets);
        if *self.modes.borrow() == next {
            return;
        }
        let said = next.0.iter().flatten().map(|(set, why)| (set.clone(), why.clone())).collect();
        // The receiver is gone when this process stops.
        let _ = self.events.send(Event::Watching(said));
        self.modes.send_replace(next);
    }
}

#[cfg(test)]
mod tests;
