//! Watching: the kernel's events as hints to where to look.
//!
//! One task: it arms the watches (each set's root and all below; its parent, because a watch follows the inode of a
//! root that is replaced), arms them anew when a root was replaced, and says to the monitor how changes are noticed.
//! notify's own thread calls back into [`Dirty`], which the publisher waits for; a channel of one wakes the task.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    entry::EntryPath,
    name::SetName,
    record::{SetRules, SignedRecord},
    status::Event,
};
use bellwether_store::scan::{Depth, Excludes, Source};
use notify::{
    Config, EventKind, EventKindMask, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::sync::{mpsc, watch};

use crate::{
    dirty::{Dirty, Writing},
    publisher::stopped,
    shared::sources,
};

/// How long after a failure to watch it is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// One set's place, and what in it is of no interest.
struct Place {
    set: SetName,
    root: PathBuf,
    excludes: Option<Excludes>,
}

/// What an event says.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Something happened there.
    At(SetName, EntryPath, Depth, Writing),
    /// A set's root came, went or was replaced: its watch may be on what is no longer there.
    Root(SetName),
    /// Events were lost.
    Everything,
}

fn places(sources: Vec<Source>) -> Vec<Place> {
    let place = |source: Source| Place {
        set: source.rules.name.clone(),
        root: source.path,
        // A pattern that cannot be used is refused where it is set, and named by every scan.
        excludes: Excludes::new(&source.rules).ok(),
    };
    sources.into_iter().map(place).collect()
}

/// Reads an event; a path may lie in several sets.
fn read(event: &notify::Event, places: &[Place]) -> Vec<Seen> {
    if event.need_rescan() {
        return vec![Seen::Everything];
    }
    let depth = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Depth::Entry,
        EventKind::Access(_) => return Vec::new(),
        EventKind::Create(CreateKind::File)
        | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))
        | EventKind::Remove(_) => Depth::Entry,
        // A directory that came may hold anything by now.
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => Depth::All,
    };
    let moved =
        !matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)));
    let writing = writing(event);
    let pairs = event.paths.iter().flat_map(|path| places.iter().map(move |place| (path, place)));
    pairs.filter_map(|(path, place)| seen(path, place, depth, writing, moved)).collect()
}

/// Whether more is to come: a file that is written in place is cut short until it is closed.
fn writing(event: &notify::Event) -> Writing {
    use std::os::unix::fs::MetadataExt;
    match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) => Writing::Open,
        // A link is made at once, and nobody closes it.
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

fn seen(path: &Path, place: &Place, depth: Depth, writing: Writing, moved: bool) -> Option<Seen> {
    use std::os::unix::ffi::OsStrExt;
    let below = path.strip_prefix(&place.root).ok()?;
    // What cannot be a path of a set cannot be published either; the slow scan says why.
    let below = EntryPath::new(below.as_os_str().as_bytes()).ok()?;
    if below.is_root() && moved {
        return Some(Seen::Root(place.set.clone()));
    }
    if place.excludes.as_ref().is_some_and(|excludes| excludes.excluded(&below, false)) {
        return None;
    }
    Some(Seen::At(place.set.clone(), below, depth, writing))
}

struct Watching {
    watcher: RecommendedWatcher,
    places: Arc<Vec<Place>>,
}

impl Watching {
    fn new(places: Arc<Vec<Place>>, dirty: Arc<Dirty>, rearm: mpsc::Sender<()>) -> notify::Result<Self> {
        let known = places.clone();
        let handle = move |event: notify::Result<notify::Event>| {
            let now = Instant::now();
            let Ok(event) = event else {
                dirty.note_everything(now);
                return;
            };
            for seen in read(&event, &known) {
                match seen {
                    Seen::At(set, path, depth, writing) => dirty.note(set, path, depth, writing, now),
                    Seen::Everything => dirty.note_everything(now),
                    Seen::Root(set) => {
                        dirty.note(set, EntryPath::root(), Depth::All, Writing::Unknown, now);
                        // Full: the task has been woken already.
                        let _ = rearm.try_send(());
                    }
                }
            }
        };
        let config = Config::default()
            .with_event_kinds(EventKindMask::CORE | EventKindMask::ACCESS_CLOSE)
            .with_follow_symlinks(false);
        Ok(Self { watcher: RecommendedWatcher::new(handle, config)?, places })
    }

    /// Watches every root and its parent. Blocks: 200 ms for 20,000 directories.
    fn arm(&mut self) -> notify::Result<()> {
        for place in self.places.iter() {
            let parent = place.root.parent().filter(|parent| parent.is_dir());
            if let Some(parent) = parent {
                self.watcher.watch(parent, RecursiveMode::NonRecursive)?;
            }
            // The watch of a root that was replaced is on what it was; that there is none is no error.
            let _ = self.watcher.unwatch(&place.root);
            if place.root.is_dir() {
                self.watcher.watch(&place.root, RecursiveMode::Recursive)?;
            } else if parent.is_none() {
                return Err(notify::Error::path_not_found().add_path(place.root.clone()));
            }
        }
        Ok(())
    }
}

/// What is watched, under the rules of which record, and who is told how.
#[derive(Debug)]
pub struct Watched {
    /// The record in force: its rules say what is of no interest.
    pub record: watch::Receiver<Arc<SignedRecord>>,
    /// Where the sets are on this server.
    pub sets: Vec<(SetName, PathBuf)>,
    /// Where [`Event::Watching`] goes.
    pub events: mpsc::UnboundedSender<Event>,
}

/// How changes are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Not known yet.
    Starting,
    /// By events.
    Events,
    /// By rescanning only, and why.
    Rescans(String),
}

/// Keeps the watches armed until `shutdown`. After every arming everything is to be looked at: what happened before it
/// made no event.
pub async fn run(watched: Watched, dirty: Arc<Dirty>, mode: watch::Sender<Mode>, mut shutdown: watch::Receiver<bool>) {
    let Watched { mut record, sets, events } = watched;
    loop {
        let current = record.borrow_and_update().clone();
        let rules = &current.record().policy.sets;
        let places = Arc::new(places(sources(current.record(), &sets)));
        let (wake, mut rearm) = mpsc::channel(1);
        let mut watching = None;
        loop {
            let (armed, next) = arm(watching.take(), places.clone(), dirty.clone(), wake.clone()).await;
            watching = armed;
            say(&events, &mode, next);
            dirty.note_everything(Instant::now());
            let again = tokio::time::sleep(AGAIN);
            tokio::select! {
                () = again, if watching.is_none() => {}
                _ = rearm.recv() => {}
                () = rules_changed(&mut record, rules) => break,
                () = stopped(&mut shutdown) => return,
            }
        }
    }
}

async fn rules_changed(record: &mut watch::Receiver<Arc<SignedRecord>>, rules: &[SetRules]) {
    // An error: the manager is gone, and so is this task, soon.
    if record.wait_for(|record| record.record().policy.sets != rules).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn arm(
    watching: Option<Watching>,
    places: Arc<Vec<Place>>,
    dirty: Arc<Dirty>,
    wake: mpsc::Sender<()>,
) -> (Option<Watching>, Mode) {
    let armed = tokio::task::spawn_blocking(move || {
        let mut watching = match watching {
            Some(watching) => watching,
            None => Watching::new(places, dirty, wake)?,
        };
        watching.arm().map(|()| watching)
    });
    match armed.await {
        Ok(Ok(watching)) => (Some(watching), Mode::Events),
        Ok(Err(error)) => (None, Mode::Rescans(why(&error))),
        Err(stopped) => (None, Mode::Rescans(stopped.to_string())),
    }
}

fn why(error: &notify::Error) -> String {
    let exhausted = match &error.kind {
        notify::ErrorKind::MaxFilesWatch => true,
        notify::ErrorKind::Io(error) => error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()),
        _ => false,
    };
    if exhausted {
        return "the system has no more watches (raise fs.inotify.max_user_watches)".to_owned();
    }
    error.to_string()
}

fn say(events: &mpsc::UnboundedSender<Event>, mode: &watch::Sender<Mode>, next: Mode) {
    if *mode.borrow() == next {
        return;
    }
    let text = match &next {
        Mode::Starting | Mode::Events => "events".to_owned(),
        Mode::Rescans(why) => format!("only by rescanning: {why}"),
    };
    // Nobody listens any more when this process is stopping.
    let _ = events.send(Event::Watching(text));
    mode.send_replace(next);
}

#[cfg(test)]
mod tests;
