//! A member's connection to its manager: for changes that were asked of the member (W5) and for the farm's status.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bellwether_member::Hand;
use bellwether_proto::{
    advice::{self, Advice, Outcome},
    error::chain,
    key::{KeyPair, PublicKey},
    limits,
    v1::{self, group_client::GroupClient},
};
use bellwether_store::{state::record::GroupRecord, tree::Tree};
use tokio::{sync::Mutex, time::timeout};
use tonic::{
    Code, Request, Status,
    metadata::MetadataMap,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::refusal::refused;
use crate::net::tls;

/// The manager's services, as asked over that connection.
pub(crate) type Client = GroupClient<InterceptedService<Channel, StartHeader>>;

/// What every call says of its caller: how often its state was opened, so that a copy of its machine is told from it (W14).
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartHeader(u64);

const START: &str = "bellwether-start";

impl StartHeader {
    /// That of the start of this number.
    pub(crate) fn new(incarnation: u64) -> Self {
        Self(incarnation)
    }

    /// Puts it on a call.
    pub(crate) fn mark<T>(self, request: &mut Request<T>) {
        request.metadata_mut().insert(START, self.0.into());
    }

    /// What a call says.
    pub(crate) fn of(metadata: &MetadataMap) -> Option<u64> {
        metadata.get(START)?.to_str().ok()?.parse().ok()
    }
}

impl Interceptor for StartHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.mark(&mut request);
        Ok(request)
    }
}

/// How long the manager may take to show that it lives, a new connection included (W11).
const PATIENCE: Duration = Duration::from_secs(4);
/// Of that, how long it may take over a connection that is open already.
const PING: Duration = Duration::from_secs(2);
/// A manager that answered so short a time ago is not asked whether it lives.
const FRESH: Duration = Duration::from_secs(1);

/// A connection, and when the manager last answered over it.
struct Held {
    key: PublicKey,
    channel: Channel,
    answered: Instant,
}

/// The connection, made when it is first needed and again when it was lost or the manager is another one.
pub(crate) struct ManagerLink {
    key: Arc<KeyPair>,
    record: Arc<GroupRecord>,
    held: Mutex<Option<Held>>,
    start_header: StartHeader,
    /// The tree of the revision that this member holds.
    pub(crate) tree: Arc<ArcSwap<Tree>>,
    /// Asks this member itself.
    pub(crate) hand: Hand,
}

impl ManagerLink {
    /// Connects to nothing yet.
    pub(crate) fn new(
        key: Arc<KeyPair>,
        record: Arc<GroupRecord>,
        tree: Arc<ArcSwap<Tree>>,
        hand: Hand,
        incarnation: u64,
    ) -> Self {
        Self { key, record, held: Mutex::new(None), start_header: StartHeader(incarnation), tree, hand }
    }

    /// Asks the manager. A connection that turns out to be lost is made again, once.
    ///
    /// # Errors
    /// The manager's answer, or that it does not answer (W11).
    pub(crate) async fn ask<T, F>(&self, mut question: impl FnMut(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let client = |channel| {
            GroupClient::with_interceptor(channel, self.start_header)
                .max_decoding_message_size(limits::MESSAGE)
                .max_encoding_message_size(limits::MESSAGE)
        };
        self.ask_over(|channel| question(client(channel))).await
    }

    /// The same, of any of its services.
    ///
    /// # Errors
    /// As [`ManagerLink::ask`].
    pub(crate) async fn ask_over<T, F>(&self, mut question: impl FnMut(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let held = self.held.lock().await.is_some();
        let answer = match question(self.lively().await?).await {
            Err(status) if status.code() == Code::Unavailable => {
                *self.held.lock().await = None;
                if held { question(self.lively().await?).await } else { Err(status) }
            }
            // Only what was made up on this side has a cause: the connection ended while the manager was asked.
            Err(status) if status.source().is_some() => {
                *self.held.lock().await = None;
                tracing::debug!(error = chain(&status), "the connection to the manager ended");
                let text = "the connection to the manager ended before there was an answer";
                let advice = Advice::run("the request may be done all the same; see", "bellwether status");
                return Err(advice::status(Code::Unavailable, Outcome::Failed, text, Some(&advice)));
            }
            answer => answer,
        };
        if let (Ok(_), Some(held)) = (&answer, self.held.lock().await.as_mut()) {
            held.answered = Instant::now();
        }
        answer
    }

    /// A connection over which the manager has just shown that it lives: what is asked of a manager that is suspended would
    /// be done when it wakes, long after its caller was told that it was not.
    ///
    /// # Errors
    /// It does not answer; nothing was asked of it.
    async fn lively(&self) -> Result<Channel, Status> {
        let late = |_| Err(self.away(&format!("no answer within {} s", PATIENCE.as_secs())));
        let answer = timeout(PATIENCE, self.connected()).await.unwrap_or_else(late);
        if answer.is_err() {
            // Whoever holds it asks already, and drops it for the same reason.
            if let Ok(mut held) = self.held.try_lock() {
                *held = None;
            }
        }
        answer
    }

    async fn connected(&self) -> Result<Channel, Status> {
        let current = self.record.current();
        let manager = current.record().manager();
        let mut slot = self.held.lock().await;
        if let Some(held) = slot.as_mut().filter(|held| held.key == manager.key) {
            if held.answered.elapsed() < FRESH {
                return Ok(held.channel.clone());
            }
            let mut client = GroupClient::with_interceptor(held.channel.clone(), self.start_header);
            match timeout(PING, client.ping(v1::PingRequest {})).await {
                // Whatever it says: it lives.
                Ok(Ok(_)) => {
                    held.answered = Instant::now();
                    return Ok(held.channel.clone());
                }
                Ok(Err(status)) if status.code() != Code::Unavailable && status.source().is_none() => {
                    return Ok(held.channel.clone());
                }
                // The connection is lost: another one is made.
                Ok(Err(_)) => {}
                Err(_) => {
                    *slot = None;
                    return Err(self.away(&format!("no answer within {} s", PING.as_secs())));
                }
            }
        }
        let connecting = tls::connect(&self.key, &manager.address, manager.key);
        let channel = connecting.await.map_err(|error| self.away(&chain(&error)))?;
        *slot = Some(Held { key: manager.key, channel: channel.clone(), answered: Instant::now() });
        Ok(channel)
    }

    fn away(&self, why: &str) -> Status {
        let current = self.record.current();
        let text = format!("the manager, {}, does not answer ({why})", current.record().manager().name);
        let advice = "settings can be changed again when it is back; what is served here goes on";
        refused(Code::Unavailable, text, Advice::say(advice))
    }
}
