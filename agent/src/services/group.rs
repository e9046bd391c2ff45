//! What other servers ask of the manager: to enter the group, to change or read a file, for the farm's status.

use std::{pin::Pin, sync::Arc};

use bellwether_proto::v1::{self, group_server::Group};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{Agent, Standing, refusal::refusal};
use crate::tls;

/// The service, for connections with mutual TLS.
pub(crate) struct GroupService(pub(crate) Arc<Agent>);

#[tonic::async_trait]
impl Group for GroupService {
    type PreviewStream = Pin<Box<dyn Stream<Item = Result<v1::PreviewPart, Status>> + Send>>;

    async fn preview(&self, request: Request<v1::EnterRequest>) -> Result<Response<Self::PreviewStream>, Status> {
        let key = tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let mut preview = self.0.manager()?.preview(&request.into_inner(), &key).await.map_err(refusal)?;
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
        let key = tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let record = self.0.manager()?.enter(&request.into_inner(), &key).await.map_err(refusal)?;
        let chain = self.0.record.chain().iter().map(|link| link.to_wire()).collect();
        Ok(Response::new(v1::EnterReply { record: Some(record.to_wire()), chain }))
    }

    async fn change(&self, request: Request<v1::ChangeRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        let server = self.0.authorise(tls::peer(&request))?;
        let mut request = request;
        request.get_mut().author = format!("{} at {server}", request.get_ref().author);
        self.0.change(request).await
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        self.0.authorise(tls::peer(&request))?;
        self.0.read(request).await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let server = self.0.authorise(tls::peer(&request))?;
        if let Standing::Manager(manager) = &self.0.standing {
            manager.heard(&server);
        }
        self.0.status().map(Response::new)
    }
}
