//! How many connections stay open: a few for each server that is known, a few for all others together. One more, and the
//! oldest of that kind is closed: whoever means it is done by then or comes again.

use bellwether_proto::key::PublicKey;
use tokio::sync::oneshot;

/// Connections of one known server.
const EACH: usize = 16;
/// Connections of all strangers.
const STRANGERS: usize = 64;

/// Says who is known.
pub(super) type Known = Box<dyn Fn(&PublicKey) -> bool + Send>;

/// The open connections, the oldest first.
pub(super) struct Guests {
    known: Known,
    /// Whose (none: a stranger's), and what closes it when dropped.
    open: Vec<(Option<PublicKey>, oneshot::Sender<()>)>,
}

impl Guests {
    pub(super) fn new(known: Known) -> Self {
        Self { known, open: Vec::new() }
    }

    /// One more of `key`; what is returned is done when it has to go.
    pub(super) fn admit(&mut self, key: PublicKey) -> oneshot::Receiver<()> {
        self.open.retain(|(_, held)| !held.is_closed());
        let kind = (self.known)(&key).then_some(key);
        let most = if kind.is_some() { EACH } else { STRANGERS };
        let mut same = (0..self.open.len()).filter(|&at| self.open[at].0 == kind);
        let oldest = same.next().filter(|_| same.count() + 1 >= most);
        if let Some(oldest) = oldest {
            self.open.remove(oldest);
        }
        let (held, gone) = oneshot::channel();
        self.open.push((kind, held));
        gone
    }
}

impl std::fmt::Debug for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guests").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::key::KeyPair;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn is_open(guest: &mut oneshot::Receiver<()>) -> bool {
        guest.try_recv() == Err(TryRecvError::Empty)
    }

    #[test]
    fn the_oldest_of_its_kind_goes() {
        let [friend, other] = std::array::from_fn(|_| KeyPair::generate().public());
        let mut guests = Guests::new(Box::new(move |key| *key == friend || *key == other));
        let mut friends: Vec<_> = (0..EACH).map(|_| guests.admit(friend)).collect();
        let mut another = guests.admit(other);
        let mut strangers: Vec<_> = (0..=STRANGERS).map(|_| guests.admit(KeyPair::generate().public())).collect();
        assert!(!is_open(&mut strangers[0]), "the first stranger made room");
        assert!(strangers[1..].iter_mut().chain(&mut friends).all(is_open), "for another stranger only");
        friends.push(guests.admit(friend));
        assert!(!is_open(&mut friends[0]));
        assert!(is_open(&mut another) && friends[1..].iter_mut().all(is_open));
    }

    #[test]
    fn one_that_is_gone_makes_room() {
        let mut guests = Guests::new(Box::new(|_| false));
        let mut first = guests.admit(KeyPair::generate().public());
        for _ in 0..2 * STRANGERS {
            drop(guests.admit(KeyPair::generate().public()));
        }
        assert!(is_open(&mut first));
    }
}
