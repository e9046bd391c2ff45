//! The `http` port: readiness for balancers, metrics, the status as JSON, and a page for people.
//!
//! The port is read-only and asks for no identity: any client may see the status. The status code answers a balancer's
//! check; the body explains. Balancers may use any host name, other requests only this server's ([`Names`]).

mod names;

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bellwether_proto::{ready::Ready, status::FarmStatus};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    farm::NO_RECORD,
    listening::{Bounds, ConnectionSlot, ConnectionSlots, accept},
    metrics,
};
pub use names::Names;

/// The largest number of connections.
pub const BOUNDS: Bounds = Bounds { all: 128, each: 64 };
/// The time limit for an idle connection and for the head of a request.
const HEAD: Duration = Duration::from_secs(20);
/// The largest number of bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;
/// The time for which an open connection may keep [`serve`] from ending.
const GRACE: Duration = Duration::from_secs(2);

const PAGE: &str = include_str!("../page.html");

/// The page sends no request to any other host.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The source of the shown status.
pub trait Farm: Send + Sync + 'static {
    /// The farm as this server itself knows it.
    fn own(&self) -> Arc<FarmStatus>;

    /// The whole farm: at a member, with the manager's report of the others, for which it may ask.
    fn whole(&self) -> Pin<Box<dyn Future<Output = Arc<FarmStatus>> + Send + '_>>;
}

#[derive(Clone)]
struct Shown {
    farm: Arc<dyn Farm>,
    ready: watch::Receiver<Ready>,
}

/// Serves `/live`, `/ready` and `/manager`; under `names` also `/status`, `/metrics` and the page at `/`.
pub fn router(names: Names, farm: Arc<dyn Farm>, ready: watch::Receiver<Ready>) -> Router {
    let for_balancers =
        Router::new().route("/live", get(live)).route("/ready", get(readiness)).route("/manager", get(manager));
    let by_name = Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/metrics", get(prometheus))
        .route_layer(middleware::from_fn_with_state(Arc::new(names), only_by_name));
    for_balancers.merge(by_name).layer(middleware::map_response(as_it_is_labelled)).with_state(Shown { farm, ready })
}

/// Refuses a request under a name that is not this server's, so that a web page whose name was made to resolve to this
/// server (DNS rebinding) reads nothing.
async fn only_by_name(State(names): State<Arc<Names>>, request: Request, next: Next) -> Response {
    match names.unknown(&request) {
        None => next.run(request).await,
        Some(name) => {
            let text = format!(
                "this server has no name {name:?}: use its address or its own name, or add the name to http_names in \
                 agent.toml\n"
            );
            (StatusCode::MISDIRECTED_REQUEST, [FRESH], text).into_response()
        }
    }
}

/// Forbids browsers to guess the type of an answer.
async fn as_it_is_labelled(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Answers on `listener` until `shutdown`, then lets open requests finish for at most two seconds.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    tokio::pin!(shutdown);
    let mut places = ConnectionSlots::new(BOUNDS);
    let mut open = JoinSet::new();
    let ending = watch::Sender::new(false);
    loop {
        // Cancelling `accept` and `join_next` loses nothing.
        tokio::select! {
            accepted = accept(&listener, &mut places) => {
                // `accept` has paused after an error.
                if let Ok((stream, _, place)) = accepted {
                    open.spawn(converse(stream, place, router.clone(), ending.subscribe()));
                }
            }
            Some(_) = open.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    ending.send_replace(true);
    // The remaining connections end with the set.
    let _ = timeout(GRACE, async { while open.join_next().await.is_some() {} }).await;
}

/// Serves one connection, request after request, until it loses its place.
async fn converse(stream: TcpStream, mut place: ConnectionSlot, router: Router, mut ending: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = place.lost() => return,
        _ = ending.wait_for(|ending| *ending) => {}
    }
    connection.as_mut().graceful_shutdown();
    // The connection's own error, or a client that went away: nobody is to be told.
    let _ = connection.await;
}

const FRESH: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

async fn page() -> impl IntoResponse {
    ([FRESH, (header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE))
}

async fn live() -> impl IntoResponse {
    ([FRESH], Json(serde_json::json!({ "live": true })))
}

async fn readiness(State(shown): State<Shown>) -> Response {
    let ready = shown.ready.borrow().clone();
    let code = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [FRESH], Json(ready)).into_response()
}

/// 200 at the manager, for balancers that route changes to it; 503 elsewhere.
async fn manager(State(shown): State<Shown>) -> Response {
    let status = shown.farm.own();
    // Until the record is known, the status names no other server.
    let here = status.observer == status.manager && status.record != NO_RECORD;
    let code = if here { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let document = serde_json::json!({ "here": here, "manager": status.manager, "record": status.record });
    (code, [FRESH], Json(document)).into_response()
}

async fn status(State(shown): State<Shown>) -> impl IntoResponse {
    ([FRESH], Json(shown.farm.whole().await))
}

async fn prometheus(State(shown): State<Shown>) -> impl IntoResponse {
    let status = shown.farm.own();
    ([FRESH, (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&status))
}

#[cfg(test)]
mod tests;
