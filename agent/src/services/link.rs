//! A member's connection to its manager: for changes that were asked of the member (W5) and for the farm's status.

use std::{error::Error, sync::Arc};

use arc_swap::ArcSwap;
use bellwether_proto::{
    advice::{self, Advice, Outcome},
    key::{KeyPair, PublicKey},
    limits,
    v1::group_client::GroupClient,
};
use bellwether_store::tree::Tree;
use tokio::sync::Mutex;
use tonic::{
    Code, Request, Status,
    metadata::MetadataMap,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::refusal::refused;
use crate::{error::chain, group::GroupRecord, member::Hand, tls};

/// The manager's services, as asked over that connection.
pub(crate) type Client = GroupClient<InterceptedService<Channel, Card>>;

/// What every call says of its caller: how often its state was opened, so that a copy of its machine is told from it (W14).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Card(u64);

const START: &str = "bellwether-start";

impl Card {
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

impl Interceptor for Card {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.mark(&mut request);
        Ok(request)
    }
}

/// The connection, made when it is first needed and again when it was lost or the manager is another one.
pub(crate) struct ManagerLink {
    key: Arc<KeyPair>,
    record: Arc<GroupRecord>,
    channel: Mutex<Option<(PublicKey, Channel)>>,
    card: Card,
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
        Self { key, record, channel: Mutex::new(None), card: Card(incarnation), tree, hand }
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
            GroupClient::with_interceptor(channel, self.card)
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
        let held = self.channel.lock().await.is_some();
        match question(self.connected().await?).await {
            Err(status) if status.code() == Code::Unavailable => {
                *self.channel.lock().await = None;
                if held { question(self.connected().await?).await } else { Err(status) }
            }
            // Only what was made up on this side has a cause: the connection ended while the manager was asked.
            Err(status) if status.source().is_some() => {
                *self.channel.lock().await = None;
                tracing::debug!(error = chain(&status), "the connection to the manager ended");
                let text = "the connection to the manager ended before there was an answer";
                let advice = Advice::run("the request may be done all the same; see", "bellwether status");
                Err(advice::status(Code::Unavailable, Outcome::Failed, text, Some(&advice)))
            }
            answer => answer,
        }
    }

    async fn connected(&self) -> Result<Channel, Status> {
        let current = self.record.current();
        let manager = current.record().manager();
        let mut slot = self.channel.lock().await;
        let channel = match &*slot {
            Some((key, channel)) if *key == manager.key => channel.clone(),
            _ => {
                let channel = tls::connect(&self.key, &manager.address, manager.key).await.map_err(|error| {
                    let text = format!("the manager, {}, does not answer ({})", manager.name, chain(&error));
                    let advice = "settings can be changed again when it is back; what is served here goes on";
                    refused(Code::Unavailable, text, Advice::say(advice))
                })?;
                *slot = Some((manager.key, channel.clone()));
                channel
            }
        };
        Ok(channel)
    }
}
