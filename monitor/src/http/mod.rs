//! The `http` port: readiness for balancers, metrics, the status as JSON, and a page for people.
//!
//! It only reads, and asks for nobody's name: whoever reaches the port may see the status. The status code answers a
//! balancer's check; the body explains.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use bellwether_proto::status::FarmStatus;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};

use crate::{farm::NO_RECORD, metrics};

/// How long an open connection may keep [`serve`] from ending.
const GRACE: Duration = Duration::from_secs(2);

const PAGE: &str = include_str!("../page.html");

/// The page asks nothing of any other host.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether this server may take traffic, from its own state only (W12): the loss of the manager never takes a server
/// out of service (W11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// In sync at some revision, and neither in a sync nor in error.
    pub ready: bool,
    /// Nobody has confirmed since this server's start that the revision it holds is the newest one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Why, or why not.
    pub reason: String,
}

impl Ready {
    /// In sync at some revision.
    pub fn yes(reason: impl Into<String>) -> Self {
        Self { ready: true, stale: false, reason: reason.into() }
    }

    /// Not in sync yet, in a sync, or in error.
    pub fn no(reason: impl Into<String>) -> Self {
        Self { ready: false, stale: false, reason: reason.into() }
    }
}

#[derive(Clone)]
struct Shown {
    status: watch::Receiver<Arc<FarmStatus>>,
    ready: watch::Receiver<Ready>,
}

/// `/live`, `/ready`, `/manager`, `/status`, `/metrics` and the page at `/`.
pub fn router(status: watch::Receiver<Arc<FarmStatus>>, ready: watch::Receiver<Ready>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/live", get(live))
        .route("/ready", get(readiness))
        .route("/manager", get(manager))
        .route("/status", get(farm))
        .route("/metrics", get(prometheus))
        .with_state(Shown { status, ready })
}

/// Answers on `listener` until `shutdown`, then lets open requests finish for at most two seconds.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // A failure costs one connection its speed, nothing else.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let (ending, ended) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = ending.send(());
    });
    let straggling = async {
        // An error here means that the server ended by itself, which the other branch reports.
        match ended.await {
            Ok(()) => tokio::time::sleep(GRACE).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = server => result,
        () = straggling => Ok(()),
    }
}

const FRESH: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

async fn page() -> impl IntoResponse {
    let guards = [(header::CONTENT_SECURITY_POLICY, POLICY), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    ([FRESH], guards, Html(PAGE))
}

async fn live() -> impl IntoResponse {
    ([FRESH], Json(serde_json::json!({ "live": true })))
}

async fn readiness(State(shown): State<Shown>) -> Response {
    let ready = shown.ready.borrow().clone();
    let code = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [FRESH], Json(ready)).into_response()
}

/// 200 at the manager, for balancers that send those who change something there; 503 elsewhere.
async fn manager(State(shown): State<Shown>) -> Response {
    let status = shown.status.borrow().clone();
    // Before the record is known the status names nobody else.
    let here = status.observer == status.manager && status.record != NO_RECORD;
    let code = if here { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let document = serde_json::json!({ "here": here, "manager": status.manager, "record": status.record });
    (code, [FRESH], Json(document)).into_response()
}

async fn farm(State(shown): State<Shown>) -> impl IntoResponse {
    let status = shown.status.borrow().clone();
    ([FRESH], Json(status))
}

async fn prometheus(State(shown): State<Shown>) -> impl IntoResponse {
    let status = shown.status.borrow().clone();
    ([FRESH, (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&status))
}

#[cfg(test)]
mod tests;
