//! A gRPC channel over one existing connection. It never reconnects by itself, so a caller sees every failure.

use std::{io, sync::Mutex, time::Duration};

use bellwether_store::mutex::locked;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Error};

/// The receive window: answers are small, and an adaptive window pings the other end at each.
const WINDOW: u32 = 1 << 20;
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel over `stream`, to the peer that messages call `name`.
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
    // The API needs an address; the connection exists already.
    Endpoint::from_static("http://bellwether.invalid")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}
