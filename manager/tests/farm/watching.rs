//! The watch by itself: its reports of a change without an event, and of a root that became another directory.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use bellwether_proto::{
    entry::{Content, Entry, EntryPath, Kind, Meta, Owners},
    name::SetName,
    record::SetRules,
    status::Event,
};
use bellwether_store::{
    tree::{Change, Tree},
    watch::{self as watching, Modes, Rescans, Watched, pending::PendingChanges},
};
use tokio::sync::{mpsc, watch};

use crate::harness::{Farm, set};

const PATIENCE: Duration = Duration::from_secs(60);

struct Watch {
    rescans: Rescans,
    dirty: Arc<PendingChanges>,
    events: mpsc::UnboundedReceiver<Event>,
    _stop: watch::Sender<bool>,
}

impl Watch {
    fn new(farm: &Farm, live: PathBuf) -> Self {
        let (rescans, found, files) = Rescans::new();
        let (events, from) = mpsc::unbounded_channel();
        let record = watch::Sender::new(farm.manager.record());
        let watched = Watched { record: record.subscribe(), sets: vec![(set(), live)], events, found, files };
        let (dirty, stop) = (Arc::new(PendingChanges::default()), watch::Sender::new(false));
        let running = watching::run(watched, dirty.clone(), watch::Sender::new(Modes::default()), stop.subscribe());
        tokio::spawn(async move {
            running.await;
            drop(record);
        });
        Self { rescans, dirty, events: from, _stop: stop }
    }

    /// Its next report on the set.
    async fn says(&mut self) -> Option<String> {
        match tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("it says something") {
            Some(Event::Watching(sets)) => sets[&set()].clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until there are paths to scan.
    async fn is_dirty(&self) {
        let changed = async {
            while self.dirty.take().is_none() {
                self.dirty.changed().await;
            }
        };
        tokio::time::timeout(PATIENCE, changed).await.expect("it is noticed");
    }
}

fn tree(paths: &[&str]) -> Tree {
    let owner = Owners::default().get("root", "root").unwrap();
    let entry = |kind| Some(Entry { meta: Meta { mode: 0o755, owner: owner.clone(), mtime: 0, xattrs: None }, kind });
    let changes: BTreeMap<EntryPath, Kind> = [(EntryPath::root(), Kind::Directory)]
        .into_iter()
        .chain(paths.iter().map(|path| (EntryPath::new(path.as_bytes()).unwrap(), Kind::File(Content::Empty))))
        .collect();
    let change = |(path, kind)| Change { set: set(), path, entry: entry(kind) };
    let name: SetName = set();
    Tree::empty([Arc::new(SetRules::new(name))]).apply(changes.into_iter().map(change).collect()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_event_told_is_said_and_one_that_an_event_told_is_not() {
    let farm = Farm::new(&[("a", b"x")]).await;
    let mut watch = Watch::new(&farm, farm.live());
    assert_eq!(watch.says().await, None, "events");
    watch.is_dirty().await;
    farm.write("told", "x");
    watch.is_dirty().await;
    watch.rescans.found(&tree(&["a"]), &tree(&["a", "told"]));
    watch.rescans.found(&tree(&["a"]), &tree(&["a"]));
    watch.rescans.found(&tree(&["a"]), &tree(&["a", "untold"]));
    let why = watch.says().await.expect("why events do not tell all");
    assert!(why.contains("nginx:untold"), "{why}");
    // The watches were armed anew: everything is scanned, and events come as before.
    watch.is_dirty().await;
    farm.write("a", "later");
    watch.is_dirty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_above_that_is_exchanged_is_seen_and_watched() {
    let farm = Farm::new(&[("a", b"x")]).await;
    let (web, old) = (farm.directory.path().join("web"), farm.directory.path().join("old"));
    let live = web.join("etc/live");
    fs::create_dir_all(&live).unwrap();
    let mut watch = Watch::new(&farm, live.clone());
    assert_eq!(watch.says().await, None, "events");
    watch.is_dirty().await;
    fs::rename(&web, &old).unwrap();
    fs::create_dir_all(&live).unwrap();
    watch.is_dirty().await;
    // The watch is on the new directory, and not on the old one any more.
    loop {
        fs::write(live.join("b"), "x").unwrap();
        if tokio::time::timeout(Duration::from_secs(1), watch.is_dirty()).await.is_ok() {
            break;
        }
    }
}
