//! Whose state went back, the member's or our own (W14): looked at when a session begins, and never on the way of an update.

use std::sync::PoisonError;

use bellwether_proto::{
    record::refusal,
    revision::{Number, SignedHeader},
    ticket::{Parties, Shown, Ticket},
    v1,
};

use super::{Lane, Memory, cut};
use crate::{
    halt::{Halt, Proof},
    sessions::Sessions,
    start::is_lost,
};

impl Lane {
    /// The ticket that the next session is offered with. It is durable here before the member sees it. Read from the disk
    /// every time: a server that enters anew begins anew.
    pub(super) async fn ticket(&self, memory: &mut Memory) -> Result<Ticket, String> {
        let (shared, server) = (self.shared.clone(), self.server.clone());
        let open = move || {
            let record = shared.record.borrow().clone();
            let manager = shared.key.public();
            let parties = Parties { group: record.record().group, server: server.key, manager };
            Sessions::open(&shared.state, &server.name, parties, record.record().version.epoch, &shared.key)
        };
        let opened = tokio::task::spawn_blocking(open).await.map_err(|e| e.to_string())?;
        let sessions = opened.map_err(|e| format!("the ticket for its session cannot be kept here: {}", told(&e)))?;
        let ticket = sessions.given.next.clone();
        if sessions.given.held.is_none() {
            (memory.reported, memory.incarnation) = (None, 0);
        }
        memory.sessions = Some(sessions);
        Ok(ticket)
    }

    /// Looks at what a member says of itself as a session begins; the session counts, durably, when this returns.
    ///
    /// # Errors
    /// Our own state went back: nothing may be said to anybody.
    pub(super) async fn recognise(&self, memory: &mut Memory, hello: &v1::UpHello) -> Result<(), String> {
        let at = hello.at.clone().and_then(|at| SignedHeader::from_wire(at).ok());
        if let Some(at) = &at {
            self.has_more(at)?;
        }
        let shown = hello.ticket.as_ref().and_then(|ticket| Ticket::from_wire(ticket).ok());
        let back = self.judge(memory, shown.as_ref())?;
        let back = back.or_else(|| earlier(memory, hello.incarnation, at.as_ref().map(SignedHeader::number)));
        memory.incarnation = hello.incarnation;
        if let Some(why) = back {
            let name = &self.server.name;
            let reason = format!(
                "{name} is kept out: its state went back (restored from a backup, or a copy of another machine): {why}"
            );
            memory.fault = Some(reason.clone());
            memory.fence = Some(reason);
            memory.sync = false;
            memory.reported = None;
        }
        let Some(mut sessions) = memory.sessions.take() else { return Ok(()) };
        let key = self.shared.key.clone();
        let begun = move || sessions.begun(&key).map(|()| sessions);
        let begun = tokio::task::spawn_blocking(begun).await.map_err(|e| e.to_string())?;
        memory.sessions = Some(begun.map_err(|e| format!("its session cannot be noted here: {}", told(&e)))?);
        Ok(())
    }

    /// What the ticket that it shows says; why, where its state went back.
    fn judge(&self, memory: &Memory, shown: Option<&Ticket>) -> Result<Option<String>, String> {
        let Some(sessions) = &memory.sessions else { return Ok(None) };
        match sessions.given.judge(sessions.parties(), shown) {
            Shown::Known => Ok(None),
            Shown::Older => {
                let last = sessions.given.held.as_ref().map_or(0, Ticket::count);
                let its = shown.map_or("none".to_owned(), |shown| format!("session {}", shown.count()));
                Ok(Some(format!("its last session with this manager was {last}, it knows {its}")))
            }
            Shown::Newer => Err(self.halted(Proof::Session(shown.map_or(0, Ticket::count)))),
        }
    }

    /// Whether it holds a revision that this manager signed, and does not have.
    fn has_more(&self, at: &SignedHeader) -> Result<(), String> {
        let record = self.shared.record.borrow().clone();
        let head = self.shared.head.borrow().stored.header.number();
        let history = self.shared.history.read().unwrap_or_else(PoisonError::into_inner);
        if is_lost(record.record(), &history, head, at) {
            drop(history);
            return Err(self.halted(Proof::Revision(at.number())));
        }
        Ok(())
    }

    /// A member that refuses us may carry the proof that our own state went back.
    pub(super) fn not_greeted(&self, memory: &Memory, status: &tonic::Status) -> String {
        let held = refusal(status.details()).and_then(|refusal| Ticket::from_wire(&refusal.ticket?).ok());
        match held.map(|held| self.judge(memory, Some(&held))) {
            Some(Err(halted)) => halted,
            Some(Ok(_)) | None => self.turned_away(status),
        }
    }

    fn halted(&self, proof: Proof) -> String {
        let halt = Halt::new(self.server.name.clone(), proof);
        let said = cut(&halt.to_string(), 1_000);
        self.shared.halt(halt);
        said
    }
}

/// Whether it says to be earlier than it has said before.
fn earlier(memory: &Memory, incarnation: u64, at: Option<Number>) -> Option<String> {
    if incarnation < memory.incarnation && incarnation > 0 {
        return Some(format!("it was started {} times before, now it says {incarnation}", memory.incarnation));
    }
    let (reported, at) = (memory.reported?, at?);
    (at < reported).then(|| format!("it held {reported}, now it says {at}"))
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
