//! The answers to the commands on this machine. A member forwards changes, reads and questions for the farm's status to the
//! manager (W5), and refuses the requests that only a manager may answer (W16).

use std::{pin::Pin, sync::Arc, time::Duration};

use bellwether_group::{
    edits::RecordEdit,
    tokens::{Grant, Kept, Use},
};
use bellwether_manager::{Decision, Request as Publish};
use bellwether_proto::{
    Malformed,
    clock::now_ms,
    entry::{Entry, EntryPath, Kind},
    name::{ServerName, SetName},
    status::Event,
    v1::{self, admin_server::Admin},
};
use bellwether_store::tree::{Node, Tree};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{Agent, procedures, refusal::refusal};
use crate::run::role::{Order, Rebuilding, Standing};

/// The service, for the Unix socket.
pub(crate) struct AdminService(pub(crate) Arc<Agent>);

/// The interval at which a member asks the manager for the farm's status while a command follows it.
const ASK: Duration = Duration::from_secs(1);
/// The number of entries in one part of a tree.
const PART: usize = 1_000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminService {
    type StatusStream = Answers<v1::StatusReply>;
    type TreeStream = Answers<v1::TreePart>;
    type ProceduresStream = Answers<v1::ProceduresReply>;

    async fn status(&self, request: Request<v1::WatchRequest>) -> Answer<Self::StatusStream> {
        let (to, from) = mpsc::channel(1);
        tokio::spawn(follow(self.0.clone(), request.into_inner(), to));
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Answer<v1::PublishReply> {
        let v1::PublishRequest { message, accept, dry_run, author, labels, confirm_within_ms } = request.into_inner();
        if let (true, false, Standing::Member(following)) = (accept, dry_run, self.0.standing()) {
            let accepted = following.link.hand.accept().await.map_err(refusal)?;
            let accepted = accepted.iter().map(ToString::to_string).collect();
            return Ok(Response::new(v1::PublishReply { accepted, ..v1::PublishReply::default() }));
        }
        let (author, labels) = (self.0.author_here(&author), labels.into_iter().collect());
        let publish = Publish { message, author, labels, confirm_within_ms, accept, dry_run };
        let published = self.0.manager()?.publish(publish).await.map_err(refusal)?;
        Ok(Response::new(v1::PublishReply {
            revision: published.revision.as_ref().map(|header| header.number().to_string()).unwrap_or_default(),
            id: published.revision.map(|header| header.id().0.into()).unwrap_or_default(),
            changes: published.changes.first,
            changed: published.changes.count,
            unread: published.unread,
            accepted: Vec::new(),
        }))
    }

    async fn sync(&self, request: Request<v1::SyncRequest>) -> Answer<v1::SyncReply> {
        let v1::SyncRequest { servers, full, verify_only } = request.into_inner();
        let servers = servers.iter().map(|name| server(name)).collect::<Result<_, _>>()?;
        let time_ms = now_ms();
        let asked = self.0.manager()?.sync(servers, full, verify_only).await.map_err(refusal)?;
        // A command that waits for the end of the sync must not see the status from before its beginning.
        self.0.folded().await;
        Ok(Response::new(v1::SyncReply { servers: asked.iter().map(ToString::to_string).collect(), time_ms }))
    }

    async fn edit_record(&self, request: Request<v1::EditRecordRequest>) -> Answer<v1::RecordReply> {
        let v1::EditRecordRequest { edit, author, dry_run } = request.into_inner();
        let edit = RecordEdit::try_from(edit).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let manager = self.0.manager()?;
        let edited = manager.edit_record(&edit, &author, dry_run).await.map_err(refusal)?;
        let left_open = match &edit {
            RecordEdit::Remove(name) => manager.left_open_by(name).await,
            _ => Vec::new(),
        };
        let lacking = manager.lacking().await.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::RecordReply { version: edited.record().version.to_string(), lacking, left_open }))
    }

    async fn decide_rollout(&self, request: Request<v1::DecideRolloutRequest>) -> Answer<v1::DecideRolloutReply> {
        let v1::DecideRolloutRequest { stop, author, dry_run } = request.into_inner();
        let decision = if stop { Decision::Stop } else { Decision::Continue };
        let author = self.0.author_here(&author);
        let changed = self.0.manager()?.decide_rollout(decision, &author, dry_run).await.map_err(refusal)?;
        Ok(Response::new(v1::DecideRolloutReply { changed }))
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Answer<v1::ConfirmReply> {
        let v1::ConfirmRequest { revision, author, dry_run } = request.into_inner();
        let named = (!revision.is_empty()).then(|| revision.parse()).transpose();
        let named = named.map_err(|e: Malformed| Status::invalid_argument(e.to_string()))?;
        let author = self.0.author_here(&author);
        let confirmed = self.0.manager()?.confirm(named, &author, dry_run).await.map_err(refusal)?;
        Ok(Response::new(v1::ConfirmReply { revision: confirmed.0.to_string(), changed: confirmed.1 }))
    }

    async fn acknowledge(&self, request: Request<v1::AcknowledgeRequest>) -> Answer<v1::AcknowledgeReply> {
        let v1::AcknowledgeRequest { servers, author, dry_run } = request.into_inner();
        let named = servers.iter().map(|name| server(name)).collect::<Result<Vec<_>, _>>()?;
        let warned: Vec<ServerName> = {
            let farm = self.0.farm.borrow();
            if let Some(unknown) = named.iter().find(|name| farm.servers.iter().all(|server| server.name != **name)) {
                return Err(Status::not_found(format!("{unknown} is not in the group; nothing was changed")));
            }
            let warned = farm.servers.iter().filter(|server| server.warning.is_some()).map(|server| &server.name);
            warned.filter(|name| named.is_empty() || named.contains(name)).cloned().collect()
        };
        let answer = v1::AcknowledgeReply { servers: warned.iter().map(ToString::to_string).collect() };
        if !dry_run && !warned.is_empty() {
            tracing::info!(servers = answer.servers.join(", "), author, "a person acknowledged warnings");
            let _ = self.0.events.send(Event::Acknowledged(warned));
            self.0.folded().await;
        }
        Ok(Response::new(answer))
    }

    async fn replace_server(&self, request: Request<v1::ReplaceServerRequest>) -> Answer<v1::CreateTokenReply> {
        let v1::ReplaceServerRequest { server: name, ttl_s, author, dry_run } = request.into_inner();
        let ttl_ms = ttl_s.saturating_mul(1_000);
        let token = self.0.manager()?.replace_server(&server(&name)?, ttl_ms, dry_run).await.map_err(refusal)?;
        let Some(token) = token else { return Ok(Response::new(v1::CreateTokenReply::default())) };
        tracing::info!(id = token.id, name, author, "a token for new hardware was created");
        Ok(Response::new(v1::CreateTokenReply { token: token.to_string(), id: token.id }))
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Answer<v1::CreateTokenReply> {
        let v1::CreateTokenRequest { uses, ttl_s, names, author } = request.into_inner();
        let grant = Grant { uses, ttl_ms: ttl_s.saturating_mul(1_000), names, replaces: false };
        let token = self.0.manager()?.create_token(grant).await.map_err(refusal)?;
        tracing::info!(id = token.id, author, "a join token was created");
        Ok(Response::new(v1::CreateTokenReply { token: token.to_string(), id: token.id }))
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Answer<v1::ListTokensReply> {
        let (tokens, now_ms) = (self.0.leading()?.list_tokens().await, now_ms());
        let tokens = tokens.into_iter().map(|(id, kept)| token(id, &kept, now_ms)).collect();
        Ok(Response::new(v1::ListTokensReply { tokens }))
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Answer<v1::RevokeTokenReply> {
        self.0.manager()?.revoke_token(&request.into_inner().id).await.map_err(refusal)?;
        Ok(Response::new(v1::RevokeTokenReply {}))
    }

    async fn change(&self, request: Request<v1::ChangeRequest>) -> Answer<v1::ChangeReply> {
        let mut request = request;
        if matches!(self.0.settled().await, Standing::Manager(_)) {
            // A member's author gets the server's name where the request arrives.
            request.get_mut().author = self.0.author_here(&request.get_ref().author);
        }
        self.0.change(request).await
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Answer<v1::ReadReply> {
        self.0.read(request).await
    }

    async fn tree(&self, request: Request<v1::TreeRequest>) -> Answer<Self::TreeStream> {
        let v1::TreeRequest { set, prefix } = request.into_inner();
        let tree = match self.0.settled().await {
            Standing::Changing => return Err(super::changing()),
            Standing::Halted(why) => return Err(super::halted(&why)),
            Standing::Manager(manager) => manager.tree(),
            Standing::Member(following) => following.link.tree.load_full(),
        };
        let (set, prefix) = part_of(&tree, &v1::TreeRequest { set, prefix }, "the revision held here")?;
        let (to, from) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            send_tree(&tree, set.as_ref(), &prefix, &mut |part| to.blocking_send(Ok(part)).is_ok());
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn promote(&self, request: Request<v1::PromoteRequest>) -> Answer<v1::PromoteReply> {
        super::promote::promote(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn start_procedure(&self, request: Request<v1::StartProcedureRequest>) -> Answer<v1::ProcedureReply> {
        procedures::start(&self.0, request.into_inner()).await
    }

    async fn procedures(&self, request: Request<v1::ProceduresRequest>) -> Answer<Self::ProceduresStream> {
        let (to, from) = mpsc::channel(1);
        tokio::spawn(procedures::follow(self.0.clone(), request.into_inner().follow, to));
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn resume_procedure(&self, request: Request<v1::ResumeProcedureRequest>) -> Answer<v1::ProcedureReply> {
        procedures::resume(&self.0, request.into_inner()).await
    }

    async fn abort_procedure(&self, request: Request<v1::AbortProcedureRequest>) -> Answer<v1::ProcedureReply> {
        procedures::abort(&self.0, request.into_inner()).await
    }

    async fn rebuild(&self, request: Request<v1::RebuildRequest>) -> Answer<v1::RebuildReply> {
        let v1::RebuildRequest { author, dry_run, refuse, confirm } = request.into_inner();
        let malformed = |e: bellwether_proto::Malformed| Status::invalid_argument(e.to_string());
        let order = match confirm.is_empty() {
            true => Order::Here(refuse.iter().map(|key| key.parse()).collect::<Result<_, _>>().map_err(malformed)?),
            false => Order::Confirm(confirm.parse().map_err(malformed)?),
        };
        let (answer, answered) = oneshot::channel();
        let stopping = || Status::unavailable("the agent is stopping");
        self.0.rebuilds.send(Rebuilding { order, author, dry_run, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?.map(Response::new).map_err(refusal)
    }

    async fn leave(&self, _: Request<v1::LeaveRequest>) -> Answer<v1::LeaveReply> {
        // The daemon forgets the group after everything that uses it has ended.
        self.0.leaving.store(true, std::sync::atomic::Ordering::SeqCst);
        self.0.stop.send_replace(true);
        Ok(Response::new(v1::LeaveReply {}))
    }

    async fn dump(&self, _: Request<v1::DumpRequest>) -> Answer<v1::DumpReply> {
        Ok(Response::new(v1::DumpReply { json: self.0.inside().to_string().into() }))
    }
}

fn token(id: String, kept: &Kept, now_ms: u64) -> v1::TokenInfo {
    let opens = kept.opens(now_ms);
    let names = |used: &mut dyn Iterator<Item = &Use>| used.map(|used| used.name.to_string()).collect();
    let returns = |used: &&Use| v1::TokenUse { server: used.name.to_string(), key: used.key.to_string() };
    v1::TokenInfo {
        id,
        uses: kept.uses,
        used_by: names(&mut kept.used_by.iter()),
        expires_ms: kept.expires_ms,
        names: kept.names.clone(),
        revoked: kept.revoked,
        replaces: kept.replaces,
        admits: opens.uses,
        returns: opens.returns.iter().map(returns).collect(),
        removed: names(&mut kept.used_by.iter().filter(|used| kept.bars(&used.key))),
    }
}

fn server(name: &str) -> Result<ServerName, Status> {
    name.parse().map_err(|e: bellwether_proto::Malformed| Status::invalid_argument(e.to_string()))
}

fn set_name(name: &str) -> Result<SetName, Status> {
    name.parse().map_err(|e: bellwether_proto::Malformed| Status::invalid_argument(e.to_string()))
}

/// Sends the farm's status once, or at every change until the caller disconnects or the agent stops.
async fn follow(agent: Arc<Agent>, request: v1::WatchRequest, to: mpsc::Sender<Result<v1::StatusReply, Status>>) {
    let mut farm = agent.farm.clone();
    let mut stop = agent.stop.subscribe();
    let longest = if request.interval_ms == 0 { ASK } else { Duration::from_millis(request.interval_ms.into()) };
    loop {
        farm.borrow_and_update();
        if to.send(status(&agent).await).await.is_err() || !request.follow {
            return;
        }
        tokio::select! {
            _ = farm.changed() => {}
            () = tokio::time::sleep(longest) => {}
            () = to.closed() => return,
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// The manager's status of the farm; if a member cannot ask the manager, its own.
async fn status(agent: &Agent) -> Result<v1::StatusReply, Status> {
    if let Standing::Member(following) = agent.standing()
        && let Some(json) = agent.ask_managers_word(&following).await
    {
        agent.told.heard(&json);
        return Ok(v1::StatusReply { json });
    }
    let status = agent.told.added_to(agent.farm.borrow().clone());
    let json = serde_json::to_vec(&*status).map_err(|e| Status::internal(e.to_string()))?;
    Ok(v1::StatusReply { json: json.into() })
}

/// The set (none: all) and the path of a request, which are in the tree.
///
/// # Errors
/// They are not, or malformed.
pub(super) fn part_of(
    tree: &Tree,
    request: &v1::TreeRequest,
    revision: &str,
) -> Result<(Option<SetName>, EntryPath), Status> {
    let prefix = EntryPath::new(&request.prefix).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let set = if request.set.is_empty() { None } else { Some(set_name(&request.set)?) };
    if let Some(set) = &set
        && tree.get(set, &prefix).is_none()
    {
        return Err(Status::not_found(format!("{revision} has no {set}:{prefix}")));
    }
    Ok((set, prefix))
}

/// Gives the entries to `send` in parts, until it returns false.
pub(super) fn send_tree(
    tree: &Tree,
    only: Option<&SetName>,
    prefix: &EntryPath,
    send: &mut dyn FnMut(v1::TreePart) -> bool,
) {
    let (mut entries, mut is_read) = (Vec::new(), true);
    tree.visit(&mut |set, path, node| {
        if is_read && only.is_none_or(|only| only == set) && path.is_within(prefix) {
            entries.push(entry(set, path, node));
        }
        if entries.len() == PART {
            // Nobody reads any more: the rest is walked for nothing, which is quick.
            is_read = send(v1::TreePart { entries: std::mem::take(&mut entries) });
        }
    });
    if is_read {
        send(v1::TreePart { entries });
    }
}

fn entry(set: &SetName, path: &EntryPath, node: &Node) -> v1::TreeEntry {
    v1::TreeEntry { set: set.to_string(), path: path.as_bytes().to_vec().into(), ..tree_entry(&node.entry()) }
}

/// An entry without its set and path.
pub(crate) fn tree_entry(entry: &Entry) -> v1::TreeEntry {
    let Entry { meta, kind } = entry;
    let (word, size, hash, link) = match kind {
        Kind::Directory => ("directory", 0, String::new(), bytes::Bytes::new()),
        Kind::File(content) => ("file", content.size(), content.hash().to_string(), bytes::Bytes::new()),
        Kind::Link(target) => ("link", 0, String::new(), target.to_vec().into()),
    };
    v1::TreeEntry {
        set: String::new(),
        path: bytes::Bytes::new(),
        kind: word.into(),
        mode: meta.mode.into(),
        user: meta.owner.user.to_string(),
        group: meta.owner.group.to_string(),
        mtime: meta.mtime,
        size,
        hash,
        link,
    }
}
