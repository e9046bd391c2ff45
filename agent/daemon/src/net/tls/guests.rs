//! How many connections stay open once their key is proved: a few for each server that is known, a few for each address
//! from which strangers come.

use std::net::IpAddr;

use bellwether_monitor::listening::{Bounds, Place, Places, origin};
use bellwether_proto::key::PublicKey;

use super::Peer;

/// Connections of one known server.
pub(crate) const EACH: usize = 16;
/// Connections of strangers.
pub(crate) const STRANGERS: Bounds = Bounds { all: 64, each: 32 };

/// Says who is known.
pub(super) type Known = Box<dyn Fn(&PublicKey) -> bool + Send>;

/// The open connections.
pub(super) struct Guests {
    known: Known,
    servers: Places<PublicKey>,
    strangers: Places<IpAddr>,
}

impl Guests {
    pub(super) fn new(known: Known, servers: Bounds) -> Self {
        Self { known, servers: Places::new(servers), strangers: Places::new(STRANGERS) }
    }

    /// One more of `peer`.
    pub(super) fn admit(&mut self, peer: &Peer) -> Place {
        match (self.known)(&peer.key) {
            true => self.servers.admit(peer.key),
            false => self.strangers.admit(origin(peer.address.ip())),
        }
    }
}

impl std::fmt::Debug for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guests").field("servers", &self.servers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use bellwether_proto::key::KeyPair;

    use super::*;

    fn is_open(place: &mut Place) -> bool {
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
        let mut guests = Guests::new(known, Bounds { all: 64, each: EACH });
        let mut friends: Vec<_> = (0..EACH).map(|_| guests.admit(&peer(friend, 1))).collect();
        let mut another = guests.admit(&peer(other, 1));
        let mut strangers: Vec<_> = (0..=STRANGERS.all).map(|host| guests.admit(&stranger(host))).collect();
        assert!(!is_open(&mut strangers[0]), "the first stranger made room");
        assert!(strangers[1..].iter_mut().chain(&mut friends).all(is_open), "for another stranger only");
        friends.push(guests.admit(&peer(friend, 2)));
        assert!(!is_open(&mut friends[0]));
        assert!(is_open(&mut another) && friends[1..].iter_mut().all(is_open));
    }

    #[test]
    fn strangers_are_told_by_their_address_for_keys_cost_nothing() {
        let mut guests = Guests::new(Box::new(|_| false), Bounds { all: 64, each: EACH });
        let mut modest = guests.admit(&stranger(1));
        let mut flood: Vec<_> = (0..10 * STRANGERS.all).map(|_| guests.admit(&stranger(2))).collect();
        assert!(is_open(&mut modest));
        assert_eq!(flood.iter_mut().filter_map(|place| is_open(place).then_some(())).count(), STRANGERS.each);
    }
}
