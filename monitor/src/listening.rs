//! Bounds the number of connections, so that no client uses up the descriptors and memory that others need. Every
//! listener of an agent uses this module.
//!
//! A listener has a number of places in all, and a number for each guest: an address, or the key that the client has
//! proved. When a place is missing, the oldest connection of that guest, or of the one with the most places, is closed.
//! Its client has its answer by then, or connects again, so no flood of idle connections locks others out.

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

/// The pause after the system could not accept a connection, for lack of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// The largest number of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The limit for all guests together.
    pub all: usize,
    /// The limit for one guest.
    pub each: usize,
}

/// The places of one listener, and the owners of the connections (`G`) that have them.
#[derive(Debug)]
pub struct ConnectionSlots<G> {
    bounds: Bounds,
    /// The taken places, the oldest first.
    taken: VecDeque<(G, oneshot::Sender<()>)>,
}

impl<G: Eq + Hash + Clone> ConnectionSlots<G> {
    /// Makes the places, all of them free.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: VecDeque::new() }
    }

    /// A place for one more connection of `guest`. If none is free, an older connection loses its own.
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
            // A connection that has gone meanwhile needs no message.
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

/// A connection's place, which is free again when this is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// The listener's signal; none: it has come, or the listener has ended, and then the place stays.
    held: Option<oneshot::Receiver<()>>,
    lost: bool,
}

impl ConnectionSlot {
    /// Returns when another connection gets the place: then close this one. Cancel safe.
    pub async fn lost(&mut self) {
        std::future::poll_fn(|context| self.poll_lost(context)).await;
    }

    /// The poll form of [`Self::lost`]; once ready, it stays ready.
    pub fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(held) = &mut self.held {
            self.lost = std::task::ready!(Pin::new(held).poll(context)).is_ok();
            self.held = None;
        }
        if self.lost { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The origin of connections that bounds count as one: an IPv4 address, or the 64 bits of an IPv6 network, because one
/// machine has all its addresses (RFC 4291, 2.5.4).
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

/// The next connection, its origin (an IPv4 address as one, whatever the listener's family) and its place. Cancel safe.
///
/// # Errors
/// The system's error, after a pause; the listener is unchanged.
pub async fn accept(
    listener: &TcpListener,
    places: &mut ConnectionSlots<IpAddr>,
) -> io::Result<(TcpStream, SocketAddr, ConnectionSlot)> {
    match listener.accept().await {
        Ok((stream, address)) => {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            // A failure only makes this connection slower.
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
