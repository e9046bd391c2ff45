//! Checks the caller before anything of a request is read. Servers of the group pass. Others, mostly joiners, may ask
//! to enter (and to be the new manager of a member that was away, see [`bellwether_member`]), within limits of number,
//! size and time. So no caller without a key of the group costs its servers memory (invariant 6).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bellwether_proto::{limits, name::ServerName};
use bellwether_store::{
    quarantine,
    state::record::GroupRecord,
    underway::{Dealing, Suspect},
};
use http_body_util::Limited;
use tokio::sync::Semaphore;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::not_of_the_group;
use crate::net::tls::Peer;

/// The most requests of strangers at a time.
const STRANGERS: usize = 64;
/// The time that each has until its answer begins.
const DEADLINE: Duration = Duration::from_secs(10);
/// The call that strangers may make with any size: the stream's own task checks the caller.
const FOLLOW: &str = "/bellwether.v1.Push/Follow";
/// The call that tells a removed server that it was removed.
const RECORDS: &str = "/bellwether.v1.Group/Records";
/// The other calls that strangers may make.
const ENTRANCE: [&str; 3] =
    ["/bellwether.v1.Group/Preview", "/bellwether.v1.Group/DialBack", "/bellwether.v1.Group/Enter"];

/// Decides which calls a caller may make.
#[derive(Clone)]
pub(crate) struct Access {
    record: Arc<GroupRecord>,
    strangers: Arc<Semaphore>,
}

impl Access {
    /// Admits the servers of the present record.
    pub(crate) fn new(record: Arc<GroupRecord>) -> Self {
        Self { record, strangers: Arc::new(Semaphore::new(STRANGERS)) }
    }

    /// The decision for a stranger; none if the caller is known, or is checked later.
    fn judge(&self, request: &http::Request<Body>) -> Option<Result<(), Status>> {
        let path = request.uri().path();
        let Some(peer @ Peer { key, .. }) = request.extensions().get() else {
            return Some(Err(Status::unauthenticated("the connection has no key")));
        };
        let current = self.record.current();
        match current.record().by_key(key) {
            Some(server) if quarantine::holds(&peer_named(&server.name)) => {
                let peer = peer_named(&server.name);
                Some(Err(Status::unavailable(format!(
                    "{peer} is quarantined here: this agent ended three times while it dealt with it; let it in here: \
                     bellwether quarantine lift '{peer}'"
                ))))
            }
            Some(_) => None,
            None if path == FOLLOW => None,
            None if path == RECORDS && current.record().removed.iter().any(|server| server.key == *key) => Some(Ok(())),
            None if ENTRANCE.contains(&path) => Some(Ok(())),
            None => {
                self.record.knocked(&peer.key, peer.address, path.rsplit('/').next().unwrap_or(path));
                Some(Err(not_of_the_group(current.record(), key)))
            }
        }
    }
}

impl Access {
    /// The server of the group that calls.
    fn server(&self, request: &http::Request<Body>) -> Option<ServerName> {
        let Peer { key, .. } = request.extensions().get()?;
        self.record.current().record().by_key(key).map(|server| server.name.clone())
    }
}

fn peer_named(name: &ServerName) -> Suspect {
    Suspect::Peer(name.to_string())
}

impl<S> Layer<S> for Access {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { access: self.clone(), inner }
    }
}

/// Services behind the access check.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    access: Access,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.access.judge(&request) {
            None => {
                let dealing = self.access.server(&request).map(|name| Dealing::with(peer_named(&name)));
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await;
                    drop(dealing);
                    answer
                })
            }
            Some(Err(status)) => Box::pin(std::future::ready(Ok(status.into_http()))),
            Some(Ok(())) => {
                let Ok(turn) = self.access.strangers.clone().try_acquire_owned() else {
                    let busy = Status::resource_exhausted("too many servers ask to enter at once; try again");
                    return Box::pin(std::future::ready(Ok(busy.into_http())));
                };
                let answer = self.inner.call(request.map(|body| Body::new(Limited::new(body, limits::STRANGER))));
                Box::pin(async move {
                    let answer = tokio::time::timeout(DEADLINE, answer).await;
                    drop(turn);
                    let late = |_| Ok(Status::deadline_exceeded("the request did not come to its end").into_http());
                    answer.unwrap_or_else(late)
                })
            }
        }
    }
}
