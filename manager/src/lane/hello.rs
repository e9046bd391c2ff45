//! What a member's hello means to its manager, as rules without I/O: lanes and the simulation call the same ones.

use bellwether_group::{
    halt::Proof,
    rollback_detection::{Said, Verdict},
};
use bellwether_proto::{
    level::Program,
    limits,
    name::ServerName,
    protocol::{self, Side},
    revision::{Epoch, SignedHeader},
    ticket::Ticket,
    v1,
};

use super::{Memory, cut, program};

/// Why the server that answers is not led by this manager.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLed {
    /// Another server answers, or the programs have no protocol in common.
    #[error("{0}")]
    Other(String),
    /// The member has seen a later epoch.
    #[error("it has seen epoch {seen}, this manager is of epoch {own}: another manager has taken over")]
    Behind {
        /// What the member has seen.
        seen: u64,
        /// This manager's epoch.
        own: Epoch,
    },
}

/// The program of the member `server` that answers with that hello. `manager` is this one, of that epoch.
///
/// # Errors
/// This manager does not lead the server that answers.
pub fn check(manager: &ServerName, own: Epoch, server: &ServerName, hello: &v1::UpHello) -> Result<Program, NotLed> {
    if hello.server.parse::<ServerName>().as_ref() != Ok(server) {
        let said = cut(&hello.server, 64);
        return Err(NotLed::Other(format!("a server answers there that calls itself '{said}', not {server}")));
    }
    let (ours, theirs) = (Program::own(), program(hello));
    let manager = Side { server: manager.as_str(), program: &ours.version, speaks: protocol::SPOKEN };
    let speaks = (hello.protocol_min, hello.protocol);
    let member = Side { server: server.as_str(), program: &theirs.version, speaks };
    protocol::negotiate(&manager, &member).map_err(|e| NotLed::Other(e.to_string()))?;
    match hello.epoch {
        seen if seen > own.0 => Err(NotLed::Behind { seen, own }),
        _ => Ok(theirs),
    }
}

impl Memory {
    /// A session begins with that hello of `server`, which is kept out where its state went back; returns the revisions that
    /// the server has heard of. `judge` asks [`bellwether_group::rollback_detection::judge_hello`].
    ///
    /// # Errors
    /// This manager's own state went back: nothing may be said to anybody.
    pub fn greeted(
        &mut self,
        server: &ServerName,
        hello: &v1::UpHello,
        judge: impl FnOnce(&Self, &Said<'_>) -> Verdict,
    ) -> Result<Vec<SignedHeader>, Proof> {
        let header = |wire: &v1::SignedHeader| SignedHeader::from_wire(wire.clone()).ok();
        let (at, ticket) = (hello.at.as_ref().and_then(header), hello.ticket.as_ref());
        let seen: Vec<SignedHeader> = hello.seen.iter().take(limits::SEEN).filter_map(header).collect();
        let ticket = ticket.and_then(|ticket| Ticket::from_wire(ticket).ok());
        let incarnation = hello.incarnation;
        match judge(self, &Said { at: at.as_ref(), seen: &seen, ticket: ticket.as_ref(), incarnation }) {
            Verdict::Known => {}
            Verdict::Fenced(why) => {
                tracing::debug!(why, "fenced: its state went back");
                self.keep_out(format!(
                    "{server} is kept out: its state went back (restored from a backup, or a copy of another machine): {why}"
                ));
            }
            Verdict::Halted(proof) => return Err(proof),
        }
        self.remembered.incarnation = incarnation;
        Ok(seen)
    }
}
