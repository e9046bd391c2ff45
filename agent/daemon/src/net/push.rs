//! The push stream as a member serves it: one task a stream carries its messages to the member's thread, whose answers go back
//! through a bounded channel. A newer stream takes the place of an older one: each task holds the other end of a channel that
//! the member's thread drops when it lets go of the stream. The rules are in `greeting` and `incoming`.

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
use bellwether_manager::procedures::store::ProcedureStore;
use bellwether_member::{
    ANSWERS, Answer, Input, follower,
    greeting::{self, Here, Leader, Refused},
    incoming::{Heard, Incoming},
};
use bellwether_proto::{
    error::chain,
    key::PublicKey,
    record::SignedRecord,
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
    procedure_store: Arc<ProcedureStore>,
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
    leader: Leader,
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
        procedure_store: Arc<ProcedureStore>,
        reach: watch::Receiver<v1::Balancers>,
    ) -> Self {
        let (sessions, others) = (AtomicU64::new(0), Semaphore::new(1));
        let tickets = Tickets::new(record.clone());
        Self { record, standing, hints, procedure_store, reach, sessions, others, tickets, live: Mutex::new(None) }
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
        let following = self.following().await?;
        self.only_one(&peer, hello.incarnation).await?;
        let ticket = self.tickets.take(&hello).await?;
        let (answers, up) = mpsc::channel(ANSWERS);
        let (held, over) = oneshot::channel();
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let (record, inputs, open) = (self.record.clone(), following.inputs.clone(), following.enter());
        let procedure_store = self.procedure_store.clone();
        let mut reach = self.reach.clone();
        reach.mark_changed();
        let (heard_to, heard) = watch::channel(0);
        *self.locked() = Some(Live { leader: Leader { key, incarnation: hello.incarnation }, heard });
        let session = Session {
            number,
            key,
            incoming: Incoming::new(key),
            record,
            procedure_store,
            inputs,
            answers,
            reach,
            heard: heard_to,
            _open: open,
        };
        session.pass(Input::Open { session: number, key, ticket, up: session.answers.clone(), held }).await?;
        if let Some(head) = hello.head {
            session.said(down::Message::Head(head)).await?;
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
        let Some(mut live) = live.filter(|live| live.leader.is_copied_by(&peer.key, incarnation)) else {
            return Ok(());
        };
        live.heard.mark_unchanged();
        match tokio::time::timeout(ALIVE, live.heard.changed()).await {
            Ok(Ok(())) => {
                // The living one's monitor names it.
                self.record.knocked(&peer.key, peer.address, "to be obeyed, as a copy of the manager's machine");
                Err(live.leader.copied(incarnation).into())
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
    let links = with(record, |here| greeting::links(here, hello, SignedRecord::from_wire))?;
    record.take_by(&links).map_err(|e| not_taken(&e))?;
    Ok(with(record, |here| greeting::check(here, &key, hello))?)
}

/// Asks a rule about this server as the record in force has it.
pub(super) fn with<T>(record: &GroupRecord, ask: impl FnOnce(Here<'_>) -> T) -> T {
    ask(Here { own: &record.own_key(), record: record.current().record() })
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
    procedure_store: Arc<ProcedureStore>,
    inputs: mpsc::Sender<Input>,
    answers: mpsc::Sender<Answer>,
    incoming: Incoming,
    reach: watch::Receiver<v1::Balancers>,
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
            _ = superseded => with(&self.record, |here| greeting::may_push(here, &key)).map_err(Status::from),
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
        let _ = self.pass(Input::Happens(follower::Input::Closed(self.number))).await;
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
        match with(&self.record, |here| self.incoming.hear(here, message))? {
            Heard::Answer(keepalive) => {
                // Dropped when the way back is full: then other answers show that we live.
                let _ = self.answers.try_send(Ok(v1::Up { message: Some(up::Message::Keepalive(keepalive)) }));
                self.tell_reach();
                Ok(())
            }
            Heard::Take(wire) => {
                let signed = SignedRecord::from_wire(&wire).map_err(Refused::from)?;
                self.record.take(signed).map_err(|e| not_taken(&e))?;
                Ok(with(&self.record, |here| self.incoming.may_go_on(here))?)
            }
            Heard::Keep(wire) => self.keep(&wire),
            Heard::Pass(message) => self.said(message).await,
            Heard::Ignore => Ok(()),
        }
    }

    /// Keeps the progress of procedures.
    fn keep(&self, wire: &v1::SignedProcedures) -> Result<(), Status> {
        let signed = SignedDocument::from_wire(wire).map_err(Refused::from)?;
        let taken = self.procedure_store.take(signed, self.record.current().record());
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

    async fn said(&self, message: down::Message) -> Result<(), Status> {
        self.pass(Input::Happens(follower::Input::Said(self.number, message))).await
    }

    async fn pass(&self, input: Input) -> Result<(), Status> {
        self.inputs.send(input).await.map_err(|_| Status::unavailable("the agent is stopping"))
    }
}
