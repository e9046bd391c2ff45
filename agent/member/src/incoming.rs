//! What a manager's stream may bring after its hello, and in which order: a machine without I/O. The task of the stream
//! carries out what comes out, and so does the simulation.

use bellwether_proto::{
    key::PublicKey,
    limits,
    v1::{self, down},
};

use super::greeting::{Here, Refused, check_head, may_push};

/// One stream of the manager, from its hello to its end.
#[derive(Debug)]
pub struct Incoming {
    from: PublicKey,
    packs: Packs,
}

/// Whether slices may come.
#[derive(Debug, Clone, Copy)]
enum Packs {
    NoneOffered,
    /// Those of an offer that was refused by now are allowed, too.
    Offered,
}

/// What is to be done with a message.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is done at once, and never kept")]
pub enum Heard {
    /// It is answered at once, so that the manager sees that this server lives.
    Answer(v1::Keepalive),
    /// The record is taken, then [`Incoming::may_go_on`] decides.
    Take(v1::SignedRecord),
    /// The progress of procedures is kept. The keepalive that follows is the manager's sign that it is.
    Keep(v1::SignedProcedures),
    /// It is passed to the member.
    Pass(down::Message),
    /// Nothing.
    Ignore,
}

impl Incoming {
    /// The stream of the server with that key, which has said hello.
    pub fn new(from: PublicKey) -> Self {
        Self { from, packs: Packs::NoneOffered }
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// The message breaks a rule: the stream ends.
    pub fn hear(&mut self, here: Here<'_>, message: down::Message) -> Result<Heard, Refused> {
        Ok(match message {
            down::Message::Hello(_) => return Err(Refused::malformed("a second hello")),
            down::Message::Keepalive(keepalive) => Heard::Answer(keepalive),
            down::Message::Record(record) => Heard::Take(record),
            // Only a server that may become manager needs them.
            down::Message::Procedures(wire) => match here.record.by_key(here.own).is_some_and(|own| own.candidate) {
                true => Heard::Keep(wire),
                false => Heard::Ignore,
            },
            down::Message::Head(ref head) => {
                check_head(here.record, head)?;
                Heard::Pass(message)
            }
            down::Message::Offer(_) => {
                self.packs = Packs::Offered;
                Heard::Pass(message)
            }
            down::Message::Slice(ref slice) => {
                self.check_slice(slice)?;
                Heard::Pass(message)
            }
            down::Message::Supply(_)
            | down::Message::Switch(_)
            | down::Message::Verify(_)
            | down::Message::Sync(_)
            | down::Message::Fence(_) => Heard::Pass(message),
        })
    }

    /// Whether the stream goes on under the record that is held now.
    ///
    /// # Errors
    /// The one that speaks does not push, or not to this server.
    pub fn may_go_on(&self, here: Here<'_>) -> Result<(), Refused> {
        may_push(here, &self.from)
    }

    fn check_slice(&self, slice: &v1::Slice) -> Result<(), Refused> {
        if matches!(self.packs, Packs::NoneOffered) {
            return Err(Refused::malformed("a slice of a pack that was not offered"));
        }
        match slice.data.len() {
            0 => Err(Refused::malformed("a slice of no bytes")),
            length if length > limits::SLICE => {
                Err(Refused::malformed(format!("a slice of {length} bytes; the limit is {}", limits::SLICE)))
            }
            _ => Ok(()),
        }
    }
}
