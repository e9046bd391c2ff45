//! The lanes: one task that starts a lane for every member of the record, stops those whose server left or changed, and
//! forwards requests to them. A lane whose server is no longer a member sends only that record, and soon ends; other
//! stopped lanes are aborted at once. The task waits for all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bellwether_proto::{
    name::ServerName,
    record::{Role, Server},
    status::{Event, Observation},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
};
use tracing::Instrument;

use crate::{
    lane::{Control, Lane},
    shared::Shared,
    tasks::stopped,
};

/// The most requests that wait for a lane.
const WAITING: usize = 16;
/// The time to tell a server that it is no longer a member.
const FAREWELL: Duration = Duration::from_secs(2);

/// A request to the lanes.
pub(crate) struct ToLanes {
    /// The servers; none means all.
    pub(crate) servers: Vec<ServerName>,
    pub(crate) control: Control,
    /// Receives the servers that were asked.
    pub(crate) answer: oneshot::Sender<Vec<ServerName>>,
}

struct Running {
    server: Server,
    control: mpsc::Sender<Control>,
    task: AbortHandle,
}

struct Lanes {
    shared: Arc<Shared>,
    running: BTreeMap<ServerName, Running>,
    /// Lanes that tell their server that it is no longer a member.
    leaving: BTreeMap<ServerName, AbortHandle>,
    tasks: JoinSet<()>,
    /// The members of the record before; none at the manager's start.
    before: Option<BTreeSet<ServerName>>,
}

/// Runs until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, mut asked: mpsc::Receiver<ToLanes>, mut shutdown: watch::Receiver<bool>) {
    let mut record = shared.record.clone();
    let mut lanes =
        Lanes { shared, running: BTreeMap::new(), leaving: BTreeMap::new(), tasks: JoinSet::new(), before: None };
    loop {
        let members = members(record.borrow_and_update().record().servers.iter());
        lanes.settle(members);
        tokio::select! {
            changed = record.changed() => if changed.is_err() { break },
            Some(ToLanes { servers, control, answer }) = asked.recv() => {
                let _ = answer.send(lanes.ask(&servers, control));
            }
            // A lane ends when it is aborted or its server has gone; results are taken so that none piles up.
            Some(_) = lanes.tasks.join_next(), if !lanes.tasks.is_empty() => {}
            () = stopped(&mut shutdown) => break,
        }
    }
    lanes.tasks.shutdown().await;
}

fn members<'a>(servers: impl Iterator<Item = &'a Server>) -> BTreeMap<ServerName, Server> {
    let takes = |server: &&Server| match server.role {
        Role::Member => true,
        Role::Manager | Role::Disabled => false,
    };
    servers.filter(takes).map(|server| (server.name.clone(), server.clone())).collect()
}

impl Lanes {
    /// Makes the lanes those of `members`. A new member is synced, whatever it has.
    fn settle(&mut self, members: BTreeMap<ServerName, Server>) {
        for (name, lane) in std::mem::take(&mut self.running) {
            match members.get(&name) {
                Some(member) if same_place(member, &lane.server) && !lane.task.is_finished() => {
                    self.running.insert(name, lane);
                }
                Some(_) => lane.task.abort(),
                None => self.let_go(name, lane.task),
            }
        }
        let before = self.before.replace(members.keys().cloned().collect());
        for (name, server) in members {
            if self.running.contains_key(&name) {
                continue;
            }
            if let Some(leaving) = self.leaving.remove(&name) {
                leaving.abort();
            }
            let anew = before.as_ref().is_some_and(|before| !before.contains(&name));
            let (control, requests) = mpsc::channel(WAITING);
            let view = self.shared.lanes.open(name.clone());
            let lane = Lane { shared: self.shared.clone(), server: server.clone(), anew, view };
            let span = tracing::error_span!("lane", server = %name);
            let task = self.tasks.spawn(lane.run(requests).instrument(span));
            self.running.insert(name, Running { server, control, task });
        }
    }

    fn let_go(&mut self, name: ServerName, lane: AbortHandle) {
        self.leaving.retain(|_, lane| !lane.is_finished());
        self.leaving.insert(name, lane.clone());
        self.tasks.spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            lane.abort();
        });
    }

    fn ask(&self, servers: &[ServerName], control: Control) -> Vec<ServerName> {
        let meant = self.running.iter().filter(|(name, _)| servers.is_empty() || servers.contains(name));
        // A lane whose queue is full will do this anyway.
        let told = meant.map(|(name, lane)| {
            let _ = lane.control.try_send(control);
            if matches!(control, Control::Sync { .. }) {
                // Shown at once, so that no caller takes the earlier state for the result.
                let to = self.shared.head.borrow().stored.header.number();
                self.shared.see(Event::Server(name.clone(), Observation::Started { sync: true, to }));
            }
            name.clone()
        });
        told.collect()
    }
}

/// Whether a lane to one also serves the other.
fn same_place(one: &Server, other: &Server) -> bool {
    (&one.name, &one.key, &one.address) == (&other.name, &other.key, &other.address)
}
