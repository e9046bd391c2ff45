//! Arms the watches, and handles their events on their thread.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bellwether_proto::{entry::EntryPath, name::SetName};
use notify::{Config, EventKindMask, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::{
    scan::Depth,
    watch::pending::{PendingChanges, Writing},
};

use super::{
    events::{EventMeaning, WatchedSet, read},
    told::Told,
};

/// The watches; dropping it removes them.
pub(super) struct Watching {
    _watcher: RecommendedWatcher,
}

/// A reason to wake the task.
#[derive(Debug)]
pub(super) enum Wake {
    /// A root was replaced.
    Root,
    /// A watch in that set (none: in any) was refused.
    Refused(Option<SetName>, String),
}

/// The receivers of the watches' events.
pub(super) struct Arm {
    pub(super) dirty: Arc<PendingChanges>,
    pub(super) told: Arc<Told>,
    pub(super) wake: mpsc::Sender<Wake>,
}

impl Arm {
    fn hear(&self, event: notify::Result<notify::Event>, watched_sets: &[WatchedSet]) {
        let now = Instant::now();
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let of = |place: &&WatchedSet| error.paths.iter().any(|path| path.starts_with(&place.root));
                let set = watched_sets.iter().find(of).map(|place| place.set.clone());
                // If the channel is full, the task was woken already, and arms all anew or tries again.
                let _ = self.wake.try_send(Wake::Refused(set, why(&error)));
                return;
            }
        };
        for seen in read(&event, watched_sets) {
            match seen {
                EventMeaning::At(set, path, depth, writing) => {
                    self.told.note(&set, &path, depth, now);
                    self.dirty.note(set, path, depth, writing, now);
                }
                EventMeaning::Everything => {
                    self.told.note_everything(now);
                    self.dirty.note_everything(now);
                }
                EventMeaning::Root(set) => {
                    self.told.note(&set, &EntryPath::root(), Depth::All, now);
                    self.dirty.note(set, EntryPath::root(), Depth::All, Writing::Unknown, now);
                    let _ = self.wake.try_send(Wake::Root);
                }
            }
        }
    }
}

/// Watches every root and its parent; returns the reason for each set where that fails. Blocks: 200 ms for 20,000
/// directories.
pub(super) fn arm(watched_sets: &Arc<Vec<WatchedSet>>, arm: Arm) -> (Option<Watching>, BTreeMap<SetName, String>) {
    let known = watched_sets.clone();
    let config = Config::default()
        .with_event_kinds(EventKindMask::CORE | EventKindMask::ACCESS_CLOSE)
        .with_follow_symlinks(false);
    let made = RecommendedWatcher::new(move |event: notify::Result<notify::Event>| arm.hear(event, &known), config);
    let mut watcher = match made {
        Ok(watcher) => watcher,
        Err(error) => return (None, watched_sets.iter().map(|place| (place.set.clone(), why(&error))).collect()),
    };
    let refused = |place: &WatchedSet| Some((place.set.clone(), watch(&mut watcher, place).err().as_ref().map(why)?));
    let refused = watched_sets.iter().filter_map(refused).collect();
    (Some(Watching { _watcher: watcher }), refused)
}

fn watch(watcher: &mut RecommendedWatcher, place: &WatchedSet) -> notify::Result<()> {
    let parent = place.root.parent().filter(|parent| parent.is_dir());
    if let Some(parent) = parent {
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
    }
    if place.root.is_dir() {
        watcher.watch(&place.root, RecursiveMode::Recursive)?;
    } else if parent.is_none() {
        return Err(notify::Error::path_not_found().add_path(place.root.clone()));
    }
    Ok(())
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
