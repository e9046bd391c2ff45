//! What other servers ask of the manager: to enter the group, to change or read a file, for the farm's status.

use std::{pin::Pin, sync::Arc};

use bellwether_proto::v1::{self, group_server::Group};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{Agent, admin::refusal};
use crate::tls;

/// The service, for connections with mutual TLS.
pub(crate) struct GroupService(pub(crate) Arc<Agent>);

#[tonic::async_trait]
impl Group for GroupService {
    type PreviewStream = Pin<Box<dyn Stream<Item = Result<v1::PreviewPart, Status>> + Send>>;

    async fn preview(&self, request: Request<v1::EnterRequest>) -> Result<Response<Self::PreviewStream>, Status> {
        let key = tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let parts = self.0.manager()?.preview(&request.into_inner(), key).await.map_err(refusal)?;
        Ok(Response::new(Box::pin(parts.map(|part| {
            part.map(|pack| v1::PreviewPart { pack }).map_err(|e| Status::internal(crate::error::chain(&e)))
        }))))
    }

    async fn enter(&self, request: Request<v1::EnterRequest>) -> Result<Response<v1::EnterReply>, Status> {
        let key = tls::peer(&request).ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let record = self.0.manager()?.enter(&request.into_inner(), key).await.map_err(refusal)?;
        let chain = self.0.record.chain().iter().map(|link| link.to_wire()).collect();
        Ok(Response::new(v1::EnterReply { record: Some(record.to_wire()), chain }))
    }

    async fn change(&self, request: Request<v1::ChangeRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        let server = self.0.authorise(tls::peer(&request))?;
        let mut change = request.into_inner();
        change.author = format!("{} at {server}", change.author);
        self.0.manager()?.change(change).await.map(Response::new).map_err(refusal)
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        self.0.authorise(tls::peer(&request))?;
        self.0.manager()?.read(request.into_inner()).await.map(Response::new).map_err(refusal)
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        self.0.authorise(tls::peer(&request))?;
        self.0.status().map(Response::new)
    }
}
