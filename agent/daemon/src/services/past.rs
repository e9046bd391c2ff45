//! What the manager's history holds, for commands at any server: a member passes them on to its manager. Each answer is a
//! stream of bounded parts, and few are made at a time, because each may hold two trees.

mod differences;

use std::{pin::Pin, sync::Arc, time::Duration};

use bellwether_manager::{
    Discard, Discarded, Forget, ForgetPlan, Manager, Rollback, RolledBack, Run,
    past::{FindError, Past, touches},
};
use bellwether_proto::{
    Malformed,
    advice::Advice,
    entry::EntryPath,
    error::chain,
    limits,
    name::SetName,
    revision::RevisionName,
    v1::{self, past_client::PastClient, past_server::Past as Service},
};
use bellwether_store::history::HistoryError;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::{
    Agent,
    admin::{part_of, send_tree},
    drift::Caller,
    file_read,
    refusal::{refusal, refused},
};
use crate::{
    drift,
    net::tls,
    run::role::{Following, Standing},
};

/// The most requests at a time that read revisions, of commands here and of other servers each.
const TURNS: usize = 2;
/// The time that a request waits for its turn.
const WAIT: Duration = Duration::from_secs(5);
/// The time in which a part of an answer has to be taken.
const TAKEN: Duration = Duration::from_secs(30);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;
type Client = PastClient<Channel>;

/// The service, for one side.
pub(crate) struct PastService {
    agent: Arc<Agent>,
    caller: Caller,
    turns: Arc<Semaphore>,
}

/// The server that answers.
enum Way {
    /// This one.
    Here(Manager),
    /// The manager, asked by this member.
    Manager(Arc<Following>),
}

impl PastService {
    /// The service for callers of that side.
    pub(crate) fn new(agent: Arc<Agent>, caller: Caller) -> Self {
        Self { agent, caller, turns: Arc::new(Semaphore::new(TURNS)) }
    }

    async fn way<T>(&self, request: &Request<T>) -> Result<Way, Status> {
        if self.caller == Caller::Server {
            self.agent.authorise(tls::peer(request))?;
        }
        match (self.agent.settled().await, self.caller) {
            (Standing::Changing, _) => Err(super::changing()),
            (Standing::Halted(why), _) => Err(super::halted(&why)),
            (Standing::Manager(manager), _) => Ok(Way::Here(manager)),
            (Standing::Member(following), Caller::Command) => Ok(Way::Manager(following)),
            (Standing::Member(_), Caller::Server) => self.agent.leading().map(Way::Here),
        }
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        match timeout(WAIT, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(refused(
                Code::ResourceExhausted,
                "other requests read the history at this moment",
                Advice::say("try again"),
            )),
        }
    }

    /// Answers with what `make` sends. It runs on a thread of its own and blocks.
    fn stream<T: Send + 'static>(
        turn: OwnedSemaphorePermit,
        make: impl FnOnce(&Parts<T>) -> Result<(), Status> + Send + 'static,
    ) -> Answer<Answers<T>> {
        let (to, from) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let parts = Parts(to);
            if let Err(status) = make(&parts) {
                parts.put(Err(status));
            }
            drop(turn);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }
}

/// The way of an answer's parts.
struct Parts<T>(mpsc::Sender<Result<T, Status>>);

impl<T> Parts<T> {
    /// Sends a part; false: nobody takes it. Blocks.
    fn send(&self, part: T) -> bool {
        self.put(Ok(part))
    }

    fn put(&self, part: Result<T, Status>) -> bool {
        Handle::current().block_on(async { timeout(TAKEN, self.0.send(part)).await.is_ok_and(|sent| sent.is_ok()) })
    }
}

/// Asks the manager in a member's place.
async fn of_manager<Q: Clone, A, F>(
    following: &Following,
    asked: Request<Q>,
    call: impl Fn(Client, Q) -> F,
) -> Result<A, Status>
where
    F: Future<Output = Result<A, Status>>,
{
    let asked = asked.into_inner();
    let client = |channel| {
        PastClient::new(channel).max_decoding_message_size(limits::MESSAGE).max_encoding_message_size(limits::MESSAGE)
    };
    let answer = following.link.ask_over(|channel| call(client(channel), asked.clone())).await;
    answer.map_err(|status| match status.code() {
        Code::Unimplemented => {
            let text = "the manager runs an older version, which does not answer this; nothing was changed";
            refused(Code::Unimplemented, text, Advice::say("upgrade the manager, or run the command there afterwards"))
        }
        _ => status,
    })
}

fn unreadable(error: &HistoryError) -> Status {
    Status::internal(format!("the history cannot be read: {}", chain(error)))
}

fn named(name: &str) -> Result<RevisionName, Status> {
    name.parse().map_err(refusal::<Malformed>)
}

fn send_log(
    past: &Past,
    limit: u64,
    place: Option<&(SetName, EntryPath)>,
    parts: &Parts<v1::LogPart>,
) -> Result<(), Status> {
    let limit = if limit == 0 { u64::MAX } else { limit };
    let mut sent = 0;
    for stored in past.line() {
        if sent == limit {
            parts.send(v1::LogPart { more: true, ..v1::LogPart::default() });
            return Ok(());
        }
        let changes = match place {
            None => stored.changes,
            Some(place) => {
                let mut count = 0;
                let mut add = |list: Vec<_>| {
                    count += list.iter().filter(|change| touches(change, std::slice::from_ref(place))).count() as u64;
                };
                stored.read_changes(&mut add).map_err(|error| unreadable(&error))?;
                count
            }
        };
        if place.is_some() && changes == 0 {
            continue;
        }
        let whole = stored.base && stored.header.header().parent.is_some();
        let revision = v1::Logged { header: Some(stored.header.to_wire()), changes, whole };
        if !parts.send(v1::LogPart { revision: Some(revision), ..v1::LogPart::default() }) {
            return Ok(());
        }
        sent += 1;
    }
    parts.send(v1::LogPart { ends: past.ends().unwrap_or_default(), ..v1::LogPart::default() });
    Ok(())
}

#[tonic::async_trait]
impl Service for PastService {
    type LogStream = Answers<v1::LogPart>;
    type DifferencesStream = Answers<v1::DifferencesPart>;
    type TreeAtStream = Answers<v1::TreePart>;

    async fn log(&self, request: Request<v1::LogRequest>) -> Answer<Self::LogStream> {
        match self.way(&request).await? {
            Way::Here(manager) => {
                let v1::LogRequest { limit, place } = request.into_inner();
                let mut place = drift::places(place.as_slice()).map_err(refusal)?;
                let (place, turn, past) = (place.pop(), self.turn().await?, manager.past());
                Self::stream(turn, move |parts| send_log(&past, limit, place.as_ref(), parts))
            }
            Way::Manager(following) => {
                let ask = |mut manager: Client, asked| async move { manager.log(asked).await };
                Ok(Response::new(Box::pin(of_manager(&following, request, ask).await?.into_inner())))
            }
        }
    }

    async fn differences(&self, request: Request<v1::DifferencesRequest>) -> Answer<Self::DifferencesStream> {
        match self.way(&request).await? {
            Way::Here(manager) => {
                let asked = differences::Asked::try_from(request.into_inner())?;
                let turn = self.turn().await?;
                let live = if asked.is_live() { Some(manager.look().await.map_err(refusal)?) } else { None };
                let past = manager.past();
                Self::stream(turn, move |parts| differences::send(&past, live, &asked, parts))
            }
            Way::Manager(following) => {
                let ask = |mut manager: Client, asked| async move { manager.differences(asked).await };
                Ok(Response::new(Box::pin(of_manager(&following, request, ask).await?.into_inner())))
            }
        }
    }

    async fn tree_at(&self, request: Request<v1::TreeAtRequest>) -> Answer<Self::TreeAtStream> {
        match self.way(&request).await? {
            Way::Here(manager) => {
                let v1::TreeAtRequest { revision, tree } = request.into_inner();
                let (revision, asked) = (named(&revision)?, tree.unwrap_or_default());
                let revision = manager.past().find(revision).map_err(refusal::<FindError>)?;
                let turn = self.turn().await?;
                Self::stream(turn, move |parts| {
                    let tree = revision.tree().map_err(|error| unreadable(&error))?;
                    let name = format!("revision {}", revision.header().number());
                    let (set, prefix) = part_of(&tree, &asked, &name)?;
                    send_tree(&tree, set.as_ref(), &prefix, &mut |part| parts.send(part));
                    Ok(())
                })
            }
            Way::Manager(following) => {
                let ask = |mut manager: Client, asked| async move { manager.tree_at(asked).await };
                Ok(Response::new(Box::pin(of_manager(&following, request, ask).await?.into_inner())))
            }
        }
    }

    async fn read_at(&self, request: Request<v1::ReadAtRequest>) -> Answer<v1::ReadReply> {
        match self.way(&request).await? {
            Way::Here(manager) => {
                let v1::ReadAtRequest { revision, read } = request.into_inner();
                let (revision, _turn) = (named(&revision)?, self.turn().await?);
                let read = manager.read_at(revision, read.unwrap_or_default()).await.map_err(refusal)?;
                Ok(Response::new(file_read(read)))
            }
            Way::Manager(following) => {
                of_manager(
                    &following,
                    request,
                    |mut manager: Client, asked| async move { manager.read_at(asked).await },
                )
                .await
            }
        }
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::RollbackReply> {
        match self.way(&request).await? {
            Way::Here(_) => {
                let manager = self.agent.manager()?;
                let rollback = self.asked(&request)?;
                let _turn = self.turn().await?;
                manager.rollback(rollback).await.map(|back| Response::new(rolled_back(back))).map_err(refusal)
            }
            Way::Manager(following) => {
                self.agent.fit_for_changes()?;
                let ask = |mut manager: Client, asked| async move { manager.rollback(asked).await };
                of_manager(&following, request, ask).await
            }
        }
    }

    async fn discard(&self, request: Request<v1::DiscardRequest>) -> Answer<v1::DiscardReply> {
        if self.caller == Caller::Server {
            let text = "edits are dropped by a command at the manager only";
            return Err(refused(Code::PermissionDenied, text, Advice::say("run the command there")));
        }
        let v1::DiscardRequest { places, dry_run } = request.into_inner();
        let discard = Discard { places: drift::places(&places).map_err(refusal)?, dry_run };
        let Discarded { count, first, kept } = self.agent.manager()?.discard(discard).await.map_err(refusal)?;
        Ok(Response::new(v1::DiscardReply { entries: count, first, kept }))
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Answer<v1::ForgetReply> {
        if self.caller == Caller::Server {
            let text = "contents are forgotten by a command at the manager only";
            return Err(refused(Code::PermissionDenied, text, Advice::say("run the command there")));
        }
        let v1::ForgetRequest { place, author, dry_run, at } = request.into_inner();
        let at = if at.is_empty() { None } else { Some(named(&at)?) };
        let place = drift::places(place.as_slice()).map_err(refusal)?.pop();
        let place = place.ok_or_else(|| Status::invalid_argument("no place is named"))?;
        let (manager, author) = (self.agent.manager()?, self.agent.author_here(&author));
        let _turn = self.turn().await?;
        let plan = manager.forget(Forget { place, at, author, dry_run }).await.map_err(refusal)?;
        Ok(Response::new(forgotten(plan)))
    }
}

/// The most contents that an answer lists.
const CONTENTS: usize = 100;

fn forgotten(plan: ForgetPlan) -> v1::ForgetReply {
    let content = |run: &Run| v1::EarlierContent {
        set: run.set.to_string(),
        path: bytes::Bytes::copy_from_slice(run.path.as_bytes()),
        size: run.content.size(),
        first: run.first.to_string(),
        last: run.last.to_string(),
    };
    let some = |runs: &[Run]| runs.iter().take(CONTENTS).map(content).collect();
    v1::ForgetReply {
        contents: some(&plan.contents),
        contents_total: plan.contents.len() as u64,
        stays: some(&plan.stays),
        revisions: plan.revisions,
        oldest: plan.range.map(|(oldest, _)| oldest.to_string()).unwrap_or_default(),
        newest: plan.range.map(|(_, newest)| newest.to_string()).unwrap_or_default(),
        begins: plan.note.begins.to_string(),
        id: plan.note.id,
    }
}

impl PastService {
    /// The request, by its author. Only commands at the manager hold watching, as only they pause.
    fn asked(&self, request: &Request<v1::RollbackRequest>) -> Result<Rollback, Status> {
        let v1::RollbackRequest { revision, places, author, message, dry_run, accept, now } = request.get_ref();
        let author = match self.caller {
            Caller::Command => self.agent.author_here(author),
            Caller::Server => format!("{author} at {}", self.agent.authorise(tls::peer(request))?),
        };
        if *now && self.caller == Caller::Server {
            let text = "watching is held at the manager only";
            let there = Advice::say("run the command there, or leave out --now");
            return Err(refused(Code::FailedPrecondition, text, there));
        }
        Ok(Rollback {
            to: if revision.is_empty() { RevisionName::Head(1) } else { named(revision)? },
            places: drift::places(places).map_err(refusal)?,
            author,
            message: message.clone(),
            dry_run: *dry_run,
            accept: *accept,
            hold: *now,
            takes_back: None,
        })
    }
}

fn rolled_back(back: RolledBack) -> v1::RollbackReply {
    v1::RollbackReply {
        to: back.to.to_string(),
        revision: back.revision.as_ref().map(|header| header.number().to_string()).unwrap_or_default(),
        id: back.revision.map(|header| header.id().0.into()).unwrap_or_default(),
        entries: back.count,
        first: back.first,
        notes: back.notes,
        held: back.held,
    }
}
