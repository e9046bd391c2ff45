//! The push stream on the member's side. One task for each stream carries its messages to the member's thread, and the
//! thread's answers go back through a bounded channel. A newer stream replaces an older one: each task holds the other end of
//! a channel that the member's thread drops to end the stream. The rules are in `greeting` and `incoming`.

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

/// The time limit for a stream's hello.
const HELLO: Duration = Duration::from_secs(10);
/// The time for which a live manager's stream may be silent: its keepalives are 5 s apart.
const ALIVE: Duration = Duration::from_secs(8);
/// The time limit of the wait for a change of this server's role.
const SETTLE: Duration = Duration::from_secs(10);

/// The push service. It checks the caller in any role, and only a member follows.
pub(crate) struct PushService {
    record: Arc<GroupRecord>,
    standing: watch::Receiver<Standing>,
    hints: mpsc::Sender<Hint>,
    procedure_store: Arc<ProcedureStore>,
    reach: watch::Receiver<v1::Balancers>,
    sessions: AtomicU64,
    /// Held while a hello is read that is not from the known manager.
    others: Semaphore,
    tickets: Tickets,
    /// The manager's stream that this server follows.
    live: Mutex<Option<Live>>,
}

/// A manager's stream, for the comparison with another hello of that manager.
#[derive(Clone)]
struct Live {
    leader: Leader,
    /// Counts the stream's messages, and ends with the stream.
    heard: watch::Receiver<u64>,
}

impl PushService {
    /// A service that feeds the member's thread while this server is a member. If the record in a hello cannot be followed,
    /// `hints` makes this server ask the others. The manager is told `reach`.
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
        // The manager keeps the stream open, and with it the connection, so the end of the role ends it.
        let mut stop = following.stop.clone();
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        let manager = self.record.current().record().manager().name.clone();
        let span = tracing::error_span!("stream", server = %manager);
        tokio::spawn(session.run(downs, over, stopped).instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(up))))
    }
}

impl PushService {
    /// Notes a caller from outside the group that claimed to be the manager.
    fn unknown(&self, peer: &tls::Peer) {
        if self.record.current().record().by_key(&peer.key).is_none() {
            self.record.knocked(&peer.key, peer.address, "to be obeyed as the manager");
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Live>> {
        locked(&self.live)
    }

    /// Refuses a copy of the manager that leads this server (W14): a hello with another incarnation, while the first one is
    /// alive. A dead manager's stream ends, and a live manager's stream has a message soon.
    async fn only_one(&self, peer: &tls::Peer, incarnation: u64) -> Result<(), Status> {
        let live = self.locked().clone();
        let Some(mut live) = live.filter(|live| live.leader.is_copied_by(&peer.key, incarnation)) else {
            return Ok(());
        };
        live.heard.mark_unchanged();
        match tokio::time::timeout(ALIVE, live.heard.changed()).await {
            Ok(Ok(())) => {
                // The original manager's monitor shows the address of the copy.
                self.record.knocked(&peer.key, peer.address, "to be obeyed, as a copy of the manager's machine");
                Err(live.leader.copied(incarnation).into())
            }
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Waits for the manager's hello. Unknown keys say hello one at a time, since one may be a new manager's.
    async fn hello(&self, key: PublicKey, downs: &mut Streaming<v1::Down>) -> Result<v1::DownHello, Status> {
        let known = self.record.current().record().manager().key == key;
        let busy = |_| Status::resource_exhausted("another server says hello at this moment; try again");
        let _turn = if known { None } else { Some(self.others.try_acquire().map_err(busy)?) };
        let hello = first(downs).await?;
        let greeted = greet(&self.record, key, &hello);
        if greeted.is_err() {
            // The channel is full, so there is a hint already.
            let _ = self.hints.try_send(Hint::Anyone);
        }
        greeted.map(|()| hello)
    }

    /// This server's role as a member, which it may have only since the record in the hello.
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

/// The first message of a stream, which has to be a hello and to come soon.
async fn first(downs: &mut Streaming<v1::Down>) -> Result<v1::DownHello, Status> {
    let late = |_| Status::deadline_exceeded(format!("no hello came within {} s", HELLO.as_secs()));
    match tokio::time::timeout(HELLO, downs.message()).await.map_err(late)?? {
        Some(v1::Down { message: Some(down::Message::Hello(hello)) }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message is not a hello")),
    }
}

/// Takes the manager's record, by its chain if this server was away, and checks that the caller is the manager.
fn greet(record: &GroupRecord, key: PublicKey, hello: &v1::DownHello) -> Result<(), Status> {
    let links = with(record, |here| greeting::links(here, hello, SignedRecord::from_wire))?;
    record.take_by(&links).map_err(|e| not_taken(&e))?;
    Ok(with(record, |here| greeting::check(here, &key, hello))?)
}

/// Applies a rule to this server and the record in force.
pub(super) fn with<T>(record: &GroupRecord, ask: impl FnOnce(Here<'_>) -> T) -> T {
    ask(Here { own: &record.own_key(), record: record.current().record() })
}

/// The refusal of a record. Its details tell a superseded manager of its successor.
pub(crate) fn not_taken(error: &TakeError) -> Status {
    let details = match error {
        TakeError::Refused(refused) => refused.details(),
        TakeError::Save(_) => bytes::Bytes::new(),
    };
    let what = format!("the group record is refused: {error}");
    Status::with_details(Code::FailedPrecondition, what, details)
}

/// Tells the manager of requests from outside the group. A manager that does not read misses some of them.
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
    /// Passes messages on until the stream ends, the member drops it, or it breaks a rule, which the manager is told.
    async fn run(mut self, downs: Streaming<v1::Down>, over: oneshot::Receiver<()>, stopped: impl Future<Output = ()>) {
        tracing::debug!(session = self.number, "a manager's stream begins");
        let mut current = self.record.follow();
        let key = self.key;
        let superseded = current.wait_for(|record| record.record().manager().key != key);
        // This is cancelled with the connection, at most between two messages.
        let knocks = tell_knocks(self.record.knocks(), self.answers.clone());
        let ended = tokio::select! {
            biased;
            _ = superseded => with(&self.record, |here| greeting::may_push(here, &key)).map_err(Status::from),
            ended = self.pass_on(downs) => ended,
            never = knocks => match never {},
            _ = over => Err(Status::aborted("another stream replaced this one, or its answers are not read")),
            () = stopped => Err(Status::unavailable("the agent is stopping")),
        };
        tracing::debug!(
            session = self.number,
            ended = ended.as_ref().err().map(Status::message),
            "a manager's stream ends"
        );
        if let Err(status) = ended {
            // If there is no room, the manager does not read, and this would not be read either.
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
                // If the channel is full, the answer is dropped, since the other answers show that this server is alive.
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
        taken.map_err(|e| Status::failed_precondition(format!("the procedures are refused: {}", chain(&e))))
    }

    /// Tells the manager of changes at the balancers, after a keepalive: by then the manager has this member's hello.
    fn tell_reach(&mut self) {
        if self.reach.has_changed().is_ok_and(|changed| changed) {
            let reach = self.reach.borrow_and_update().clone();
            if self.answers.try_send(Ok(v1::Up { message: Some(up::Message::Balancers(reach)) })).is_err() {
                // The channel is full, so the next keepalive tries again.
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
