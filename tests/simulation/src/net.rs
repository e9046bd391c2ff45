//! Connections over turmoil's TCP. A server's actor owns them, and two small tasks for each only carry its bytes.

use std::{cell::Cell, io, rc::Rc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    task::{AbortHandle, spawn_local},
};
use turmoil::net::{TcpListener, TcpStream};

use crate::packet::Packet;

const PORT: u16 = 7100;
/// The time limit for opening a connection.
const PATIENCE: Duration = Duration::from_millis(200);

/// A connection's number within its server's life.
pub(crate) type Number = u64;

/// An event of the network for a server.
pub(crate) enum Event {
    /// A connection that this server asked for is open, or could not be opened.
    Dialled { what: u64, connection: io::Result<Connection> },
    /// A peer has dialled.
    Accepted(Connection),
    /// A message of that connection.
    Packet { number: Number, packet: Box<Packet> },
    /// It ended.
    Closed { number: Number },
}

/// An open connection, which is closed when this is dropped.
pub(crate) struct Connection {
    pub(crate) number: Number,
    out: mpsc::UnboundedSender<Packet>,
    reading: AbortHandle,
}

impl Connection {
    /// Sends messages in order. A connection that has ended reports [`Event::Closed`].
    pub(crate) fn send(&self, packet: Packet) {
        let _ = self.out.send(packet);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The network of one server.
#[derive(Clone)]
pub(crate) struct Net {
    events: mpsc::UnboundedSender<Event>,
    next: Rc<Cell<Number>>,
}

impl Net {
    /// Listens, and reports events.
    pub(crate) async fn open() -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let (events, happens) = mpsc::unbounded_channel();
        let net = Self { events, next: Rc::default() };
        let listener = TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, PORT)).await?;
        let accepting = net.clone();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = accepting.carry(stream);
                let _ = accepting.events.send(Event::Accepted(connection));
            }
        });
        Ok((net, happens))
    }

    /// Dials `host`; the result comes as [`Event::Dialled`] with `what`.
    pub(crate) fn dial(&self, host: &str, what: u64) {
        let (net, host) = (self.clone(), host.to_owned());
        spawn_local(async move {
            let opened = tokio::time::timeout(PATIENCE, TcpStream::connect((host.as_str(), PORT))).await;
            let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let connection = opened.map(|stream| net.carry(stream));
            let _ = net.events.send(Event::Dialled { what, connection });
        });
    }

    fn carry(&self, stream: TcpStream) -> Connection {
        let number = self.next.get();
        self.next.set(number + 1);
        let (mut read, mut write) = stream.into_split();
        let (out, mut outgoing) = mpsc::unbounded_channel::<Packet>();
        spawn_local(async move {
            while let Some(packet) = outgoing.recv().await {
                if write.write_all(&packet.frame()).await.is_err() {
                    return;
                }
            }
        });
        let events = self.events.clone();
        let reading = spawn_local(async move {
            let mut arrived = BytesMut::new();
            while read.read_buf(&mut arrived).await.is_ok_and(|bytes| bytes > 0) {
                while let Some(packet) = Packet::take(&mut arrived) {
                    let _ = events.send(Event::Packet { number, packet: Box::new(packet) });
                }
            }
            let _ = events.send(Event::Closed { number });
        });
        Connection { number, out, reading: reading.abort_handle() }
    }
}
