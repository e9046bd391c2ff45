//! What this server answers: to other servers ([`group`]) and to the commands on this machine ([`admin`]).

pub(crate) mod admin;
pub(crate) mod door;
pub(crate) mod group;
pub(crate) mod link;
mod promote;
mod refusal;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bellwether_manager::Manager;
use bellwether_proto::{
    key::PublicKey,
    name::ServerName,
    record::{Role, Version},
    revision::{Epoch, SignedHeader},
    status::{Event, FarmStatus},
    v1,
};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use self::refusal::refusal;
use crate::{group::GroupRecord, peers::Peers, role::Standing, seen::Seen};

/// How long a change of this server's role is waited for.
const SETTLE: Duration = Duration::from_secs(10);

/// What the services share: who this server is, what it is in its group, what is known of the farm.
pub(crate) struct Agent {
    pub(crate) name: ServerName,
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) farm: watch::Receiver<Arc<FarmStatus>>,
    /// Answers when all that was seen so far is in `farm`.
    pub(crate) folded: mpsc::Sender<oneshot::Sender<()>>,
    /// Ends the agent.
    pub(crate) stop: watch::Sender<bool>,
    /// The group is to be forgotten when the agent has ended (W22).
    pub(crate) leaving: AtomicBool,
}

impl Agent {
    /// Waits until all that was seen so far is in the farm's status.
    pub(crate) async fn folded(&self) {
        let (to, from) = oneshot::channel();
        // An error: the agent is stopping.
        if self.folded.send(to).await.is_ok() {
            let _ = from.await;
        }
    }

    /// What this server is now.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// What this server is, once a change that is under way is over.
    pub(crate) async fn settled(&self) -> Standing {
        let mut standing = self.standing.clone();
        let settled = standing.wait_for(|standing| !matches!(standing, Standing::Changing));
        match tokio::time::timeout(SETTLE, settled).await {
            Ok(Ok(standing)) => standing.clone(),
            // It takes long, or the agent stops.
            Ok(Err(_)) | Err(_) => Standing::Changing,
        }
    }

    /// Whether this server leads in that epoch, now or soon.
    pub(crate) async fn leads(&self, epoch: Epoch) -> bool {
        let mut standing = self.standing.clone();
        let leads = |standing: &Standing| match standing {
            Standing::Manager(manager) => manager.record().record().version.epoch >= epoch,
            Standing::Changing | Standing::Member(_) => false,
        };
        tokio::time::timeout(SETTLE, standing.wait_for(leads)).await.is_ok_and(|leads| leads.is_ok())
    }

    /// The manager's role, where this server has it.
    ///
    /// # Errors
    /// Refused with the manager's name and the way out (W16).
    pub(crate) fn manager(&self) -> Result<Manager, Status> {
        match self.standing() {
            Standing::Manager(manager) => Ok(manager),
            Standing::Changing => Err(changing()),
            Standing::Member(_) => {
                let current = self.record.current();
                let manager = current.record().manager();
                Err(Status::failed_precondition(format!(
                    "this server is a member; nothing was changed\nrun the command at the manager, {} ({})",
                    manager.name, manager.address
                )))
            }
        }
    }

    /// The server with that key, whatever its role.
    ///
    /// # Errors
    /// Not a server of the group (any more).
    pub(crate) fn of_the_group(&self, peer: Option<&crate::tls::Peer>) -> Result<ServerName, Status> {
        let key = peer.ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let current = self.record.current();
        let server = current.record().by_key(&key).ok_or_else(|| not_of_the_group(&key))?;
        Ok(server.name.clone())
    }

    /// The name of the server with that key, when it may ask things of this one.
    ///
    /// # Errors
    /// Not a server of the group (any more).
    pub(crate) fn authorise(&self, peer: Option<&crate::tls::Peer>) -> Result<ServerName, Status> {
        let key = peer.ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let current = self.record.current();
        match current.record().by_key(&key) {
            Some(server) if server.role != Role::Disabled => Ok(server.name.clone()),
            Some(server) => Err(Status::permission_denied(format!("{} is disabled in the group", server.name))),
            None => Err(not_of_the_group(&key)),
        }
    }

    /// A server that asks for newer records says what it holds: at the manager, one that led before shows (W26).
    pub(crate) fn look_for_superseded(&self, key: &PublicKey, from: Version, at: &SignedHeader) {
        let Standing::Manager(manager) = self.standing() else { return };
        let current = self.record.current();
        let Some(server) = current.record().by_key(key) else { return };
        let led = at.header().manager == server.name && at.signed_by(&server.key);
        let (epoch, holds) = (current.record().version.epoch, at.number());
        if !led || server.role == Role::Manager {
            return;
        }
        let name = &server.name;
        let what = if !manager.leads_from(at.id()) {
            format!(
                "it holds {holds}, which was never taken over here; once it is synced, that is kept there as a recovery point"
            )
        } else if from.epoch < epoch {
            format!("it holds {holds}, which this manager has")
        } else {
            return;
        };
        let back = if server.role == Role::Disabled {
            format!("; to bring it back: bellwether server enable {name}")
        } else {
            String::new()
        };
        let reason =
            format!("it came back as the manager of epoch {}, and is refused: {what}{back}", at.number().epoch);
        let _ = self.events.send(Event::Fenced { server: name.clone(), conflict: false, reason });
    }

    /// The farm as this server knows it, as JSON.
    pub(crate) fn status(&self) -> Result<v1::StatusReply, Status> {
        let status = self.farm.borrow().clone();
        let json = serde_json::to_vec(&*status).map_err(|e| Status::internal(e.to_string()))?;
        Ok(v1::StatusReply { json: json.into() })
    }
}

pub(crate) fn changing() -> Status {
    Status::unavailable("this server is changing its role in the group; nothing was changed; try again")
}

fn not_of_the_group(key: &PublicKey) -> Status {
    Status::permission_denied(format!("{key} is not a server of this group (any more)"))
}

/// Changes one file at the manager.
pub(crate) async fn change(manager: &Manager, change: v1::ChangeRequest) -> Result<v1::ChangeReply, Status> {
    let changed = manager.change(change).await.map_err(refusal)?;
    Ok(v1::ChangeReply {
        revision: changed.revision.as_ref().map(|header| header.number().to_string()).unwrap_or_default(),
        id: changed.revision.map(|header| header.id().0.into()).unwrap_or_default(),
    })
}

/// Reads one file at the manager.
pub(crate) async fn read(manager: &Manager, read: v1::ReadRequest) -> Result<v1::ReadReply, Status> {
    let read = manager.read(read).await.map_err(refusal)?;
    Ok(v1::ReadReply {
        data: read.data,
        hash: read.hash.into(),
        mode: read.mode.into(),
        revision: read.revision.to_string(),
    })
}
