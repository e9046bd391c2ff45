//! The services for other servers (`group`) and for commands on this machine (`admin`).

pub(crate) mod access;
pub(crate) mod admin;
pub(crate) mod batch;
pub(crate) mod drift;
pub(crate) mod group;
mod held;
mod inside;
pub(crate) mod link;
pub(crate) mod past;
pub(crate) mod procedures;
pub(crate) mod promote;
pub(crate) mod refusal;
mod told;

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bellwether_manager::{FileRead, Manager, balancer::Locals, procedures::store::ProcedureStore, tasks::Alarm};
use bellwether_monitor::http::Farm;
use bellwether_proto::{
    advice::Advice,
    key::PublicKey,
    name::ServerName,
    record::{Record, Role, Server, Version},
    revision::{Epoch, SignedHeader},
    status::{Event, FarmStatus, ServerStatus, State},
    v1,
};
use bellwether_store::{
    secret::SecretPaths,
    state::{known_heads::KnownHeads, record::GroupRecord},
};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tonic::{Code, Request, Response, Status};

use self::refusal::{refusal, refused};
pub(crate) use self::told::ManagersWord;
use crate::{
    net::peers::Peers,
    run::role::{Following, Rebuilding, Standing},
};

/// The time that a member waits for the manager's report on the farm before it shows only its own.
const WORD: Duration = Duration::from_secs(3);
/// The time that the manager has to give a file, before the member reads its own revision.
const READ: Duration = Duration::from_secs(5);
/// The time to wait for a change of this server's role.
const SETTLE: Duration = Duration::from_secs(10);

/// The state that the services share: this server's name, its role in the group, and the farm's status.
pub(crate) struct Agent {
    pub(crate) name: ServerName,
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) seen: Arc<KnownHeads>,
    /// The procedures.
    pub(crate) procedure_store: Arc<ProcedureStore>,
    /// The balancers of this machine's agent.toml.
    pub(crate) locals: Locals,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) farm: watch::Receiver<Arc<FarmStatus>>,
    /// The manager's report on the farm, at a member.
    pub(crate) told: ManagersWord,
    /// Answers when all earlier events are in `farm`.
    pub(crate) folded: mpsc::Sender<oneshot::Sender<()>>,
    /// Limits the callers that bring newer records at a time, for their bytes.
    pub(crate) telling: Semaphore,
    /// Asks the task that runs the roles to rebuild the group.
    pub(crate) rebuilds: mpsc::Sender<Rebuilding>,
    /// Knows the tasks that run.
    pub(crate) alarm: Alarm,
    /// Ends the agent.
    pub(crate) stop: watch::Sender<bool>,
    /// The directory of the kept copies.
    pub(crate) recovery: PathBuf,
    /// Whether to forget the group when the agent has ended (W22).
    pub(crate) leaving: AtomicBool,
}

impl Agent {
    /// Waits until all earlier events are in the farm's status.
    pub(crate) async fn folded(&self) {
        let (to, from) = oneshot::channel();
        // An error means that the agent stops.
        if self.folded.send(to).await.is_ok() {
            let _ = from.await;
        }
    }

    /// The author of a request that came from this machine.
    pub(crate) fn author_here(&self, author: &str) -> String {
        format!("{author} at {}", self.name)
    }

    /// This server's present role.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// This server's role after any change under way.
    pub(crate) async fn settled(&self) -> Standing {
        let mut standing = self.standing.clone();
        let settled = standing.wait_for(|standing| !matches!(standing, Standing::Changing));
        match tokio::time::timeout(SETTLE, settled).await {
            Ok(Ok(standing)) => standing.clone(),
            // The change takes too long, or the agent stops.
            Ok(Err(_)) | Err(_) => Standing::Changing,
        }
    }

    /// Whether this server leads in that epoch, now or soon.
    pub(crate) async fn leads(&self, epoch: Epoch) -> bool {
        let mut standing = self.standing.clone();
        let leads = |standing: &Standing| match standing {
            Standing::Manager(manager) => manager.record().record().version.epoch >= epoch,
            Standing::Changing | Standing::Member(_) | Standing::Halted(_) => false,
        };
        tokio::time::timeout(SETTLE, standing.wait_for(leads)).await.is_ok_and(|leads| leads.is_ok())
    }

    /// The manager's role, if this server has it and may change something.
    ///
    /// # Errors
    /// Another server is the manager (the refusal names it and the way out, W16), or leads in the same epoch (W26).
    pub(crate) fn manager(&self) -> Result<Manager, Status> {
        let manager = self.leading()?;
        let disputed = self.record.disputes().borrow().clone();
        match disputed {
            None => Ok(manager),
            Some(why) => Err(refused(Code::FailedPrecondition, &*why, bellwether_store::state::record::decide())),
        }
    }

    /// The manager's role, if this server has it: to read, and to take note.
    ///
    /// # Errors
    /// Another server is the manager: the refusal names it and the way out (W16).
    pub(crate) fn leading(&self) -> Result<Manager, Status> {
        match self.standing() {
            Standing::Manager(manager) => Ok(manager),
            Standing::Changing => Err(changing()),
            Standing::Halted(why) => Err(halted(&why)),
            Standing::Member(_) => {
                let current = self.record.current();
                let manager = current.record().manager();
                let what = match current.record().by_key(&self.record.own_key()) {
                    Some(own) if own.role == Role::Disabled => format!("this server, {}, is disabled", own.name),
                    Some(own) => format!("this server, {}, is a member", own.name),
                    None => format!("this server, {}, is not in the group any more", self.name),
                };
                let there = format!("run the command at the manager, {} ({})", manager.name, manager.address);
                let lost = Advice::run("should it be lost, at a candidate", "bellwether recover manager");
                let advice = Advice::say(there).or(&lost);
                Err(refused(Code::FailedPrecondition, what, advice))
            }
        }
    }

    /// The server with that key, whatever its role.
    ///
    /// # Errors
    /// The key is not of a server of the group (any more).
    pub(crate) fn of_the_group(&self, peer: Option<&crate::net::tls::Peer>) -> Result<ServerName, Status> {
        let key = peer.ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let current = self.record.current();
        let server = current.record().by_key(&key).ok_or_else(|| not_of_the_group(current.record(), &key))?;
        Ok(server.name.clone())
    }

    /// Checks that this server may be asked for changes.
    ///
    /// # Errors
    /// It is in error: it refuses changes until a sync (W8).
    pub(crate) fn fit_for_changes(&self) -> Result<(), Status> {
        let farm = self.farm.borrow();
        let own = farm.servers.iter().find(|server| server.name == farm.observer);
        match (self.standing(), own) {
            (Standing::Member(_), Some(ServerStatus { state: State::Error, reason, name, .. })) => {
                let reason = reason.as_deref().unwrap_or("it failed");
                let before = format!("ask another server, or bring this one back at the manager, {}", farm.manager);
                let advice = Advice::run(&before, format!("bellwether sync {name}"));
                let what = format!("{name} is in error and takes no changes ({reason})");
                Err(refused(Code::FailedPrecondition, what, advice))
            }
            (Standing::Member(_) | Standing::Manager(_) | Standing::Halted(_) | Standing::Changing, _) => Ok(()),
        }
    }

    /// The name of the server with that key, if it may ask this one.
    ///
    /// # Errors
    /// The key is not of a server of the group (any more).
    pub(crate) fn authorise(&self, peer: Option<&crate::net::tls::Peer>) -> Result<ServerName, Status> {
        let key = peer.ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let current = self.record.current();
        match current.record().by_key(&key) {
            Some(server) if server.role != Role::Disabled => Ok(server.name.clone()),
            Some(server) => Err(disabled(&server.name, current.record().manager())),
            None => Err(not_of_the_group(current.record(), &key)),
        }
    }

    /// Uses the revision in a server's request for records: the manager recognizes one that led before (W26).
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
                "its change {holds} is not part of this group; a sync of this server saves that change there as a kept copy"
            )
        } else if from.epoch < epoch {
            format!("this manager has its newest change {holds}")
        } else {
            return;
        };
        let back = if server.role == Role::Disabled {
            format!("; to bring it back: bellwether server enable {name}")
        } else {
            String::new()
        };
        let reason = format!("an old manager, of epoch {}, came back and was refused: {what}{back}", at.number().epoch);
        let _ = self.events.send(Event::Fenced { server: name.clone(), conflict: false, reason });
    }

    /// Asks the manager for its report on the farm; none if it does not answer soon.
    pub(crate) async fn ask_managers_word(&self, following: &Following) -> Option<Bytes> {
        let ask = following.link.ask(|mut manager| async move { manager.status(v1::StatusRequest {}).await });
        let answer = tokio::time::timeout(WORD, ask).await.ok()?.ok()?;
        Some(answer.into_inner().json)
    }

    /// The farm as this server knows it, as JSON.
    pub(crate) fn status(&self) -> Result<v1::StatusReply, Status> {
        let status = self.farm.borrow().clone();
        let json = serde_json::to_vec(&*status).map_err(|e| Status::internal(e.to_string()))?;
        Ok(v1::StatusReply { json: json.into() })
    }
}

impl Farm for Agent {
    fn own(&self) -> Arc<FarmStatus> {
        self.farm.borrow().clone()
    }

    fn whole(&self) -> Pin<Box<dyn Future<Output = Arc<FarmStatus>> + Send + '_>> {
        Box::pin(async {
            if let Standing::Member(following) = self.standing() {
                self.told.refresh(self.ask_managers_word(&following)).await;
            }
            self.told.added_to(self.own())
        })
    }
}

/// The refusal of a manager that cannot lead, or must not (W13, W14).
pub(crate) fn halted(why: &str) -> Status {
    refused(Code::FailedPrecondition, why, None)
}

pub(crate) fn changing() -> Status {
    refused(Code::Unavailable, "this server is changing its role in the group", Advice::say("try again"))
}

fn at(manager: &Server) -> String {
    format!("at the manager, {} ({})", manager.name, manager.address)
}

fn disabled(name: &ServerName, manager: &Server) -> Status {
    let advice = Advice::run(&at(manager), format!("bellwether server enable {name}"));
    refused(Code::PermissionDenied, format!("{name} is disabled in the group"), advice)
}

/// The refusal of a key that is not in the group; if it was, the refusal says what to do.
fn not_of_the_group(record: &Record, key: &PublicKey) -> Status {
    let at = at(record.manager());
    let Some(gone) = record.removed.iter().find(|gone| gone.key == *key) else {
        let advice = Advice::run("to enter it, at its manager", "bellwether token create");
        return refused(Code::PermissionDenied, format!("{key} is not a server of this group"), advice);
    };
    let name = &gone.name;
    let leave = |before| Advice::run(before, "bellwether leave");
    let (what, advice) = match record.server(name) {
        Some(_) => (
            format!("other hardware has taken the place of {name}: this server's key is refused"),
            leave("on this machine")
                .or(&Advice::run(&format!("to enter the group under another name, {at}"), "bellwether token create")),
        ),
        None => (
            format!("{name} was removed from the group"),
            Advice::run(&at, format!("bellwether server add {name}")).or(&leave("or on this machine")),
        ),
    };
    refused(Code::PermissionDenied, what, advice)
}

/// Marks a forwarded request: it is forwarded once, even if the servers disagree on the manager.
const FORWARDED: &str = "bellwether-forwarded";

impl Agent {
    /// Changes one file: at the manager, or forwarded to it.
    ///
    /// # Errors
    /// The manager's refusal, that it does not answer (W11), or that this server is in error (W8).
    pub(crate) async fn change(&self, change: Request<v1::ChangeRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        match self.way(&change).await? {
            None => change_at(&self.manager()?, change.into_inner()).await.map(Response::new),
            Some(following) => {
                self.fit_for_changes()?;
                let change = change.into_inner();
                following
                    .link
                    .ask(|mut manager| {
                        let change = forwarded(change.clone());
                        async move { manager.change(change).await }
                    })
                    .await
            }
        }
    }

    /// Reads one file: at the manager, or from it. If it does not answer, the member reads its own revision (W11).
    ///
    /// # Errors
    /// The file does not exist, or cannot be read.
    pub(crate) async fn read(&self, read: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        match self.way(&read).await? {
            None => read_at(&self.leading()?, read.into_inner()).await.map(Response::new),
            Some(following) => {
                let read = read.into_inner();
                let answer = following.link.ask(|mut manager| {
                    let read = forwarded(read.clone());
                    async move { manager.read(read).await }
                });
                match tokio::time::timeout(READ, answer).await {
                    Ok(Err(status)) if status.code() != Code::Unavailable => Err(status),
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(_)) | Err(_) => {
                        let secrets = SecretPaths::new(&self.record.current().record().policy.secret);
                        held::read(&following.link, &read, &secrets).await.map(Response::new)
                    }
                }
            }
        }
    }

    /// The way to the manager, if this server is not the manager. A forwarded request is not forwarded again.
    async fn way<T>(&self, request: &Request<T>) -> Result<Option<Arc<Following>>, Status> {
        match self.settled().await {
            Standing::Changing => Err(changing()),
            Standing::Halted(why) => Err(halted(&why)),
            Standing::Manager(_) => Ok(None),
            Standing::Member(_) if request.metadata().contains_key(FORWARDED) => self.manager().map(|_| None),
            Standing::Member(following) => Ok(Some(following)),
        }
    }
}

fn forwarded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
    request
}

async fn change_at(manager: &Manager, change: v1::ChangeRequest) -> Result<v1::ChangeReply, Status> {
    let changed = manager.change(change).await.map_err(refusal)?;
    Ok(v1::ChangeReply {
        revision: changed.revision.as_ref().map(|header| header.number().to_string()).unwrap_or_default(),
        id: changed.revision.map(|header| header.id().0.into()).unwrap_or_default(),
    })
}

async fn read_at(manager: &Manager, read: v1::ReadRequest) -> Result<v1::ReadReply, Status> {
    manager.read(read).await.map(file_read).map_err(refusal)
}

fn file_read(read: FileRead) -> v1::ReadReply {
    v1::ReadReply {
        data: read.data,
        hash: read.hash.into(),
        mode: read.mode.into(),
        revision: read.revision.to_string(),
    }
}
