//! A gRPC channel over one connection that was made before: it is never made again behind the caller's back, so that
//! what went wrong is known where it went wrong.

use std::{io, sync::Mutex, time::Duration};

use bellwether_store::mutex::locked;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Error};

/// Bytes that may be on their way here: answers are small, and a window that adapts asks the other end at every one.
const WINDOW: u32 = 1 << 20;
/// How often a quiet connection is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel over `stream`, to the peer that people call `name`.
///
/// # Errors
/// The peer does not speak HTTP/2.
pub async fn channel<S>(stream: S, name: &str) -> Result<Channel, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lost = format!("the connection to {name} is lost");
    let once = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = locked(&once).take();
        let answer = stream.map(TokioIo::new).ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, lost.clone()));
        std::future::ready(answer)
    });
    // The address is a form only: the connection is there already.
    Endpoint::from_static("http://bellwether.invalid")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}
