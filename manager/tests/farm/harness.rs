//! A manager on temporary directories, and its events for the monitor.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bellwether_manager::{
    Deadlines, Dial, Dialling, Form, Manager, Setup, StartError, Timings, form, procedures::store::ProcedureStore,
    tasks::Alarm,
};
use bellwether_proto::{
    key::KeyPair,
    level::Levels,
    name::{ServerName, SetName},
    record::{Codec, Server},
    status::{Event, Observation},
    v1,
};
use bellwether_store::state::{
    layout::{Held, Layout},
    record::GroupRecord,
};
use tokio::sync::{mpsc, watch};

use crate::fake::{Fake, Manner};

/// The time limit of all waits, which only a hanging test reaches.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

struct Plain;

impl Dial for Plain {
    fn dial(&self, server: &Server) -> Dialling {
        let uri = format!("http://{}", server.address);
        Box::pin(async move {
            let endpoint = tonic::transport::Endpoint::from_shared(uri).map_err(|e| e.to_string())?;
            endpoint.connect().await.map_err(|e| e.to_string())
        })
    }
}

pub(crate) struct Farm {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) manager: Manager,
    pub(crate) group: Arc<GroupRecord>,
    key: Arc<KeyPair>,
    events: mpsc::UnboundedReceiver<Event>,
    seen: Vec<Event>,
    stop: watch::Sender<bool>,
    timings: Timings,
}

pub(crate) fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

pub(crate) fn set() -> SetName {
    "nginx".parse().unwrap()
}

fn quick() -> Timings {
    Timings { young: Duration::from_millis(20), keepalive: Duration::from_millis(200), ..Timings::default() }
}

impl Farm {
    /// A group of one server, with `files` in its set.
    pub(crate) async fn new(files: &[(&str, &[u8])]) -> Self {
        Self::timed(files, quick()).await
    }

    pub(crate) async fn with_deadlines(files: &[(&str, &[u8])], deadlines: Deadlines) -> Self {
        Self::timed(files, Timings { deadlines, ..quick() }).await
    }

    async fn timed(files: &[(&str, &[u8])], timings: Timings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let live = directory.path().join("live");
        fs::create_dir_all(&live).unwrap();
        fs::create_dir_all(directory.path().join("state")).unwrap();
        for (path, data) in files {
            let path = live.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, data).unwrap();
        }
        let key = Arc::new(KeyPair::generate());
        let formed = form(Form {
            name: name("m"),
            key: &key,
            address: "m:7440".into(),
            sets: vec![(set(), live)],
            rules: Vec::new(),
            codec: Codec::default(),
            state: &directory.path().join("state"),
            author: "test".into(),
            time_ms: 1,
        })
        .unwrap();
        let held = Held { current: formed.record, chain: Vec::new() };
        Layout::new(directory.path().join("state")).hold(&held).unwrap();
        let (manager, group, events, stop) = start(directory.path(), &key, timings).await.unwrap();
        Self { directory, manager, group, key, events, seen: Vec::new(), stop, timings }
    }

    /// Stops the manager and starts it again.
    pub(crate) async fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.stop.send_replace(true);
        self.manager.stopped().await;
        meanwhile(&self.live());
        let (manager, group, events, stop) = start(self.directory.path(), &self.key, self.timings).await.unwrap();
        (self.manager, self.group, self.events, self.stop) = (manager, group, events, stop);
        self.seen.clear();
    }

    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.manager.stopped()).await.expect("every task ends");
    }

    pub(crate) fn live(&self) -> PathBuf {
        self.directory.path().join("live")
    }

    pub(crate) fn write(&self, path: &str, data: impl AsRef<[u8]>) {
        fs::write(self.live().join(path), data).unwrap();
    }

    pub(crate) async fn enter_request(&self, server: &str, address: &str) -> v1::EnterRequest {
        let grant = bellwether_group::tokens::Grant { uses: 1, ttl_ms: 60_000, names: "*".into(), replaces: false };
        let token = self.manager.create_token(grant).await.unwrap();
        v1::EnterRequest {
            token_id: token.id,
            secret: token.secret.into(),
            server: server.into(),
            address: address.into(),
            sets: vec![set().to_string()],
            version: String::new(),
            level_oldest: Levels::OWN.oldest.0,
            level_newest: Levels::OWN.newest.0,
        }
    }

    /// Lets a played member enter.
    pub(crate) async fn join(&self, server: &str, manner: Manner) -> Fake {
        let fake = Fake::start(server, manner).await;
        self.join_fake(server, &fake).await;
        fake
    }

    pub(crate) async fn join_fake(&self, server: &str, fake: &Fake) {
        let request = self.enter_request(server, &fake.address.to_string()).await;
        self.manager.enter(&request, &KeyPair::generate().public()).await.unwrap();
    }

    /// Waits for an event that fits, among the remaining ones; that event and all before it are taken.
    pub(crate) async fn until<T>(&mut self, what: &str, fits: impl Fn(&Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the manager runs");
                let found = fits(&event);
                self.seen.push(event);
                if let Some(found) = found {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("waited for {what}; seen: {:#?}", self.seen),
        }
    }

    pub(crate) async fn observed<T>(
        &mut self,
        server: &str,
        what: &str,
        fits: impl Fn(&Observation) -> Option<T>,
    ) -> T {
        let server = name(server);
        self.until(what, |event| match event {
            Event::Server(of, observation) if *of == server => fits(observation),
            _ => None,
        })
        .await
    }

    pub(crate) async fn done(&mut self, server: &str, revision: &str) {
        self.observed(server, &format!("{server} done with {revision}"), |seen| match seen {
            Observation::Done { revision: done, .. } if done.to_string() == revision => Some(()),
            _ => None,
        })
        .await;
    }

    pub(crate) async fn lost(&mut self, server: &str) -> String {
        self.observed(server, "lost", |seen| match seen {
            Observation::Lost(why) => Some(why.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn head(&mut self, revision: &str) {
        self.until(&format!("head {revision}"), |event| match event {
            Event::Head { number, .. } if number.to_string() == revision => Some(()),
            _ => None,
        })
        .await;
    }
}

async fn start(
    directory: &Path,
    key: &Arc<KeyPair>,
    timings: Timings,
) -> Result<(Manager, Arc<GroupRecord>, mpsc::UnboundedReceiver<Event>, watch::Sender<bool>), StartError> {
    let (events, seen) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let layout = Layout::new(directory.join("state"));
    let held = layout.held().unwrap().unwrap();
    let group = Arc::new(GroupRecord::new(layout.clone(), key.public(), held, events.clone()));
    let setup = Setup {
        alarm: Alarm::default(),
        name: name("m"),
        key: key.clone(),
        sets: vec![(set(), directory.join("live"))],
        edited: Default::default(),
        commands: Default::default(),
        group: group.clone(),
        at: None,
        incarnation: 1,
        dial: Arc::new(Plain),
        events,
        newer: mpsc::channel(1).0,
        halt: Box::new(|halt| panic!("halted: {halt}")),
        seen: Vec::new(),
        timings,
        procedure_store: Arc::new(ProcedureStore::open(layout.procedures(), name("m"), key.clone()).unwrap()),
        balancers: bellwether_manager::balancer::Locals::default(),
    };
    Ok((Manager::start(setup, stopped).await?, group, seen, stop))
}
