//! Limits the open connections whose key is proved: a few per known server, and a few per address of strangers.

use std::net::IpAddr;

use bellwether_monitor::listening::{Bounds, ConnectionSlot, ConnectionSlots, origin};
use bellwether_proto::key::PublicKey;

use super::Peer;

/// The most connections of one known server.
pub(crate) const EACH: usize = 16;
/// The most connections of strangers.
pub(crate) const STRANGERS: Bounds = Bounds { all: 64, each: 32 };

/// Tells whether a key is known.
pub(super) type Known = Box<dyn Fn(&PublicKey) -> bool + Send>;

/// The open connections.
pub(super) struct ConnectionLimit {
    known: Known,
    servers: ConnectionSlots<PublicKey>,
    strangers: ConnectionSlots<IpAddr>,
}

impl ConnectionLimit {
    pub(super) fn new(known: Known, servers: Bounds) -> Self {
        Self { known, servers: ConnectionSlots::new(servers), strangers: ConnectionSlots::new(STRANGERS) }
    }

    /// Admits one more connection of `peer`.
    pub(super) fn admit(&mut self, peer: &Peer) -> ConnectionSlot {
        match (self.known)(&peer.key) {
            true => self.servers.admit(peer.key),
            false => self.strangers.admit(origin(peer.address.ip())),
        }
    }
}

impl std::fmt::Debug for ConnectionLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionLimit").field("servers", &self.servers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use bellwether_proto::key::KeyPair;

    use super::*;

    fn is_open(place: &mut ConnectionSlot) -> bool {
        place.poll_lost(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    fn peer(key: PublicKey, host: usize) -> Peer {
        let host = u8::try_from(host).expect("a byte");
        Peer { key, address: ([192, 0, 2, host], 7_440).into() }
    }

    fn stranger(host: usize) -> Peer {
        peer(KeyPair::generate().public(), host)
    }

    #[test]
    fn the_oldest_of_its_kind_goes() {
        let [friend, other] = std::array::from_fn(|_| KeyPair::generate().public());
        let known = Box::new(move |key: &PublicKey| *key == friend || *key == other);
        let mut connection_limit = ConnectionLimit::new(known, Bounds { all: 64, each: EACH });
        let mut friends: Vec<_> = (0..EACH).map(|_| connection_limit.admit(&peer(friend, 1))).collect();
        let mut another = connection_limit.admit(&peer(other, 1));
        let mut strangers: Vec<_> = (0..=STRANGERS.all).map(|host| connection_limit.admit(&stranger(host))).collect();
        assert!(!is_open(&mut strangers[0]), "the first stranger made room");
        assert!(strangers[1..].iter_mut().chain(&mut friends).all(is_open), "for another stranger only");
        friends.push(connection_limit.admit(&peer(friend, 2)));
        assert!(!is_open(&mut friends[0]));
        assert!(is_open(&mut another) && friends[1..].iter_mut().all(is_open));
    }

    #[test]
    fn strangers_are_told_by_their_address_for_keys_cost_nothing() {
        let mut connection_limit = ConnectionLimit::new(Box::new(|_| false), Bounds { all: 64, each: EACH });
        let mut modest = connection_limit.admit(&stranger(1));
        let mut flood: Vec<_> = (0..10 * STRANGERS.all).map(|_| connection_limit.admit(&stranger(2))).collect();
        assert!(is_open(&mut modest));
        assert_eq!(flood.iter_mut().filter_map(|place| is_open(place).then_some(())).count(), STRANGERS.each);
    }
}
