//! The push stream as a member serves it: one task a stream checks who speaks and passes messages to the member's thread,
//! whose answers go back through a bounded channel. A newer stream takes the place of an older one.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bellwether_proto::{
    PROTOCOL,
    key::PublicKey,
    record::SignedRecord,
    v1::{self, down, push_server::Push, up},
};
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::Input;
use crate::{group::GroupRecord, tls};

/// Answers that may wait for the network. Each is small; the member's thread waits when the manager does not read.
const ANSWERS: usize = 64;

/// The push service of a member.
pub(crate) struct PushService {
    record: Arc<GroupRecord>,
    inputs: mpsc::Sender<Input>,
    stop: watch::Receiver<bool>,
    sessions: AtomicU64,
}

impl PushService {
    /// A service that feeds the member's thread, until `stop`.
    pub(crate) fn new(record: Arc<GroupRecord>, inputs: mpsc::Sender<Input>, stop: watch::Receiver<bool>) -> Self {
        Self { record, inputs, stop, sessions: AtomicU64::new(0) }
    }
}

#[tonic::async_trait]
impl Push for PushService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<v1::Up, Status>> + Send>>;

    async fn follow(&self, request: Request<Streaming<v1::Down>>) -> Result<Response<Self::FollowStream>, Status> {
        let key = tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let mut downs = request.into_inner();
        let Some(v1::Down { message: Some(down::Message::Hello(hello)) }) = downs.message().await? else {
            return Err(Status::invalid_argument("the first message is not a hello"));
        };
        greet(&self.record, key, &hello)?;
        let (answers, up) = mpsc::channel(ANSWERS);
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let session = Session { number, key, record: self.record.clone(), inputs: self.inputs.clone(), answers };
        session.pass(Input::Open { session: number, up: session.answers.clone() }).await?;
        if let Some(head) = hello.head {
            session.pass(Input::Down { session: number, message: down::Message::Head(head) }).await?;
        }
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            // At the end of the agent, too: the manager keeps the stream open, and with it the connection.
            let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
            session.run(downs, stopped).await;
        });
        use tokio_stream::StreamExt as _;
        Ok(Response::new(Box::pin(ReceiverStream::new(up).map(Ok))))
    }
}

/// Takes the manager's record, by its chain where this server was away, and checks that it is the manager who speaks.
fn greet(record: &GroupRecord, key: PublicKey, hello: &v1::DownHello) -> Result<(), Status> {
    if hello.protocol_min > PROTOCOL.1 || hello.protocol_max < PROTOCOL.0 {
        return Err(Status::failed_precondition(format!(
            "this server speaks protocols {} to {}, the manager {} to {}; bring both to neighbouring versions",
            PROTOCOL.0, PROTOCOL.1, hello.protocol_min, hello.protocol_max
        )));
    }
    let current = hello.record.as_ref().ok_or_else(|| Status::invalid_argument("a hello without a group record"))?;
    let held = record.current().record().version;
    for link in &hello.chain {
        let signed = SignedRecord::from_wire(link).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if signed.record().version > held {
            take(record, link)?;
        }
    }
    take(record, current)?;
    may_push(record, key)
}

fn take(record: &GroupRecord, wire: &v1::SignedRecord) -> Result<(), Status> {
    let signed = SignedRecord::from_wire(wire).map_err(|e| Status::invalid_argument(e.to_string()))?;
    record.take(signed).map_err(|e| Status::failed_precondition(format!("the group record is not taken: {e}")))
}

/// Only the manager of the record pushes, and only to a server that the record names.
fn may_push(record: &GroupRecord, key: PublicKey) -> Result<(), Status> {
    let current = record.current();
    let manager = current.record().manager();
    if manager.key != key {
        return Err(Status::permission_denied(format!("{key} is not the group's manager; that is {}", manager.name)));
    }
    if current.record().by_key(&record.own_key()).is_none() {
        return Err(Status::permission_denied("this server was removed from the group"));
    }
    Ok(())
}

struct Session {
    number: u64,
    key: PublicKey,
    record: Arc<GroupRecord>,
    inputs: mpsc::Sender<Input>,
    answers: mpsc::Sender<v1::Up>,
}

impl Session {
    /// Passes messages on until the stream ends or the agent stops, between two messages at the most.
    async fn run(self, downs: Streaming<v1::Down>, stopped: impl Future<Output = ()>) {
        tokio::select! {
            () = self.pass_on(downs) => {}
            () = stopped => {}
        }
        let _ = self.pass(Input::Closed { session: self.number }).await;
    }

    async fn pass_on(&self, mut downs: Streaming<v1::Down>) {
        while let Ok(Some(down)) = downs.message().await {
            let Some(message) = down.message else { continue };
            if self.handle(message).await.is_err() {
                return;
            }
        }
    }

    async fn handle(&self, message: down::Message) -> Result<(), Status> {
        match message {
            down::Message::Keepalive(keepalive) => {
                // Dropped when the way back is full: then other answers show that we live.
                let _ = self.answers.try_send(v1::Up { message: Some(up::Message::Keepalive(keepalive)) });
                Ok(())
            }
            down::Message::Record(wire) => {
                take(&self.record, &wire)?;
                may_push(&self.record, self.key)
            }
            down::Message::Hello(_) => Err(Status::invalid_argument("a second hello")),
            message => self.pass(Input::Down { session: self.number, message }).await,
        }
    }

    async fn pass(&self, input: Input) -> Result<(), Status> {
        self.inputs.send(input).await.map_err(|_| Status::unavailable("the agent is stopping"))
    }
}
