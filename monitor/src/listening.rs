//! Taking connections within bounds, so that nobody's connections use up what others need: descriptors and memory. Every
//! listener of an agent takes its connections so.
//!
//! There are so many places in all, and so many for each guest: an address before somebody has proved a key, the key
//! after it. One connection more, and the oldest of that guest is closed, or the oldest of the guest that has the most:
//! whoever means it is answered by then, or comes again. So a flood of idle connections never keeps anybody out.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::sleep,
};

/// After the system could not accept a connection: it lacks descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections there may be at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of all guests together.
    pub all: usize,
    /// Of one guest.
    pub each: usize,
}

/// The places of one listener, and whose connections (`G`) have them.
#[derive(Debug)]
pub struct ConnectionSlots<G> {
    bounds: Bounds,
    /// The oldest first.
    taken: VecDeque<(G, oneshot::Sender<()>)>,
}

impl<G: Eq + Hash + Clone> ConnectionSlots<G> {
    /// All of them free.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: VecDeque::new() }
    }

    /// A place for one more connection of `guest`. Where there is none left, an older connection loses its own.
    pub fn admit(&mut self, guest: G) -> ConnectionSlot {
        self.taken.retain(|(_, held)| !held.is_closed());
        let loser = if self.count(&guest) >= self.bounds.each {
            Some(guest.clone())
        } else if self.taken.len() >= self.bounds.all {
            self.greediest()
        } else {
            None
        };
        if let Some(oldest) = loser.and_then(|loser| self.taken.iter().position(|(guest, _)| *guest == loser)) {
            // Gone meanwhile: it needs no word.
            let _ = self.taken.remove(oldest).map(|(_, held)| held.send(()));
        }
        let (held, lost) = oneshot::channel();
        self.taken.push_back((guest, held));
        ConnectionSlot { held: Some(lost), lost: false }
    }

    fn count(&self, guest: &G) -> usize {
        self.taken.iter().filter(|(other, _)| other == guest).count()
    }

    /// The guest that has the most places; of several, the one whose oldest connection is the oldest.
    fn greediest(&self) -> Option<G> {
        let mut counts = HashMap::new();
        self.taken.iter().for_each(|(guest, _)| *counts.entry(guest).or_insert(0) += 1);
        let most = counts.values().max().copied()?;
        self.taken.iter().find(|(guest, _)| counts.get(guest) == Some(&most)).map(|(guest, _)| guest.clone())
    }
}

/// A connection's place: free again when this is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// Its listener's word; none once that has come, or the listener has ended: nobody else gets the place then.
    held: Option<oneshot::Receiver<()>>,
    lost: bool,
}

impl ConnectionSlot {
    /// Returns when another connection gets the place: this one is to be closed. May be cancelled.
    pub async fn lost(&mut self) {
        std::future::poll_fn(|context| self.poll_lost(context)).await;
    }

    /// The same, to be polled; once ready, it stays so.
    pub fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(held) = &mut self.held {
            self.lost = std::task::ready!(Pin::new(held).poll(context)).is_ok();
            self.held = None;
        }
        if self.lost { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Where connections come from, as far as bounds are concerned: an IPv4 address, or the 64 bits of an IPv6 network, of
/// which one machine has all addresses (RFC 4291, 2.5.4).
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

/// The next connection, where it comes from (an IPv4 address as one, whatever the listener's family) and its place. May be
/// cancelled.
///
/// # Errors
/// The system's, after a pause: the listener is as it was.
pub async fn accept(
    listener: &TcpListener,
    places: &mut ConnectionSlots<IpAddr>,
) -> io::Result<(TcpStream, SocketAddr, ConnectionSlot)> {
    match listener.accept().await {
        Ok((stream, address)) => {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            // A failure costs this connection its speed, nothing else.
            let _ = stream.set_nodelay(true);
            Ok((stream, address, places.admit(origin(address.ip()))))
        }
        Err(error) => {
            sleep(PAUSE).await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
