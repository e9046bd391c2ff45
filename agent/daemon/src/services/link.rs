//! A member's connection to its manager: for changes that were requested at the member (W5), and for the farm's status.

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

/// The manager's services over that connection.
pub(crate) type Client = GroupClient<InterceptedService<Channel, StartHeader>>;

/// The caller's incarnation, as a header of every call. It tells a server from a copy of its machine (W14).
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartHeader(u64);

const START: &str = "bellwether-start";

impl StartHeader {
    /// For that incarnation.
    pub(crate) fn new(incarnation: u64) -> Self {
        Self(incarnation)
    }

    /// Adds the header to a call.
    pub(crate) fn mark<T>(self, request: &mut Request<T>) {
        request.metadata_mut().insert(START, self.0.into());
    }

    /// The header of a call.
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

/// The time that the manager has to show that it is alive, a new connection included (W11).
const PATIENCE: Duration = Duration::from_secs(4);
/// The part of that time for a connection that is open already.
const PING: Duration = Duration::from_secs(2);
/// A manager that answered this recently is not pinged.
const FRESH: Duration = Duration::from_secs(1);

/// A connection, and the time of the manager's last answer over it.
struct Held {
    key: PublicKey,
    channel: Channel,
    answered: Instant,
}

/// The connection. It is made when it is needed, and made again after it was lost or the manager changed.
pub(crate) struct ManagerLink {
    key: Arc<KeyPair>,
    record: Arc<GroupRecord>,
    held: Mutex<Option<Held>>,
    start_header: StartHeader,
    /// The tree of the revision that this member holds.
    pub(crate) tree: Arc<ArcSwap<Tree>>,
    /// Access to this member itself.
    pub(crate) hand: Hand,
}

impl ManagerLink {
    /// Does not connect yet.
    pub(crate) fn new(
        key: Arc<KeyPair>,
        record: Arc<GroupRecord>,
        tree: Arc<ArcSwap<Tree>>,
        hand: Hand,
        incarnation: u64,
    ) -> Self {
        Self { key, record, held: Mutex::new(None), start_header: StartHeader(incarnation), tree, hand }
    }

    /// Asks the manager. A lost connection is made again once.
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

    /// As [`ManagerLink::ask`], for any of the manager's services.
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
            // Only a status that was made on this side has a source: the connection ended during the request.
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

    /// A connection over which the manager has just shown that it is alive. A suspended manager would carry out a
    /// request when it wakes, long after the caller was told that it failed.
    ///
    /// # Errors
    /// The manager does not answer; nothing was requested.
    async fn lively(&self) -> Result<Channel, Status> {
        let late = |_| Err(self.away(&format!("no answer within {} s", PATIENCE.as_secs())));
        let answer = timeout(PATIENCE, self.connected()).await.unwrap_or_else(late);
        if answer.is_err() {
            // Another holder of the lock is pinging already, and drops the connection for the same reason.
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
                // Any answer shows that the manager is alive.
                Ok(Ok(_)) => {
                    held.answered = Instant::now();
                    return Ok(held.channel.clone());
                }
                Ok(Err(status)) if status.code() != Code::Unavailable && status.source().is_none() => {
                    return Ok(held.channel.clone());
                }
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
        let advice = "settings can be changed again when it is back; this server goes on serving";
        refused(Code::Unavailable, text, Advice::say(advice))
    }
}
