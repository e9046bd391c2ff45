//! Watching: the kernel's events as hints to where to look, and what makes sure that they come.
//!
//! One task: it arms the watches (each set's root and all below; its parent, because a watch follows the inode of a root that
//! is replaced) and says to the monitor, for each set, how changes are noticed. Every two seconds it looks at what no event
//! tells: whether each root is still the directory that is watched (one above may have been renamed, something mounted), and
//! whether a file was edited through another of its names. It arms the watches anew when a root is another
//! one, when a watch was refused, and when a rescan found what no event told. notify's own thread calls back into [`PendingChanges`],
//! which the publisher waits for, and wakes the task over a small channel; whoever rescans says over [`Rescans`] what was found.

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

/// How long after a failure to watch it is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// From one look at what no event tells to the next.
const LOOK: Duration = Duration::from_secs(2);
/// How late an event may be, when a rescan has found what it is to tell.
const LATE: Duration = Duration::from_secs(2);
/// For how long a set is rescanned, too, after a change that no event told.
const MISSED: Duration = Duration::from_secs(600);
/// What wakes the task and waits; more says nothing new.
const WAKES: usize = 64;
/// Paths that a rescan names.
const NAMED: usize = 100;

/// What is watched, under the rules of which record, and who is told how.
#[derive(Debug)]
pub struct Watched {
    /// The record in force: its rules say what is of no interest.
    pub record: watch::Receiver<Arc<SignedRecord>>,
    /// Where the sets are on this server.
    pub sets: Vec<(SetName, PathBuf)>,
    /// Where [`Event::Watching`] goes.
    pub events: mpsc::UnboundedSender<Event>,
    /// What rescans find.
    pub found: mpsc::UnboundedReceiver<Found>,
    /// The files that are there.
    pub files: watch::Receiver<Files>,
}

/// The sets as last scanned, and those of their files that have several names.
#[derive(Debug, Clone, Default)]
pub struct Files {
    tree: Tree,
    links: Vec<HardLink>,
}

/// How changes of each set are noticed: by events (none), or why also by frequent rescans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modes(Option<BTreeMap<SetName, Option<String>>>);

impl Modes {
    /// Whether the watches were armed, as far as they could be.
    pub fn are_known(&self) -> bool {
        self.0.is_some()
    }

    /// Whether events alone do not tell all.
    pub fn need_rescans(&self) -> bool {
        self.0.iter().flat_map(BTreeMap::values).any(Option::is_some)
    }
}

/// What a rescan found.
#[derive(Debug)]
pub struct Found(Vec<(SetName, EntryPath)>);

/// Where rescans say what they found, and which files have several names.
#[derive(Debug, Clone)]
pub struct Rescans {
    found: mpsc::UnboundedSender<Found>,
    files: watch::Sender<Files>,
}

impl Rescans {
    /// And where the task hears it.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Found>, watch::Receiver<Files>) {
        let (found, from) = mpsc::unbounded_channel();
        let files = watch::Sender::default();
        let known = files.subscribe();
        (Self { found, files }, from, known)
    }

    /// A rescan that nothing had asked for led from `before` to `after`: events should have told it.
    pub fn found(&self, before: &Tree, after: &Tree) {
        let paths: Vec<_> =
            before.diff(after).into_iter().take(NAMED).map(|change| (change.set, change.path)).collect();
        if !paths.is_empty() {
            // Nobody listens any more when the role ends.
            let _ = self.found.send(Found(paths));
        }
    }

    /// The sets hold this, and these files have several names, of which others may be elsewhere. Forgets those that are more
    /// than can be looked at.
    pub fn scanned(&self, tree: &Tree, links: &mut BTreeSet<HardLink>) {
        while links.len() > FILES + 1 {
            links.pop_last();
        }
        self.files.send_replace(Files { tree: tree.clone(), links: links.iter().cloned().collect() });
    }
}

/// Why events do not tell all of a set.
#[derive(Debug, Default)]
struct Doubts {
    /// A watch was refused.
    refused: BTreeMap<SetName, String>,
    /// What others change in that kind of file system makes no event here.
    remote: BTreeMap<SetName, String>,
    /// Too many files have several names.
    linked: BTreeMap<SetName, String>,
    /// A change came without an event: until when that counts.
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

/// Keeps the watches armed until `shutdown`. After every arming everything is to be looked at: what happened before it
/// made no event.
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
            // An error: the role ends, and so does this task, soon.
            if record.wait_for(|record| record.record().policy.sets != *rules).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = watch.keep(&mut found) => {}
            () = changed => {}
            // An error: nobody can give the signal any more, which is one.
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        missed = watch.doubts.missed;
    }
}

/// The watches of one set of rules.
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
    /// Arms the watches again and again, for ever. May be cancelled: the watches go then.
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
            // Before the watches: a root that is replaced meanwhile is then another one at the first look.
            let marks = Marks::of(&watched_sets);
            (arm::arm(&watched_sets, Arm { dirty, told, wake }), marks)
        };
        let ((watching, refused), marks) = tokio::task::spawn_blocking(arm).await.ok()?;
        self.doubts.refused = refused;
        self.doubts.remote = marks.remote();
        self.say();
        Some((watching, marks))
    }

    /// Looks at what no event tells, until the watches are to be armed anew.
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

    /// A watch was refused since they were armed: by the limit, or by the entry.
    fn refused(&mut self, set: Option<SetName>, why: String) {
        for place in self.watched_sets.iter().filter(|place| set.as_ref().is_none_or(|set| *set == place.set)) {
            tracing::warn!(set = %place.set, why, "a watch was refused");
            self.doubts.refused.insert(place.set.clone(), why.clone());
        }
        self.dirty.note_everything(Instant::now());
        self.say();
    }

    /// Whether the watches are to be armed anew, because a rescan has found changes at `paths` that no event told.
    fn missed(&mut self, paths: Vec<(SetName, EntryPath)>, now: Instant) -> bool {
        let before = self.doubts.missed.len();
        self.doubts.missed.retain(|_, (until, _)| *until > now);
        let mut anew = false;
        for (set, path) in paths {
            // What is not watched anyway tells nothing.
            let told = self.told.tells(&set, &path, now) || self.doubts.refused.contains_key(&set);
            if told || !self.watched_sets.iter().any(|place| place.set == set) {
                continue;
            }
            let why = format!("no event told that {set}:{path} changed; the watches were armed anew");
            let known = self.doubts.missed.insert(set.clone(), (now + MISSED, why));
            if known.is_none() {
                tracing::warn!(%set, %path, "a rescan has found what no event told: the watches are armed anew");
                anew = true;
            }
        }
        if before != self.doubts.missed.len() {
            self.say();
        }
        anew
    }

    /// Looks at the roots and at files with several names; whether the watches are to be armed anew. None: the process ends.
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
            tracing::info!(%set, "its directory is another one than the one that is watched: the watches are armed anew");
        }
        Some((looked.marks, !looked.moved.is_empty()))
    }

    fn say(&self) {
        let next = self.doubts.modes(&self.watched_sets);
        if *self.modes.borrow() == next {
            return;
        }
        let said = next.0.iter().flatten().map(|(set, why)| (set.clone(), why.clone())).collect();
        // Nobody listens any more when this process is stopping.
        let _ = self.events.send(Event::Watching(said));
        self.modes.send_replace(next);
    }
}

#[cfg(test)]
mod tests;
