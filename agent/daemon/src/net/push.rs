//! The push stream as a member serves it: one task a stream checks who speaks and passes messages to the member's thread,
//! whose answers go back through a bounded channel. A newer stream takes the place of an older one: each task holds the
//! other end of a channel that the member's thread drops when it lets go of the stream.

mod tickets;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwether_group::procedure::SignedDocument;
use bellwether_manager::procedures::store::Board;
use bellwether_member::{ANSWERS, Answer, Input};
use bellwether_proto::{
    error::chain,
    key::PublicKey,
    level::Program,
    limits,
    protocol::{self, Side, TooFarApart},
    record::{RecordRefused, Role, SignedRecord},
    revision::SignedHeader,
    start,
    v1::{self, down, push_server::Push, up},
};
use bellwether_store::{
    mutex::locked,
    state::record::{GroupRecord, TakeError},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::Instrument;

use self::tickets::Tickets;
use crate::{
    net::{peers::Hint, tls},
    run::role::{Following, Open, Standing},
};

/// How long a stream may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// How long a manager's stream may be silent and yet live: its keepalives are 5 s apart.
const ALIVE: Duration = Duration::from_secs(8);
/// How long a change of this server's role is waited for.
const SETTLE: Duration = Duration::from_secs(10);

/// The push service: who speaks is looked at whatever this server is; only a member follows.
pub(crate) struct PushService {
    record: Arc<GroupRecord>,
    standing: watch::Receiver<Standing>,
    hints: mpsc::Sender<Hint>,
    board: Arc<Board>,
    reach: watch::Receiver<v1::Balancers>,
    sessions: AtomicU64,
    /// Held while a hello of somebody else than the manager is read.
    others: Semaphore,
    tickets: Tickets,
    /// The manager's stream that is followed.
    live: Mutex<Option<Live>>,
}

/// A manager's stream as another hello of that manager has to know it.
#[derive(Clone)]
struct Live {
    key: PublicKey,
    /// How often that manager's state was opened.
    incarnation: u64,
    /// Counts its messages, and ends with it.
    heard: watch::Receiver<u64>,
}

impl PushService {
    /// A service that feeds the member's thread, while this server is a member. Where a hello comes whose record cannot be
    /// followed from here, `hints` has the other servers asked. `reach` is told to the manager.
    pub(crate) fn new(
        record: Arc<GroupRecord>,
        standing: watch::Receiver<Standing>,
        hints: mpsc::Sender<Hint>,
        board: Arc<Board>,
        reach: watch::Receiver<v1::Balancers>,
    ) -> Self {
        let (sessions, others) = (AtomicU64::new(0), Semaphore::new(1));
        let tickets = Tickets::new(record.clone());
        Self { record, standing, hints, board, reach, sessions, others, tickets, live: Mutex::new(None) }
    }
}

#[tonic::async_trait]
impl Push for PushService {
    type FollowStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn follow(&self, request: Request<Streaming<v1::Down>>) -> Result<Response<Self::FollowStream>, Status> {
        let peer = *tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?;
        let key = peer.key;
        let mut downs = request.into_inner();
        let hello = self.hello(key, &mut downs).await.inspect_err(|_| self.unknown(&peer))?;
        if let Some(head) = &hello.head {
            check_head(&self.record, head)?;
        }
        let following = self.following().await?;
        self.only_one(&peer, hello.incarnation).await?;
        let ticket = self.tickets.take(&hello).await?;
        let (answers, up) = mpsc::channel(ANSWERS);
        let (held, over) = oneshot::channel();
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let (record, inputs, open) = (self.record.clone(), following.inputs.clone(), following.enter());
        let board = self.board.clone();
        let mut reach = self.reach.clone();
        reach.mark_changed();
        let (heard_to, heard) = watch::channel(0);
        *self.locked() = Some(Live { key, incarnation: hello.incarnation, heard });
        let session = Session {
            number,
            key,
            record,
            board,
            inputs,
            answers,
            reach,
            offered: false,
            heard: heard_to,
            _open: open,
        };
        session.pass(Input::Open { session: number, key, ticket, up: session.answers.clone(), held }).await?;
        if let Some(head) = hello.head {
            session.pass(Input::Down { session: number, message: down::Message::Head(head) }).await?;
        }
        // The manager keeps the stream open, and with it the connection: the end of the role ends it.
        let mut stop = following.stop.clone();
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        let manager = self.record.current().record().manager().name.clone();
        let span = tracing::error_span!("stream", server = %manager);
        tokio::spawn(session.run(downs, over, stopped).instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(up))))
    }
}

impl PushService {
    /// Somebody spoke as the manager who is nobody in the group.
    fn unknown(&self, peer: &tls::Peer) {
        if self.record.current().record().by_key(&peer.key).is_none() {
            self.record.knocked(&peer.key, peer.address, "to be obeyed as the manager");
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Live>> {
        locked(&self.live)
    }

    /// Whether the manager that says hello is not a copy of the one that leads this server (W14): another start of it, while
    /// that one lives. Its stream ends with it, or says something soon.
    async fn only_one(&self, peer: &tls::Peer, incarnation: u64) -> Result<(), Status> {
        let live = self.locked().clone();
        let Some(mut live) = live.filter(|live| live.key == peer.key && start::is_copy(live.incarnation, incarnation))
        else {
            return Ok(());
        };
        live.heard.mark_unchanged();
        match tokio::time::timeout(ALIVE, live.heard.changed()).await {
            Ok(Ok(())) => {
                // The living one's monitor names it.
                self.record.knocked(&peer.key, peer.address, "to be obeyed, as a copy of the manager's machine");
                Err(Status::failed_precondition(format!(
                    "another start of this manager (number {}) leads this server and lives, this is number {}: one is a \
                     copy of the other's machine; nothing was changed\nstop the copy, and on it: bellwether leave --force",
                    start::opened(live.incarnation),
                    start::opened(incarnation)
                )))
            }
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// The hello of the manager. Others may say it, one at a time: a manager that this server has not met yet.
    async fn hello(&self, key: PublicKey, downs: &mut Streaming<v1::Down>) -> Result<v1::DownHello, Status> {
        let known = self.record.current().record().manager().key == key;
        let busy = |_| Status::resource_exhausted("somebody else than the manager says hello already; try again");
        let _turn = if known { None } else { Some(self.others.try_acquire().map_err(busy)?) };
        let hello = first(downs).await?;
        let greeted = greet(&self.record, key, &hello);
        if greeted.is_err() {
            // One hint is enough.
            let _ = self.hints.try_send(Hint::Anyone);
        }
        greeted.map(|()| hello)
    }

    /// This server as a member. The record that came with the hello may just have made it one.
    async fn following(&self) -> Result<Arc<Following>, Status> {
        if self.record.is_led_here() {
            return Err(Status::failed_precondition("this server is the group's manager"));
        }
        let mut standing = self.standing.clone();
        let settled = standing.wait_for(|standing| matches!(standing, Standing::Member(_)));
        let settled = tokio::time::timeout(SETTLE, settled).await.ok().and_then(Result::ok);
        match settled.as_deref() {
            Some(Standing::Member(following)) => Ok(following.clone()),
            _ => Err(Status::unavailable("this server is changing its role; try again")),
        }
    }
}

/// The hello that a stream begins with, soon.
async fn first(downs: &mut Streaming<v1::Down>) -> Result<v1::DownHello, Status> {
    let late = |_| Status::deadline_exceeded(format!("no hello within {} s", HELLO.as_secs()));
    match tokio::time::timeout(HELLO, downs.message()).await.map_err(late)?? {
        Some(v1::Down { message: Some(down::Message::Hello(hello)) }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message is not a hello")),
    }
}

/// Takes the manager's record, by its chain where this server was away, and checks that it is the manager who speaks.
fn greet(record: &GroupRecord, key: PublicKey, hello: &v1::DownHello) -> Result<(), Status> {
    spoken(record, hello).map_err(|e| Status::failed_precondition(e.to_string()))?;
    let current = hello.record.as_ref().ok_or_else(|| Status::invalid_argument("a hello without a group record"))?;
    if hello.chain.len() > limits::CHAIN {
        let what = format!("a chain of {} records; the limit is {}", hello.chain.len(), limits::CHAIN);
        return Err(Status::invalid_argument(what));
    }
    let links = hello.chain.iter().chain([current]).map(SignedRecord::from_wire).collect::<Result<Vec<_>, _>>();
    let links = links.map_err(|e| Status::invalid_argument(e.to_string()))?;
    record.take_by(&links).map_err(|e| not_taken(&e))?;
    may_push(record, key)
}

/// The protocol that is spoken with the manager that says this.
fn spoken(record: &GroupRecord, hello: &v1::DownHello) -> Result<u32, TooFarApart> {
    let (current, own) = (record.current(), Program::own());
    let name = current.record().by_key(&record.own_key()).map_or("this server", |own| own.name.as_str());
    let ours = Side { server: name, program: &own.version, speaks: protocol::SPOKEN };
    let speaks = (hello.protocol_min, hello.protocol_max);
    let manager = current.record().manager().name.as_str();
    protocol::negotiate(&ours, &Side { server: manager, program: &hello.version, speaks })
}

fn take(record: &GroupRecord, wire: &v1::SignedRecord) -> Result<(), Status> {
    let signed = SignedRecord::from_wire(wire).map_err(|e| Status::invalid_argument(e.to_string()))?;
    record.take(signed).map_err(|e| not_taken(&e))
}

/// The answer to whoever brings a record that is not taken: a manager that was superseded learns it from the details.
pub(crate) fn not_taken(error: &TakeError) -> Status {
    let details = match error {
        TakeError::Refused(refused) => refused.details(),
        TakeError::Save(_) => bytes::Bytes::new(),
    };
    let what = format!("the group record is not taken: {error}");
    Status::with_details(Code::FailedPrecondition, what, details)
}

/// Only the manager of the record pushes, and only to a server that the record names.
fn may_push(record: &GroupRecord, key: PublicKey) -> Result<(), Status> {
    let current = record.current();
    let manager = current.record().manager();
    if manager.key != key {
        let (theirs, ours) = (current.record().version, current.record().version);
        let what = format!("{key} is not the group's manager; that is {}", manager.name);
        return Err(Status::with_details(
            Code::PermissionDenied,
            what,
            RecordRefused::Older { theirs, ours }.details(),
        ));
    }
    match current.record().by_key(&record.own_key()).map(|server| server.role) {
        Some(Role::Member | Role::Manager) => Ok(()),
        Some(Role::Disabled) => Err(Status::permission_denied("this server is disabled in the group")),
        None => Err(Status::permission_denied("this server was removed from the group")),
    }
}

/// Only the manager announces revisions, and only its group's.
fn check_head(record: &GroupRecord, wire: &v1::SignedHeader) -> Result<(), Status> {
    let head = SignedHeader::from_wire(wire.clone()).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let (current, number) = (record.current(), head.number());
    if !head.signed_by(&current.record().manager().key) {
        return Err(Status::permission_denied(format!("revision {number} is not signed by the group's manager")));
    }
    if head.header().group != current.record().group {
        return Err(Status::permission_denied(format!("revision {number} is of group {}", head.header().group)));
    }
    Ok(())
}

/// Tells the manager of requests from outside the group; one that does not read misses some.
async fn tell_knocks(mut knocks: watch::Receiver<Option<String>>, answers: mpsc::Sender<Answer>) -> Infallible {
    loop {
        if knocks.changed().await.is_err() {
            return std::future::pending().await;
        }
        let who = knocks.borrow_and_update().clone().unwrap_or_default();
        let _ = answers.try_send(Ok(v1::Up { message: Some(up::Message::Knock(v1::Knock { who })) }));
    }
}

struct Session {
    number: u64,
    key: PublicKey,
    record: Arc<GroupRecord>,
    board: Arc<Board>,
    inputs: mpsc::Sender<Input>,
    answers: mpsc::Sender<Answer>,
    reach: watch::Receiver<v1::Balancers>,
    /// A pack was offered: slices may follow, those of one that was refused by now included.
    offered: bool,
    heard: watch::Sender<u64>,
    _open: Open,
}

impl Session {
    /// Passes messages on until the stream ends, breaks a rule (the manager is told which), or the member lets go of it.
    async fn run(mut self, downs: Streaming<v1::Down>, over: oneshot::Receiver<()>, stopped: impl Future<Output = ()>) {
        tracing::debug!(session = self.number, "a manager's stream begins");
        let mut current = self.record.follow();
        let key = self.key;
        let superseded = current.wait_for(|record| record.record().manager().key != key);
        // Cancelled with the connection, between two messages at the most.
        let knocks = tell_knocks(self.record.knocks(), self.answers.clone());
        let ended = tokio::select! {
            biased;
            _ = superseded => may_push(&self.record, key),
            ended = self.pass_on(downs) => ended,
            never = knocks => match never {},
            _ = over => Err(Status::aborted("another stream has taken the place of this one, or its answers are not read")),
            () = stopped => Err(Status::unavailable("the agent is stopping")),
        };
        tracing::debug!(session = self.number, ended = ended.as_ref().err().map(Status::message), "it ends");
        if let Err(status) = ended {
            // No room: whoever does not read will not read this.
            let _ = self.answers.try_send(Err(status));
        }
        let _ = self.pass(Input::Closed { session: self.number }).await;
    }

    async fn pass_on(&mut self, mut downs: Streaming<v1::Down>) -> Result<(), Status> {
        while let Some(down) = downs.message().await? {
            self.heard.send_modify(|heard| *heard += 1);
            if let Some(message) = down.message {
                self.handle(message).await?;
            }
        }
        Ok(())
    }

    async fn handle(&mut self, message: down::Message) -> Result<(), Status> {
        match &message {
            down::Message::Keepalive(keepalive) => {
                // Dropped when the way back is full: then other answers show that we live.
                let _ = self.answers.try_send(Ok(v1::Up { message: Some(up::Message::Keepalive(*keepalive)) }));
                self.tell_reach();
                return Ok(());
            }
            down::Message::Record(wire) => {
                take(&self.record, wire)?;
                return may_push(&self.record, self.key);
            }
            // The keepalive that follows is the manager's sign that it is kept.
            down::Message::Procedures(wire) => return self.keep(wire),
            down::Message::Hello(_) => return Err(Status::invalid_argument("a second hello")),
            down::Message::Head(head) => check_head(&self.record, head)?,
            down::Message::Offer(_) => self.offered = true,
            down::Message::Slice(slice) => self.check_slice(slice)?,
            down::Message::Supply(_) | down::Message::Verify(_) | down::Message::Sync(_) | down::Message::Fence(_) => {}
        }
        self.pass(Input::Down { session: self.number, message }).await
    }

    /// Keeps the progress of procedures, where this server may become manager.
    fn keep(&self, wire: &v1::SignedProcedures) -> Result<(), Status> {
        let current = self.record.current();
        let own = current.record().by_key(&self.record.own_key());
        if own.is_none_or(|own| !own.candidate) {
            return Ok(());
        }
        let signed = SignedDocument::from_wire(wire).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let taken = self.board.take(signed, current.record());
        taken.map_err(|e| Status::failed_precondition(format!("the procedures are not taken: {}", chain(&e))))
    }

    /// Tells what is new of the balancers: after a keepalive, when the manager has had this member's hello.
    fn tell_reach(&mut self) {
        if self.reach.has_changed().is_ok_and(|changed| changed) {
            let reach = self.reach.borrow_and_update().clone();
            if self.answers.try_send(Ok(v1::Up { message: Some(up::Message::Balancers(reach)) })).is_err() {
                // Full: told after another keepalive.
                self.reach.mark_changed();
            }
        }
    }

    fn check_slice(&self, slice: &v1::Slice) -> Result<(), Status> {
        if !self.offered {
            return Err(Status::invalid_argument("a slice of a pack that was not offered"));
        }
        if slice.data.is_empty() {
            return Err(Status::invalid_argument("a slice of no bytes"));
        }
        if slice.data.len() > limits::SLICE {
            let what = format!("a slice of {} bytes; the limit is {}", slice.data.len(), limits::SLICE);
            return Err(Status::invalid_argument(what));
        }
        Ok(())
    }

    async fn pass(&self, input: Input) -> Result<(), Status> {
        self.inputs.send(input).await.map_err(|_| Status::unavailable("the agent is stopping"))
    }
}
