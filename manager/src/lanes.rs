//! The lanes: one task that starts a lane for every member of the record, stops those whose server left or changed, and
//! hands on what is asked of them. A lane that is stopped is aborted at once and then waited for.

use std::{collections::BTreeMap, sync::Arc};

use bellwether_proto::{
    name::ServerName,
    record::{Role, Server},
    status::{Event, Observation},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
};

use crate::{
    lane::{Control, Lane},
    publisher::stopped,
    shared::Shared,
};

/// Requests that wait for a lane.
const WAITING: usize = 16;

/// What is asked of the lanes.
pub(crate) struct ToLanes {
    /// Whom; none: all.
    pub(crate) servers: Vec<ServerName>,
    pub(crate) control: Control,
    /// Gets those that were asked.
    pub(crate) answer: oneshot::Sender<Vec<ServerName>>,
}

struct Running {
    server: Server,
    control: mpsc::Sender<Control>,
    task: AbortHandle,
}

/// Runs until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, mut asked: mpsc::Receiver<ToLanes>, mut shutdown: watch::Receiver<bool>) {
    let mut record = shared.record.subscribe();
    let mut tasks = JoinSet::new();
    let mut lanes = BTreeMap::new();
    loop {
        let members = members(record.borrow_and_update().record().servers.iter());
        settle(&shared, members, &mut lanes, &mut tasks);
        tokio::select! {
            changed = record.changed() => if changed.is_err() { break },
            Some(ToLanes { servers, control, answer }) = asked.recv() => {
                let _ = answer.send(ask(&shared, &lanes, &servers, control));
            }
            // Lanes end only when they are aborted; their results are taken so that none piles up.
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = stopped(&mut shutdown) => break,
        }
    }
    tasks.shutdown().await;
}

fn members<'a>(servers: impl Iterator<Item = &'a Server>) -> BTreeMap<ServerName, Server> {
    let takes = |server: &&Server| match server.role {
        Role::Member => true,
        Role::Manager | Role::Disabled => false,
    };
    servers.filter(takes).map(|server| (server.name.clone(), server.clone())).collect()
}

/// Makes the lanes those of `members`.
fn settle(
    shared: &Arc<Shared>,
    members: BTreeMap<ServerName, Server>,
    lanes: &mut BTreeMap<ServerName, Running>,
    tasks: &mut JoinSet<()>,
) {
    lanes.retain(|name, lane| {
        let stays = members.get(name) == Some(&lane.server) && !lane.task.is_finished();
        if !stays {
            lane.task.abort();
        }
        stays
    });
    for (name, server) in members {
        lanes.entry(name).or_insert_with(|| {
            let (control, requests) = mpsc::channel(WAITING);
            let lane = Lane { shared: shared.clone(), server: server.clone() };
            Running { server, control, task: tasks.spawn(lane.run(requests)) }
        });
    }
}

fn ask(
    shared: &Shared,
    lanes: &BTreeMap<ServerName, Running>,
    servers: &[ServerName],
    control: Control,
) -> Vec<ServerName> {
    let to = shared.head.borrow().stored.header.number();
    let meant = lanes.iter().filter(|(name, _)| servers.is_empty() || servers.contains(name));
    // A lane that has so many requests waiting will do what is asked anyway.
    let told = meant.map(|(name, lane)| {
        let _ = lane.control.try_send(control);
        if matches!(control, Control::Sync { .. }) {
            // Seen at once, so that nobody who asked takes the state from before for the end of it.
            shared.see(Event::Server(name.clone(), Observation::Started { sync: true, to }));
        }
        name.clone()
    });
    told.collect()
}
