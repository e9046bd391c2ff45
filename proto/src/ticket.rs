//! Session tickets: a manager gives one to a server with each session, and the server saves it before it answers. By
//! tickets each side detects that the other's state went back (W14): a restored backup, or a copied machine.
//!
//! A ticket counts the sessions of one server in one epoch and carries a nonce, which distinguishes two copies of one
//! state. The manager signs it, so that a ticket unknown to the manager proves that its own state went back.

use prost::Message;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{
    Malformed,
    key::{KeyPair, PublicKey, Signature},
    limits,
    revision::{Epoch, GroupId},
    v1,
};

const CONTEXT: &str = "bellwether v1 session ticket";

/// A ticket, as its holder keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ticket {
    epoch: Epoch,
    count: u64,
    nonce: [u8; 16],
    signature: Signature,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({}.{})", self.epoch, self.count)
    }
}

/// The two parties of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties {
    /// The group.
    pub group: GroupId,
    /// The server that holds the tickets.
    pub server: PublicKey,
    /// The manager that signs them.
    pub manager: PublicKey,
}

impl Parties {
    fn signed(&self, epoch: Epoch, count: u64, nonce: [u8; 16]) -> Vec<u8> {
        let Self { group, server, manager } = self;
        let numbers = [epoch.0.to_be_bytes(), count.to_be_bytes()].concat();
        [group.as_bytes(), server.as_bytes().as_slice(), manager.as_bytes(), &numbers, &nonce].concat()
    }
}

impl Ticket {
    /// Makes the ticket of that count, with a new nonce.
    pub fn issue(parties: &Parties, epoch: Epoch, count: u64, key: &KeyPair) -> Self {
        let mut nonce = [0; 16];
        SystemRandom::new().fill(&mut nonce).expect("the system's random source answers");
        let signature = key.sign(CONTEXT, &parties.signed(epoch, count, nonce));
        Self { epoch, count, nonce, signature }
    }

    /// Whether the manager of these parties made it for this server.
    pub fn is_of(&self, parties: &Parties) -> bool {
        let signed = parties.signed(self.epoch, self.count, self.nonce);
        parties.manager.verifies(CONTEXT, &signed, &self.signature)
    }

    /// Whether the manager of these parties offers it to this server in `epoch`.
    pub fn is_current(&self, parties: &Parties, epoch: Epoch) -> bool {
        self.epoch == epoch && self.is_of(parties)
    }

    /// The manager's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number of its session in that epoch, from 1.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The message.
    pub fn to_wire(&self) -> v1::Ticket {
        v1::Ticket {
            epoch: self.epoch.0,
            count: self.count,
            nonce: bytes::Bytes::copy_from_slice(&self.nonce),
            signature: bytes::Bytes::copy_from_slice(&self.signature),
        }
    }

    /// Checks a message's form; [`Ticket::is_of`] checks its parties.
    ///
    /// # Errors
    /// A nonce or a signature has another length, or the count is not possible.
    pub fn from_wire(wire: &v1::Ticket) -> Result<Self, Malformed> {
        let wrong = |_| Malformed::new("a session ticket whose nonce or signature has another length");
        if ![wire.epoch, wire.count].iter().all(|count| (1..=limits::COUNT).contains(count)) {
            return Err(Malformed::new("a session ticket whose epoch or count is zero, or greater than there can be"));
        }
        Ok(Self {
            epoch: Epoch(wire.epoch),
            count: wire.count,
            nonce: wire.nonce.as_ref().try_into().map_err(wrong)?,
            signature: wire.signature.as_ref().try_into().map_err(wrong)?,
        })
    }
}

impl From<Ticket> for String {
    fn from(ticket: Ticket) -> Self {
        data_encoding::BASE64.encode(&ticket.to_wire().encode_to_vec())
    }
}

impl TryFrom<String> for Ticket {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        let wrong = || Malformed::new("not a session ticket");
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| wrong())?;
        Self::from_wire(&v1::Ticket::decode(bytes.as_slice()).map_err(|_| wrong())?)
    }
}

/// The manager's state is older than a ticket that this server holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "session {offered} of epoch {epoch} is offered, this server has had session {held} with that manager already: the \
     manager's state went back (restored from a backup), or another copy of it runs"
)]
pub struct ManagerWentBack {
    /// The epoch.
    pub epoch: Epoch,
    /// The count of the offered ticket.
    pub offered: u64,
    /// The count of the held ticket.
    pub held: u64,
}

/// Whether a server that holds `held` may begin a session with `offered`; `Ok(true)`: the ticket must be on the disk
/// before the server answers.
///
/// # Errors
/// The manager's state went back; the held ticket stays.
pub fn accept(held: Option<&Ticket>, offered: &Ticket) -> Result<bool, ManagerWentBack> {
    let Some(held) = held else { return Ok(true) };
    let newer = (offered.epoch, offered.count) > (held.epoch, held.count);
    if !newer && offered != held {
        return Err(ManagerWentBack { epoch: held.epoch, offered: offered.count, held: held.count });
    }
    Ok(newer)
}

/// A manager's memory of the tickets that it gave one server in its epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// The server.
    pub server: PublicKey,
    /// The newest ticket that the server has shown.
    pub held: Option<Ticket>,
    /// The ticket of the next session: the same until a session has begun with it.
    pub next: Ticket,
    /// Whether it has entered since the last session, and may come without a ticket and a state.
    pub anew: bool,
}

/// The meaning of a server's ticket for its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// It is the server that had the last session, or the first one of this epoch.
    Known,
    /// The server's state is older than the last session, or a copy of it.
    Older,
    /// The server has had sessions that this manager does not remember: the manager's own state went back.
    Newer,
}

/// The count never goes back within an epoch, and no count is signed twice, whatever the server asks for. Therefore an
/// unknown ticket of a count that was not given yet proves that the manager's own state went back.
impl Given {
    /// The tickets before the first session of `epoch`.
    pub fn first(parties: &Parties, epoch: Epoch, key: &KeyPair) -> Self {
        Self { server: parties.server, held: None, next: Ticket::issue(parties, epoch, 1, key), anew: false }
    }

    /// Whether these tickets are of these parties in `epoch`: those of other keys or earlier epochs do not count.
    pub fn continues(&self, parties: &Parties, epoch: Epoch) -> bool {
        self.server == parties.server && self.next.is_current(parties, epoch)
    }

    /// Judges the ticket that a server shows when it is offered `next`. Only this manager's signature counts.
    pub fn judge(&self, parties: &Parties, shown: Option<&Ticket>) -> Shown {
        let epoch = self.next.epoch;
        let ours = shown.filter(|shown| shown.epoch == epoch && shown.is_of(parties));
        let known = self.held.as_ref().map_or(0, |held| held.count);
        match ours {
            Some(shown) if *shown == self.next || Some(shown) == self.held.as_ref() => Shown::Known,
            Some(shown) if shown.count < known => Shown::Older,
            Some(_) => Shown::Newer,
            // A ticket of an earlier epoch, or no ticket.
            None if self.held.is_none() || (self.anew && shown.is_none()) => Shown::Known,
            None => Shown::Older,
        }
    }

    /// A session has begun: the server holds `next`.
    #[must_use]
    pub fn begun(&self, parties: &Parties, key: &KeyPair) -> Self {
        let count = self.next.count.checked_add(1).expect("nobody has 2^64 sessions in one epoch");
        let next = Ticket::issue(parties, self.next.epoch, count, key);
        Self { server: self.server, held: Some(self.next.clone()), next, anew: false }
    }

    /// The server enters: it may come without a ticket once. Its tickets stay known, and the count continues.
    #[must_use]
    pub fn entered(self) -> Self {
        Self { anew: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(3);

    struct Case {
        key: KeyPair,
        parties: Parties,
        given: Given,
        /// The server's ticket.
        held: Option<Ticket>,
    }

    impl Case {
        fn new() -> Self {
            let key = KeyPair::generate();
            let server = KeyPair::generate().public();
            let parties = Parties { group: [7; 16].into(), server, manager: key.public() };
            let given = Given::first(&parties, EPOCH, &key);
            Self { key, parties, given, held: None }
        }

        /// The server's side of a session; returns the ticket that it shows.
        fn greet(&mut self) -> Result<Option<Ticket>, ManagerWentBack> {
            let shown = self.held.clone();
            if accept(self.held.as_ref(), &self.given.next)? {
                self.held = Some(self.given.next.clone());
            }
            Ok(shown)
        }

        fn session(&mut self) -> Shown {
            let shown = self.greet().expect("accepted");
            let judged = self.given.judge(&self.parties, shown.as_ref());
            self.given = self.given.begun(&self.parties, &self.key);
            judged
        }
    }

    #[test]
    fn sessions_follow_each_other_whatever_is_lost_on_the_way() {
        let mut case = Case::new();
        assert_eq!(case.session(), Shown::Known, "the first");
        assert_eq!(case.session(), Shown::Known);
        // The answer is lost: the manager offers the same ticket again.
        case.greet().unwrap();
        case.greet().unwrap();
        assert_eq!(case.session(), Shown::Known);
        assert_eq!(case.session(), Shown::Known);
    }

    #[test]
    fn a_server_that_was_restored_or_copied_shows_an_older_ticket() {
        let mut case = Case::new();
        case.session();
        let backup = case.held.clone();
        case.session();
        case.held = backup;
        assert_eq!(case.session(), Shown::Older);
        assert_eq!(case.session(), Shown::Known, "from then on it is known by its newest one");
        case.held = None;
        assert_eq!(case.session(), Shown::Older, "its state is gone");
    }

    #[test]
    fn a_manager_that_was_restored_or_copied_is_found_by_both_sides() {
        let mut case = Case::new();
        case.session();
        let backup = case.given.clone();
        case.session();
        case.session();
        let good = std::mem::replace(&mut case.given, backup);
        assert!(case.greet().is_err(), "the server obeys no older one");
        assert_eq!(case.given.judge(&case.parties, case.held.as_ref()), Shown::Newer, "and shows the proof");
        // A copy has had as many sessions as the server, but other ones.
        case.given = case.given.begun(&case.parties, &case.key).begun(&case.parties, &case.key);
        assert_eq!(case.given.held.as_ref().map(Ticket::count), case.held.as_ref().map(Ticket::count));
        assert_eq!(case.given.judge(&case.parties, case.held.as_ref()), Shown::Newer);
        case.given = good;
        assert_eq!(case.session(), Shown::Known, "the good one goes on");
    }

    #[test]
    fn a_new_epoch_begins_anew_and_forged_tickets_prove_nothing() {
        let mut case = Case::new();
        case.session();
        case.given = Given::first(&case.parties, Epoch(4), &case.key);
        assert_eq!(case.session(), Shown::Known, "what it holds is of an earlier epoch");
        let forged = Ticket::issue(&case.parties, Epoch(4), 99, &KeyPair::generate());
        assert_eq!(case.given.judge(&case.parties, Some(&forged)), Shown::Older, "it cannot stop the manager");
        let elsewhere = Parties { server: KeyPair::generate().public(), ..case.parties };
        let foreign = Ticket::issue(&elsewhere, Epoch(4), 99, &case.key);
        assert_eq!(case.given.judge(&case.parties, Some(&foreign)), Shown::Older, "another server's");
        let old = Ticket::issue(&case.parties, Epoch(3), 99, &case.key);
        assert!(accept(case.held.as_ref(), &old).is_err(), "an epoch that is over");
    }

    /// An attacker that enters repeatedly and shows its old tickets can only get itself fenced.
    #[test]
    fn w14_who_enters_again_and_shows_a_ticket_that_it_has_had_stops_nobody() {
        let mut case = Case::new();
        let kept: Vec<Ticket> = (0..5)
            .map(|_| {
                case.session();
                case.held.clone().expect("held")
            })
            .collect();
        let before = case.given.clone();
        case.given = case.given.entered().entered();
        assert_eq!((&case.given.held, &case.given.next), (&before.held, &before.next), "what was given stays known");
        let judged: Vec<Shown> = kept.iter().map(|shown| case.given.judge(&case.parties, Some(shown))).collect();
        assert_eq!(judged[..4], [const { Shown::Older }; 4]);
        assert_eq!(judged[4], Shown::Known);
        // The server came without a state, once.
        case.held = None;
        assert_eq!(case.session(), Shown::Known);
        case.held = None;
        assert_eq!(case.session(), Shown::Older);
        assert_eq!(case.held.map(|held| held.count()), Some(7), "no count was given twice");
    }

    #[test]
    fn w14_tickets_of_other_groups_managers_epochs_and_servers_prove_nothing() {
        let mut case = Case::new();
        case.session();
        let other = KeyPair::generate();
        let Case { parties, key, .. } = &case;
        let foreign = [
            Ticket::issue(&Parties { group: [8; 16].into(), ..*parties }, EPOCH, 99, key),
            Ticket::issue(&Parties { server: other.public(), ..*parties }, EPOCH, 99, key),
            Ticket::issue(&Parties { manager: other.public(), ..*parties }, EPOCH, 99, &other),
            Ticket::issue(parties, Epoch(2), 99, key),
            Ticket::issue(parties, Epoch(4), 99, key),
            Ticket::issue(parties, EPOCH, 99, &other),
            Ticket { count: 99, ..case.given.next.clone() },
            Ticket { nonce: [0; 16], ..case.given.next.clone() },
        ];
        for (n, shown) in foreign.iter().enumerate() {
            for given in [case.given.clone(), case.given.clone().entered()] {
                assert_eq!(given.judge(parties, Some(shown)), Shown::Older, "number {n}");
            }
        }
    }

    #[test]
    fn a_ticket_survives_its_texts() {
        let case = Case::new();
        let text = serde_json::to_string(&case.given).unwrap();
        assert_eq!(serde_json::from_str::<Given>(&text).unwrap(), case.given);
        let wire = v1::Ticket { nonce: vec![1].into(), ..case.given.next.to_wire() };
        assert!(Ticket::from_wire(&wire).is_err());
        assert!(Ticket::try_from("AAAA".to_owned()).is_err());
    }
}
