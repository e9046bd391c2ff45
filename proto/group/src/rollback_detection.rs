//! Detects a state that went back, a member's or this manager's own (W14), from the greetings of a session and from
//! records of other servers. No I/O; the lane, the start and the agent call these rules.
//!
//! Only the judged server's own signature counts against it: a manager is halted by its own signatures, a member is
//! fenced by reports over a connection that proved its key. ARCHITECTURE.md ("When a state went back") lists the
//! inputs.

use bellwether_proto::{
    incarnation,
    key::PublicKey,
    record::{Record, SignedRecord},
    revision::{Number, RevisionId, SignedHeader},
    ticket::{Given, Parties, Shown, Ticket},
};

use crate::halt::Proof;

/// This manager's history of its own epoch.
pub struct Holdings<'a> {
    /// The head.
    pub head: Number,
    /// From this number on, no revision is missing, as far as known: retention deletes the oldest only.
    pub oldest: Number,
    /// Whether it has a revision.
    pub has: &'a dyn Fn(RevisionId) -> bool,
}

impl Holdings<'_> {
    /// Whether this is a revision of this manager's own in its epoch that its history lacks: then its state went back,
    /// or another copy of it made the revision.
    pub fn lack(&self, record: &Record, header: &SignedHeader) -> bool {
        let (manager, number) = (record.manager(), header.number());
        header.header().group == record.group
            && number.epoch == record.version.epoch
            && number >= self.oldest.min(self.head)
            && !(self.has)(header.id())
            && header.signed_by(&manager.key)
    }
}

/// The manager's memory of a member, which ends with the manager or with the member's place in the group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The newest revision that the member has reported to hold.
    pub reported: Option<Number>,
    /// The member's last reported incarnation; zero: none was reported.
    pub incarnation: u64,
}

/// A member's report at the beginning of a session.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The revision that its sets hold.
    pub at: Option<&'a SignedHeader>,
    /// The newest revisions that it has heard of, oldest first.
    pub seen: &'a [SignedHeader],
    /// The ticket that it held before.
    pub ticket: Option<&'a Ticket>,
    /// Its incarnation.
    pub incarnation: u64,
}

/// The judgement of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The member is the known one.
    Known,
    /// The member's state went back, with the evidence: it is fenced until it is synced anew.
    Fenced(String),
    /// This manager's own state went back: it must send nothing.
    Halted(Proof),
}

/// Judges a session that begins. `given` are the member's tickets, and `parties` their two servers.
pub fn judge_hello(
    record: &Record,
    holdings: &Holdings<'_>,
    tickets: Option<(&Given, &Parties)>,
    remembered: &Remembered,
    said: &Said<'_>,
) -> Verdict {
    if let Some(lost) = said.at.into_iter().chain(said.seen).rfind(|header| holdings.lack(record, header)) {
        return Verdict::Halted(Proof::Revision(lost.number()));
    }
    if let Some((given, parties)) = tickets {
        match given.judge(parties, said.ticket) {
            Shown::Known => {}
            Shown::Older => {
                let last = given.held.as_ref().map_or(0, Ticket::count);
                let its = said.ticket.map_or("none".to_owned(), |shown| match shown.epoch() == given.next.epoch() {
                    true => format!("session {}", shown.count()),
                    false => format!("none of epoch {}", given.next.epoch()),
                });
                let why = format!("its last session with this manager was {last}, it knows {its}");
                return Verdict::Fenced(why);
            }
            Shown::Newer => return Verdict::Halted(Proof::Session(said.ticket.map_or(0, Ticket::count))),
        }
    }
    match earlier(remembered, said) {
        Some(why) => Verdict::Fenced(why),
        None => Verdict::Known,
    }
}

/// The evidence, if the member's report is earlier than a former one.
fn earlier(remembered: &Remembered, said: &Said<'_>) -> Option<String> {
    let (before, now) = (remembered.incarnation, said.incarnation);
    if now < before && now > 0 {
        let (before, now) = (incarnation::opened(before), incarnation::opened(now));
        return Some(if now < before {
            format!("it was started {before} times before, now it says {now}")
        } else {
            format!("another copy of it was started {now} times, too")
        });
    }
    let (reported, at) = (remembered.reported?, said.at?.number());
    (at < reported).then(|| format!("it held {reported}, now it says {at}"))
}

/// The proof in the ticket of a member that refuses a session.
pub fn refused(given: &Given, parties: &Parties, held: Option<&Ticket>) -> Option<Proof> {
    let held = held?;
    (given.judge(parties, Some(held)) == Shown::Newer).then(|| Proof::Session(held.count()))
}

/// The proof in another server's records, for the manager of key `own`, who holds `ours`: an unknown record of this
/// epoch with its own signature, newer, or of the same version with other contents.
pub fn shown(own: &PublicKey, ours: &SignedRecord, theirs: &[SignedRecord]) -> Option<Proof> {
    let version = ours.record().version;
    let mine = |link: &&SignedRecord| link.signer() == *own && link.record().manager().key == *own;
    let here = |link: &&SignedRecord| link.record().group == ours.record().group;
    let unknown = |link: &&SignedRecord| {
        let theirs = link.record().version;
        theirs.epoch == version.epoch && (theirs > version || (theirs == version && *link != ours))
    };
    let proof = |link: &SignedRecord| Proof::Record { theirs: link.record().version, ours: version };
    theirs.iter().filter(mine).filter(here).rfind(unknown).map(proof)
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        key::KeyPair,
        record::{Level, Policy, Role, Server, Version},
        revision::{Epoch, GroupId, Header},
    };

    use super::*;

    fn record(key: &KeyPair, version: u64, log: &str) -> SignedRecord {
        let manager = Server {
            name: "m".parse().unwrap(),
            key: key.public(),
            address: log.to_owned(),
            role: Role::Manager,
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        let record = Record {
            level: Level::NEWEST,
            group: GroupId::from([7; 16]),
            version: Version { epoch: Epoch(2), version },
            servers: vec![manager],
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        };
        SignedRecord::sign(record, key).unwrap()
    }

    fn header(key: &KeyPair, epoch: u64, sequence: u64) -> SignedHeader {
        let header = Header { group: GroupId::from([7; 16]), ..bellwether_random::headers::header(epoch, sequence) };
        SignedHeader::sign(header, key)
    }

    fn number(sequence: u64) -> Number {
        Number { epoch: Epoch(2), sequence }
    }

    #[test]
    fn w14_what_this_manager_signed_and_does_not_have_is_lost_whatever_it_has_made_since() {
        let (key, other) = (KeyPair::generate(), KeyPair::generate());
        let record = record(&key, 1, "m:1");
        let known = header(&key, 2, 5).id();
        let has = |id| id == known;
        let ours = Holdings { head: number(9), oldest: number(4), has: &has };
        let lack = |header: SignedHeader| ours.lack(record.record(), &header);
        assert!(lack(header(&key, 2, 9)) && lack(header(&key, 2, 12)), "newer than what is here");
        assert!(lack(header(&key, 2, 6)), "made before the backup was restored, and the head went past it since");
        assert!(!lack(header(&key, 2, 5)), "known");
        assert!(!lack(header(&key, 2, 3)), "deleted by retention, perhaps");
        assert!(!lack(header(&key, 1, 9)), "another epoch");
        assert!(!lack(header(&other, 2, 12)), "nobody else's word");
    }

    #[test]
    fn w14_a_record_of_its_own_that_a_manager_does_not_know_proves_that_it_went_back() {
        let (key, other) = (KeyPair::generate(), KeyPair::generate());
        let ours = record(&key, 5, "m:1");
        let shown = |theirs: SignedRecord| shown(&key.public(), &ours, &[theirs]);
        assert_eq!(shown(ours.clone()), None);
        assert_eq!(shown(record(&key, 4, "m:1")), None, "older");
        let newer = Proof::Record { theirs: Version { epoch: Epoch(2), version: 6 }, ours: ours.record().version };
        assert_eq!(shown(record(&key, 6, "m:1")), Some(newer));
        assert!(shown(record(&key, 5, "m:2")).is_some(), "the same version, other contents");
        assert_eq!(shown(record(&other, 6, "m:1")), None, "another manager's is no proof");
    }

    #[test]
    fn w14_a_member_that_says_to_be_earlier_is_fenced() {
        let key = KeyPair::generate();
        let record = record(&key, 1, "m:1");
        let (at, has) = (header(&key, 2, 5), |_| true);
        let ours = Holdings { head: number(9), oldest: number(1), has: &has };
        let judged = |remembered: Remembered, incarnation| {
            let said = Said { at: Some(&at), seen: &[], ticket: None, incarnation };
            judge_hello(record.record(), &ours, None, &remembered, &said)
        };
        let start = incarnation::with(3, 7);
        let remembered = Remembered { reported: Some(number(5)), incarnation: start };
        assert_eq!(judged(remembered, start), Verdict::Known);
        assert_eq!(judged(remembered, incarnation::with(4, 1)), Verdict::Known, "started again");
        assert_eq!(judged(Remembered::default(), start), Verdict::Known);
        assert!(matches!(judged(remembered, incarnation::with(2, 9)), Verdict::Fenced(_)));
        let Verdict::Fenced(why) = judged(remembered, incarnation::with(3, 6)) else { panic!("a copy") };
        assert!(why.contains("another copy"), "{why}");
        let heard = header(&key, 2, 10);
        let has = |id| id != heard.id();
        let ours = Holdings { head: number(9), oldest: number(1), has: &has };
        let said = Said { at: Some(&at), seen: std::slice::from_ref(&heard), ticket: None, incarnation: start };
        let found = judge_hello(record.record(), &ours, None, &remembered, &said);
        assert_eq!(found, Verdict::Halted(Proof::Revision(number(10))), "only heard of");
        let further = Remembered { reported: Some(number(6)), ..remembered };
        assert!(matches!(judged(further, start), Verdict::Fenced(_)), "it held more");
    }
}
