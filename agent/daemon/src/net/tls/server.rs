//! Accepts connections from other servers. [`incoming`] runs one task, which holds all handshakes under way and sends
//! the finished ones over a channel; it ends when the stream of them is dropped.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bellwether_monitor::listening::{Bounds, ConnectionSlot, ConnectionSlots, accept};
use bellwether_proto::{
    key::{KeyPair, PublicKey},
    limits,
};
use rustls::{ServerConfig, server::NoServerSessionStorage, version::TLS13};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::transport::{Server, server::Connected};

use super::{
    ALPN, Peer, Unusable, certificate,
    connection_limit::{ConnectionLimit, EACH, Known},
    provider, verify,
};
use crate::net::placed::Placed;

/// The time that a peer has to prove its key.
const DEADLINE: Duration = Duration::from_secs(10);
/// The most handshakes at a time: an honest peer needs milliseconds.
pub(crate) const HANDSHAKES: Bounds = Bounds { all: 128, each: 64 };
/// The most finished connections that wait to be served.
const WAITING: usize = 16;
/// The longest silence of a connection: HTTP/2 pings it every 10 s.
const QUIET: Duration = Duration::from_secs(30);
/// The default limit for connections of servers.
const SERVERS: usize = 1_024;

/// This server's TLS configuration: made once, shared by all connections.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// Uses the server's own key.
    ///
    /// # Errors
    /// The key cannot be used.
    pub fn new(key: &KeyPair) -> Result<Self, Unusable> {
        let unusable = |e: rustls::Error| Unusable(e.to_string());
        let (certificate, private) = certificate(key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::new(verify::AnyKey::new()))
            .with_single_cert(vec![certificate], private)
            .map_err(unusable)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

/// A connection whose peer has proved its key; requests over it have a [`Peer`] among their extensions.
#[derive(Debug)]
pub struct TlsStream {
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for TlsStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The connections whose handshake is done, for tonic's `serve_with_incoming`. Dropping it closes the listener.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<TlsStream>,
    task: JoinHandle<()>,
    connection_limit: ConnectionLimit,
}

impl Incoming {
    /// Tells `known` servers from strangers, who get less room; `servers` limits the known ones.
    pub fn knowing(mut self, servers: Bounds, known: impl Fn(&PublicKey) -> bool + Send + 'static) -> Self {
        self.connection_limit = ConnectionLimit::new(Box::new(known) as Known, servers);
        self
    }
}

impl Stream for Incoming {
    type Item = io::Result<Placed<TlsStream>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = std::task::ready!(self.ready.poll_recv(cx)) else { return Poll::Ready(None) };
        let place = self.connection_limit.admit(&stream.peer);
        Poll::Ready(Some(Ok(Placed::new(stream, place, Some(QUIET)))))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // The task's JoinSet ends the handshakes with it.
        self.task.abort();
    }
}

/// Accepts connections from `listener`. Handshakes run at the same time, limited in number and each with a deadline, so
/// a silent peer delays no other. A failure is logged at debug level and dropped.
pub fn incoming(listener: TcpListener, tls: ServerTls) -> Incoming {
    let (finished, ready) = mpsc::channel(WAITING);
    let task = tokio::spawn(take(listener, tls, finished));
    Incoming {
        ready,
        task,
        connection_limit: ConnectionLimit::new(Box::new(|_| true), Bounds { all: SERVERS, each: EACH }),
    }
}

async fn take(listener: TcpListener, tls: ServerTls, finished: mpsc::Sender<TlsStream>) {
    let mut handshakes = JoinSet::new();
    let mut places = ConnectionSlots::new(HANDSHAKES);
    loop {
        // Cancelling either is safe: accept and join_next lose nothing.
        let accepted = tokio::select! {
            Some(_) = handshakes.join_next() => continue,
            accepted = accept(&listener, &mut places) => accepted,
        };
        match accepted {
            Ok((tcp, address, place)) => {
                handshakes.spawn(handshake(tcp, address, place, tls.clone(), finished.clone()));
            }
            Err(e) => tracing::warn!("cannot accept connections: {e}"),
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    mut place: ConnectionSlot,
    tls: ServerTls,
    finished: mpsc::Sender<TlsStream>,
) {
    let proved = tokio::select! {
        proved = tokio::time::timeout(DEADLINE, prove(tcp, address, &tls)) => match proved {
            Ok(proved) => proved,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")),
        },
        () = place.lost() => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "a newer handshake needed its slot")),
    };
    match proved {
        // The receiver is gone when the server has stopped.
        Ok(stream) => drop(finished.send(stream).await),
        Err(e) => tracing::debug!("no secure connection from {address}: {e}"),
    }
}

async fn prove(tcp: TcpStream, address: SocketAddr, tls: &ServerTls) -> io::Result<TlsStream> {
    let stream = tls.0.accept(tcp).await?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(ALPN) {
        return Err(io::Error::other("it does not speak HTTP/2"));
    }
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| io::Error::other("it has no certificate"))?;
    let key = verify::public_key(certificate).map_err(io::Error::other)?;
    Ok(TlsStream { stream, peer: Peer { key, address } })
}

/// A gRPC server with the windows, keepalives and limits for connections from other servers.
pub fn service() -> Server {
    Server::builder()
        .initial_stream_window_size(limits::WINDOW)
        .initial_connection_window_size(2 * limits::WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(64)
}
