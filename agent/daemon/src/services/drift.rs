//! Edits made on members (W3): shown, made a revision, or put back. A member answers for itself and asks the manager
//! about others. The manager asks the member in question over a connection of its own. A member obeys only its manager
//! and the commands on its own machine.

mod edits;
mod keep;

use std::{pin::Pin, sync::Arc, time::Duration};

use bellwether_group::edits::GroupRefused;
use bellwether_member::{Hand, PutBack};
use bellwether_proto::{
    advice::Advice,
    entry::EntryPath,
    error::chain,
    key::KeyPair,
    limits,
    name::{ServerName, SetName},
    record::{Role, Server},
    v1::{self, edited_client::EditedClient, edited_server::Edited},
};
use bellwether_store::secret::SecretPaths;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::{
    Agent,
    refusal::{of, refusal, refused},
};
use crate::{
    drift,
    net::tls,
    run::role::{Following, Standing},
};
/// The time that another server has to answer.
const PATIENCE: Duration = Duration::from_secs(60);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;
type Client = EditedClient<Channel>;

/// The side from which a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A command on this machine.
    Command,
    /// Another server.
    Server,
}

/// A caller, with its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// May ask anything.
    Command,
    /// May ask a member about that member.
    Manager,
    /// May ask the manager only.
    Other,
}

/// The service, for both sides.
#[derive(Clone)]
pub(crate) struct DriftService {
    agent: Arc<Agent>,
    key: Arc<KeyPair>,
    keeps: keep::Keeps,
    caller: Caller,
}

/// The server that answers.
enum Way {
    /// This server, which is the member in question.
    Here(Hand),
    /// The member in question, asked by this manager.
    Member(Server),
    /// The manager, asked by this member.
    Manager(Arc<Following>),
}

impl DriftService {
    /// The service for commands on this machine.
    pub(crate) fn new(agent: Arc<Agent>, key: Arc<KeyPair>) -> Self {
        Self { agent, key, keeps: keep::Keeps::default(), caller: Caller::Command }
    }

    /// The same service for another caller.
    pub(crate) fn asked_by(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    fn own_name(&self) -> ServerName {
        self.agent.farm.borrow().observer.clone()
    }

    /// Identifies the caller by the request's connection.
    ///
    /// # Errors
    /// It is not a server of the group, or a member does not answer it.
    async fn authorise<T>(&self, request: &Request<T>) -> Result<Asker, Status> {
        let asker = match self.caller {
            Caller::Command => Asker::Command,
            Caller::Server => {
                let server = self.agent.authorise(tls::peer(request))?;
                let leads = self.agent.record.current().record().manager().name == server;
                if leads { Asker::Manager } else { Asker::Other }
            }
        };
        match (self.agent.settled().await, asker) {
            (Standing::Changing, _) => Err(super::changing()),
            (Standing::Halted(why), _) => Err(super::halted(&why)),
            (Standing::Member(_), Asker::Other) => Err(self.only_the_manager()),
            (Standing::Manager(_), _) | (Standing::Member(_), Asker::Command | Asker::Manager) => Ok(asker),
        }
    }

    fn only_the_manager(&self) -> Status {
        let current = self.agent.record.current();
        let manager = current.record().manager();
        let text = format!("only the manager, {}, asks a member about its edits", manager.name);
        refused(Code::PermissionDenied, text, Advice::say(format!("ask it there ({})", manager.address)))
    }

    async fn way(&self, asker: Asker, server: &str) -> Result<Way, Status> {
        let own = self.own_name();
        let name: ServerName = if server.is_empty() {
            own.clone()
        } else {
            server.parse().map_err(refusal::<bellwether_proto::Malformed>)?
        };
        match (self.agent.settled().await, asker) {
            (Standing::Changing, _) => Err(super::changing()),
            (Standing::Halted(why), _) => Err(super::halted(&why)),
            (Standing::Manager(_), _) => Ok(Way::Member(self.member(&name)?)),
            // This server's role may have changed since the request came.
            (Standing::Member(_), Asker::Other) => Err(self.only_the_manager()),
            (Standing::Member(following), _) if name == own => Ok(Way::Here(following.link.hand.clone())),
            (Standing::Member(following), Asker::Command) => Ok(Way::Manager(following)),
            (Standing::Member(_), Asker::Manager) => {
                Err(Status::failed_precondition(format!("this server is {own}, not {name}")))
            }
        }
    }

    fn member(&self, name: &ServerName) -> Result<Server, Status> {
        let current = self.agent.record.current();
        match current.record().server(name) {
            Some(server) if server.role == Role::Member => Ok(server.clone()),
            Some(server) if server.role == Role::Manager => Err(Status::failed_precondition(format!(
                "{name} is the manager: its edits are published, and are not drift"
            ))),
            Some(_) => Err(refusal(GroupRefused::Disabled(name.clone()))),
            None => Err(refusal(GroupRefused::Unknown(name.clone()))),
        }
    }

    async fn dial(&self, server: &Server) -> Result<Client, Status> {
        let channel = tls::connect(&self.key, &server.address, server.key).await.map_err(|error| {
            let text = format!("{} does not answer ({})", server.name, chain(&error));
            refused(Code::Unavailable, text, None)
        })?;
        Ok(client(channel))
    }

    async fn show_one(
        &self,
        asker: Asker,
        server: &ServerName,
        places: &[v1::Place],
    ) -> Result<v1::ServerDrift, Status> {
        let shown = match self.way(asker, server.as_str()).await? {
            Way::Here(hand) => self.show_here(&hand, places).await?,
            Way::Member(member) => {
                let request = v1::DriftRequest { servers: vec![server.to_string()], places: places.to_vec() };
                let mut client = self.dial(&member).await?;
                let answer = async { client.show(request).await?.into_inner().message().await };
                in_time(server, answer).await?.ok_or_else(|| Status::internal(format!("{server} gave no answer")))?
            }
            Way::Manager(following) => {
                let request = v1::DriftRequest { servers: vec![server.to_string()], places: places.to_vec() };
                let ask = |channel| {
                    let request = request.clone();
                    async move { client(channel).show(request).await?.into_inner().message().await }
                };
                let shown = following.link.ask_over(ask).await?;
                shown.ok_or_else(|| Status::internal("the manager gave no answer"))?
            }
        };
        Ok(v1::ServerDrift { server: server.to_string(), ..shown })
    }

    /// The places of a request, checked to be in sets of the group.
    fn places(&self, wire: &[v1::Place]) -> Result<Vec<(SetName, EntryPath)>, Status> {
        let places = drift::places(wire).map_err(refusal)?;
        let current = self.agent.record.current();
        let known = |set: &SetName| current.record().policy.sets.iter().any(|rules| rules.name == *set);
        match places.iter().find(|(set, _)| !known(set)) {
            Some((set, _)) => Err(refusal(GroupRefused::NoSet(set.clone()))),
            None => Ok(places),
        }
    }

    async fn show_here(&self, hand: &Hand, places: &[v1::Place]) -> Result<v1::ServerDrift, Status> {
        let places = drift::places(places).map_err(refusal)?;
        let looked = hand.look().await.map_err(refusal)?;
        let recovery = self.agent.recovery.clone();
        let secrets = SecretPaths::new(&self.agent.record.current().record().policy.secret);
        let shown = move || drift::server_drift(&looked, &places, &secrets, &recovery);
        tokio::task::spawn_blocking(shown).await.map_err(|e| Status::internal(e.to_string()))
    }

    /// The servers to ask if the request names none: a member itself, or at the manager those with known edits.
    fn drifted(&self) -> Vec<ServerName> {
        match self.agent.standing() {
            Standing::Member(_) | Standing::Halted(_) | Standing::Changing => vec![self.own_name()],
            Standing::Manager(_) => {
                let farm = self.agent.farm.borrow();
                let drifted = farm.servers.iter().filter(|server| server.drift_entries > 0);
                drifted.map(|server| server.name.clone()).collect()
            }
        }
    }

    async fn show_all(
        self,
        asker: Asker,
        request: v1::DriftRequest,
        to: mpsc::Sender<Result<v1::ServerDrift, Status>>,
    ) {
        let names = match request.servers.is_empty() {
            true => Ok(self.drifted()),
            false => request.servers.iter().map(|name| name.parse()).collect::<Result<Vec<ServerName>, _>>(),
        };
        let names = match names {
            Ok(names) => names,
            Err(error) => return drop(to.send(Err(refusal(error))).await),
        };
        for name in names {
            let shown = self.show_one(asker, &name, &request.places).await.unwrap_or_else(|status| v1::ServerDrift {
                server: name.to_string(),
                error: status.message().to_owned(),
                ..v1::ServerDrift::default()
            });
            if to.send(Ok(shown)).await.is_err() {
                return;
            }
        }
    }
}

fn client(channel: Channel) -> Client {
    EditedClient::new(channel).max_decoding_message_size(limits::MESSAGE).max_encoding_message_size(limits::MESSAGE)
}

async fn in_time<T>(server: &ServerName, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|status| of(server, &status)),
        Err(_) => Err(Status::deadline_exceeded(format!("{server} did not answer within {} s", PATIENCE.as_secs()))),
    }
}

fn reverted(done: PutBack) -> v1::RevertReply {
    v1::RevertReply {
        revision: done.revision.to_string(),
        entries: done.lines.len() as u64,
        first: drift::first(done.lines),
        kept: drift::first(done.kept),
    }
}

#[tonic::async_trait]
impl Edited for DriftService {
    type ShowStream = Answers<v1::ServerDrift>;
    type EditsStream = Answers<v1::EditsPart>;

    async fn show(&self, request: Request<v1::DriftRequest>) -> Answer<Self::ShowStream> {
        let asker = self.authorise(&request).await?;
        let (to, from) = mpsc::channel(1);
        tokio::spawn(self.clone().show_all(asker, request.into_inner(), to));
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn keep(&self, request: Request<v1::KeepRequest>) -> Answer<v1::KeepReply> {
        self.authorise(&request).await?;
        let peer = tls::peer(&request).map(|peer| peer.key);
        let mut keep = request.into_inner();
        match peer.and_then(|key| self.agent.record.current().record().by_key(&key).map(|s| s.name.clone())) {
            Some(server) => keep.author = format!("{} at {server}", keep.author),
            None if matches!(self.agent.settled().await, Standing::Manager(_)) => {
                keep.author = self.agent.author_here(&keep.author);
            }
            None => {}
        }
        self.places(&keep.places)?;
        match self.agent.settled().await {
            Standing::Changing => Err(super::changing()),
            Standing::Halted(why) => Err(super::halted(&why)),
            Standing::Manager(manager) => {
                let name = keep.server.parse().map_err(refusal::<bellwether_proto::Malformed>)?;
                let member = self.member(&name)?;
                self.keep_from(&manager, &member, keep).await.map(Response::new)
            }
            Standing::Member(following) if self.caller == Caller::Command => {
                self.agent.fit_for_changes()?;
                if keep.server.is_empty() {
                    keep.server = self.own_name().to_string();
                }
                let ask = |channel| {
                    let keep = keep.clone();
                    async move { client(channel).keep(keep).await }
                };
                following.link.ask_over(ask).await
            }
            Standing::Member(_) => Err(Status::failed_precondition("edits become a revision at the manager only")),
        }
    }

    async fn revert(&self, request: Request<v1::RevertRequest>) -> Answer<v1::RevertReply> {
        let asker = self.authorise(&request).await?;
        let revert = request.into_inner();
        let places = self.places(&revert.places)?;
        match self.way(asker, &revert.server).await? {
            Way::Here(hand) => {
                let done = hand.put_back(places, revert.dry_run).await.map_err(refusal)?;
                if !revert.dry_run && !done.lines.is_empty() {
                    let v1::RevertRequest { author, .. } = &revert;
                    tracing::info!(
                        author,
                        entries = done.lines.len(),
                        kept = done.kept.join(", "),
                        "edits were put back"
                    );
                }
                Ok(Response::new(reverted(done)))
            }
            Way::Member(member) => {
                let mut client = self.dial(&member).await?;
                in_time(&member.name, client.revert(revert)).await
            }
            Way::Manager(following) => {
                let ask = |channel| {
                    let revert = revert.clone();
                    async move { client(channel).revert(revert).await }
                };
                following.link.ask_over(ask).await
            }
        }
    }

    async fn edits(&self, request: Request<v1::EditsRequest>) -> Answer<Self::EditsStream> {
        let asker = self.authorise(&request).await?;
        let places = drift::places(&request.into_inner().places).map_err(refusal)?;
        let Way::Here(hand) = self.way(asker, "").await? else {
            return Err(Status::failed_precondition("the manager has no drift: its edits are published"));
        };
        let (to, from) = mpsc::channel(2);
        tokio::spawn(edits::send(hand, places, to));
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn kept(&self, request: Request<v1::KeptRequest>) -> Answer<v1::KeptReply> {
        let asker = self.authorise(&request).await?;
        let edits = drift::from_wire(request.into_inner().edits).map_err(refusal)?;
        let Way::Here(hand) = self.way(asker, "").await? else {
            return Err(Status::failed_precondition("the manager has no drift: its edits are published"));
        };
        hand.given(edits).await.map_err(refusal)?;
        Ok(Response::new(v1::KeptReply {}))
    }
}
