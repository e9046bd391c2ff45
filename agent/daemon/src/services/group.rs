//! The calls of other servers. They ask the manager to enter the group, to change or read a file, and for the farm's
//! status. They ask any server for the group record, and for its state.

use std::{pin::Pin, sync::Arc, time::Duration};

use bellwether_proto::{
    advice::Advice,
    key::PublicKey,
    limits,
    name::ServerName,
    record::Version,
    revision::{Epoch, SignedHeader},
    v1::{self, group_server::Group},
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Agent,
    link::StartHeader,
    refusal::{refusal, refused},
};
use crate::{
    net::{peers, push::not_taken, tls},
    run::role::Standing,
};

/// The time that a server has to send its records.
const TELLING: Duration = Duration::from_secs(10);

/// The service, for connections with mutual TLS.
pub(crate) struct GroupService(pub(crate) Arc<Agent>);

impl GroupService {
    /// Checks that the caller is the server of that key, not a copy of its machine that runs beside it (W14).
    async fn judge_caller<T>(&self, server: &ServerName, request: &Request<T>) -> Result<(), Status> {
        let (Standing::Manager(manager), Some(start)) = (self.0.standing(), StartHeader::of(request.metadata())) else {
            return Ok(());
        };
        let whence = tls::peer(request).map_or_else(String::new, |peer| peer.address.to_string());
        manager.judge_caller(server, start, &whence).await.map_err(|copy| {
            let advice = Advice::say(
                "stop the copy's agent; to make a server of its own of it: bellwether leave, remove its key, then join \
                 under another name",
            );
            refused(Code::PermissionDenied, format!("this is {copy}"), advice)
        })
    }

    /// Lets the monitor name a copy that only asks for records, which it may have. The caller does not wait for this.
    fn name_copy<T>(&self, key: &PublicKey, request: &Request<T>) {
        let (Standing::Manager(manager), Some(start)) = (self.0.standing(), StartHeader::of(request.metadata())) else {
            return;
        };
        let current = self.0.record.current();
        let Some(server) = current.record().by_key(key).map(|server| server.name.clone()) else { return };
        let whence = tls::peer(request).map_or_else(String::new, |peer| peer.address.to_string());
        // It reports its own result; the runtime ends it.
        tokio::spawn(async move { drop(manager.judge_caller(&server, start, &whence).await) });
    }

    /// Warns, through the monitor, of a token that admits no server.
    fn not_admitted(&self, peer: &tls::Peer, status: &Status) {
        if status.code() == Code::PermissionDenied {
            self.0.record.knocked(&peer.key, peer.address, "to enter with a token that does not admit it");
        }
    }
}

#[tonic::async_trait]
impl Group for GroupService {
    type PreviewStream = Pin<Box<dyn Stream<Item = Result<v1::PreviewPart, Status>> + Send>>;
    type RecordsStream = Pin<Box<dyn Stream<Item = Result<v1::SignedRecord, Status>> + Send>>;

    async fn preview(&self, request: Request<v1::EnterRequest>) -> Result<Response<Self::PreviewStream>, Status> {
        let peer = *tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?;
        let preview = self.0.manager()?.preview(&request.into_inner(), &peer.key).await.map_err(refusal);
        let mut preview = preview.inspect_err(|status| self.not_admitted(&peer, status))?;
        let (to, from) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            while let Some(part) = preview.read_slice().transpose() {
                let part = part.map(|pack| v1::PreviewPart { pack }).map_err(|e| Status::internal(e.to_string()));
                let failed = part.is_err();
                if to.blocking_send(part).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn enter(&self, request: Request<v1::EnterRequest>) -> Result<Response<v1::EnterReply>, Status> {
        let peer = *tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?;
        let record = self.0.manager()?.enter(&request.into_inner(), &peer.key).await.map_err(refusal);
        let record = record.inspect_err(|status| self.not_admitted(&peer, status))?;
        let chain = self.0.record.chain().iter().map(|link| link.to_wire()).collect();
        Ok(Response::new(v1::EnterReply { record: Some(record.to_wire()), chain }))
    }

    async fn change(&self, request: Request<v1::ChangeRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        let server = self.0.authorise(tls::peer(&request))?;
        self.judge_caller(&server, &request).await?;
        let mut request = request;
        request.get_mut().author = format!("{} at {server}", request.get_ref().author);
        self.0.change(request).await
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        let server = self.0.authorise(tls::peer(&request))?;
        self.judge_caller(&server, &request).await?;
        self.0.read(request).await
    }

    async fn ping(&self, _: Request<v1::PingRequest>) -> Result<Response<v1::PingReply>, Status> {
        Ok(Response::new(v1::PingReply {}))
    }

    async fn dial_back(&self, request: Request<v1::EnterRequest>) -> Result<Response<v1::DialBackReply>, Status> {
        let peer = *tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?;
        let dialled = self.0.manager()?.dial_back(&request.into_inner(), &peer.key).await.map_err(refusal);
        dialled.inspect_err(|status| self.not_admitted(&peer, status))?;
        Ok(Response::new(v1::DialBackReply {}))
    }

    async fn depart(&self, request: Request<v1::DepartRequest>) -> Result<Response<v1::DepartReply>, Status> {
        let server = self.0.of_the_group(tls::peer(&request))?;
        self.0.leading()?.departed(&server);
        Ok(Response::new(v1::DepartReply {}))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let server = self.0.authorise(tls::peer(&request))?;
        self.judge_caller(&server, &request).await?;
        if let Standing::Manager(manager) = self.0.standing() {
            manager.heard(&server);
        }
        self.0.status().map(Response::new)
    }

    /// Any server of the group may read the record; a removed one may learn of its removal (see [`super::access`]).
    async fn records(&self, request: Request<v1::RecordsRequest>) -> Result<Response<Self::RecordsStream>, Status> {
        let key = tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        self.name_copy(&key, &request);
        let v1::RecordsRequest { epoch, version, at } = request.into_inner();
        let from = Version { epoch: Epoch(epoch), version };
        if let Some(at) = at.and_then(|at| SignedHeader::from_wire(at).ok()) {
            self.0.look_for_superseded(&key, from, &at);
        }
        let (since, (to, records)) = (self.0.record.since(from), mpsc::channel(1));
        tokio::spawn(async move {
            for record in since.iter() {
                if to.send(Ok(record.to_wire())).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(records))))
    }

    async fn tell(&self, request: Request<Streaming<v1::SignedRecord>>) -> Result<Response<v1::TellReply>, Status> {
        self.0.of_the_group(tls::peer(&request))?;
        let busy = |_| Status::resource_exhausted("others tell their records at this moment; try again");
        let turn = self.0.telling.try_acquire().map_err(busy)?;
        let links = tokio::time::timeout(TELLING, peers::collect(request.into_inner())).await;
        let links = links.map_err(|_| Status::deadline_exceeded("the records did not come to their end"))??;
        self.0.record.take_by(&links).map_err(|e| not_taken(&e))?;
        drop(turn);
        let held = self.0.record.current().record().version;
        // The server that handed over waits for this.
        let leads = self.0.record.is_led_here() && self.0.leads(held.epoch).await;
        let Version { epoch: Epoch(epoch), version } = held;
        Ok(Response::new(v1::TellReply { epoch, version, leads }))
    }

    async fn survey(&self, request: Request<v1::SurveyRequest>) -> Result<Response<v1::SurveyReply>, Status> {
        let asks = self.0.of_the_group(tls::peer(&request))?;
        let current = self.0.record.current();
        let Version { epoch: Epoch(epoch), version } = current.record().version;
        let promotes = self.0.peers.promotes();
        let (at, seen, follows, leads) = match self.0.standing() {
            Standing::Changing => return Err(super::changing()),
            Standing::Halted(_) => (None, Vec::new(), false, false),
            Standing::Manager(manager) => (Some(manager.head()), manager.newest(limits::SEEN), false, true),
            Standing::Member(following) => {
                // The manager itself has another purpose, and little time.
                let asked = asks == current.record().manager().name;
                let follows = following.is_led() && (asked || self.0.peers.manager_answers().await);
                (self.0.seen.at(), self.0.seen.newest(), follows, false)
            }
        };
        let (at, seen) = (at.as_ref().map(SignedHeader::to_wire), seen.iter().map(SignedHeader::to_wire).collect());
        Ok(Response::new(v1::SurveyReply { epoch, version, at, seen, follows, leads, promotes }))
    }
}
