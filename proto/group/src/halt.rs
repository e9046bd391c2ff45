//! A manager whose state went back (W14): it was restored from an old backup, or another copy of it runs. It publishes,
//! changes and sends nothing until the group is rebuilt. The halt survives a restart.

use std::fmt;

use bellwether_proto::{
    level::State,
    name::ServerName,
    record::Version,
    revision::{Number, SignedHeader},
};
use serde::{Deserialize, Serialize};

/// The largest number of revisions that are named.
const NAMED: usize = 20;
/// The largest number of characters of a message.
const MESSAGE: usize = 80;

/// The proof that the state went back, signed by this manager's own key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// A group record that is newer than the one held here.
    Record {
        /// The newer one.
        theirs: Version,
        /// The one held here.
        ours: Version,
    },
    /// A revision that is missing in the history here.
    Revision(Number),
    /// A session ticket that this manager does not know.
    Session(u64),
}

/// The reason why this manager leads no server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halt {
    /// The server that has the proof.
    pub witness: ServerName,
    /// The proof.
    pub proof: Proof,
    /// The newest revision here; none: there is no usable one.
    pub head: Option<Number>,
    /// Revisions that this manager made, the witness has seen, and the history here lacks; oldest first.
    pub lacks: Vec<(Number, String)>,
}

impl State for Halt {}

impl Halt {
    /// Makes the halt from the proof; the missing revisions are found later.
    pub fn new(witness: ServerName, proof: Proof) -> Self {
        Self { witness, proof, head: None, lacks: Vec::new() }
    }

    /// Adds the witness's newest revisions that `lacks` confirms: signed by this manager, and not in its history.
    #[must_use]
    pub fn lacking(mut self, seen: &[SignedHeader], lacks: impl Fn(&SignedHeader) -> bool) -> Self {
        let lacks = seen.iter().filter(|header| lacks(header));
        let message = |header: &SignedHeader| header.header().message.chars().take(MESSAGE).collect::<String>();
        self.lacks = lacks.map(|header| (header.number(), message(header))).collect();
        self
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { witness, proof, head, lacks } = self;
        write!(f, "this manager's state went back (restored from a backup), or another copy of it runs: {witness} ")?;
        match proof {
            Proof::Record { theirs, ours } if theirs == ours => {
                write!(f, "holds another group record {theirs} than is here")?
            }
            Proof::Record { theirs, ours } => write!(f, "holds group record {theirs}, here is {ours}")?,
            Proof::Revision(at) => {
                let head = head.map_or("none".to_owned(), |head| head.to_string());
                write!(f, "has seen revision {at}, the newest here is {head}")?;
            }
            Proof::Session(count) => write!(f, "has had session {count} with it, which is not known here")?,
        }
        write!(f, "; nothing is published, changed or sent")?;
        if !lacks.is_empty() {
            let named: Vec<_> = lacks.iter().rev().take(NAMED).rev().map(said).collect();
            let more = if lacks.len() > named.len() { "… " } else { "" };
            write!(f, "; lacking here: {more}{}", named.join(", "))?;
        }
        write!(
            f,
            "; to keep what {witness} has: `bellwether promote {witness} --self --force` there; to make what is here the \
             truth: `bellwether group rebuild` here"
        )
    }
}

fn said((number, message): &(Number, String)) -> String {
    if message.is_empty() { number.to_string() } else { format!("{number} “{message}”") }
}

impl std::error::Error for Halt {}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        hash::Hash,
        key::KeyPair,
        revision::{Epoch, Header},
    };

    use super::*;

    fn number(sequence: u64) -> Number {
        Number { epoch: Epoch(1), sequence }
    }

    fn header(key: &KeyPair, sequence: u64, message: &str) -> SignedHeader {
        let header = Header {
            group: [7; 16].into(),
            number: number(sequence),
            parent: None,
            manager: "m".parse().unwrap(),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: message.to_owned(),
            labels: Default::default(),
            root: Hash::of(b"root"),
        };
        SignedHeader::sign(header, key)
    }

    #[test]
    fn what_is_lacking_is_what_we_signed_and_do_not_have() {
        let (key, other) = (KeyPair::generate(), KeyPair::generate());
        let halt = Halt { head: Some(number(2)), ..Halt::new("web2".parse().unwrap(), Proof::Revision(number(4))) };
        let seen = [
            header(&key, 2, "known"),
            header(&key, 3, ""),
            header(&key, 4, &"long ".repeat(100)),
            header(&other, 9, "forged"),
        ];
        let halt = halt.lacking(&seen, |header| header.number() > number(2) && header.signed_by(&key.public()));
        assert_eq!(halt.lacks.iter().map(|(number, _)| number.sequence).collect::<Vec<_>>(), [3, 4]);
        let said = halt.to_string();
        for word in
            ["web2 has seen revision 1.4", "the newest here is 1.2", "1.3, 1.4 “long", "bellwether group rebuild"]
        {
            assert!(said.contains(word), "no '{word}' in: {said}");
        }
        assert!(said.len() < 1_000, "{said}");
    }
}
