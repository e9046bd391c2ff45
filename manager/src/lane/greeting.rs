//! Detects, when a session begins, that the state of the member or of this manager went back (W14).

use std::sync::{Arc, PoisonError};

use bellwether_group::{
    edits::By,
    halt::{Halt, Proof},
    lost,
    rollback_detection::{self, Remembered, Said, Verdict},
};
use bellwether_proto::{
    clock::now_ms,
    name::ServerName,
    record::{Record, refusal},
    revision::SignedHeader,
    status::{Event, Observation},
    ticket::{Parties, Ticket},
    v1,
};
use tracing::Instrument;

use super::{Lane, Memory, cut};
use crate::{begin::start::holdings, shared::Shared};

impl Lane {
    /// The ticket to offer for the next session. It is durable here before the member sees it. It is read from the disk
    /// each time, since the server may have entered anew.
    pub(super) async fn ticket(&self, memory: &mut Memory) -> Result<Ticket, String> {
        let (shared, server) = (self.shared.clone(), self.server.clone());
        let open = move || {
            let record = shared.record.borrow().clone();
            let manager = shared.key.public();
            let parties = Parties { group: record.record().group, server: server.key, manager };
            shared.sessions.open(parties, record.record().version.epoch, &shared.key)
        };
        let opened = tokio::task::spawn_blocking(open).await.map_err(|e| e.to_string())?;
        let opened = opened.map_err(|e| {
            format!(
                "the ticket for its session cannot be saved here: {}; fix that, or begin a new epoch with a new count: \
                 bellwether promote SERVER",
                told(&e)
            )
        })?;
        let ticket = opened.given.next.clone();
        if opened.given.held.is_none() || opened.given.anew {
            memory.remembered = Remembered::default();
        }
        memory.opened = Some(opened);
        Ok(ticket)
    }

    /// Checks the member's hello; the session counts, durably, when this returns.
    ///
    /// # Errors
    /// Our own state went back: this manager must not speak to any server.
    pub(super) async fn judge_hello(&self, memory: &mut Memory, hello: &v1::UpHello) -> Result<(), String> {
        let judge = |memory: &Memory, said: &Said<'_>| self.judge(memory, said);
        let seen = memory.greeted(&self.server.name, hello, judge).map_err(|proof| self.halted(proof))?;
        let Some(opened) = memory.opened.take() else { return Ok(()) };
        let shared = self.shared.clone();
        let begun = move || shared.sessions.begun(&opened, &shared.key);
        let begun = tokio::task::spawn_blocking(begun).await.map_err(|e| e.to_string())?;
        memory.opened = Some(begun.map_err(|e| format!("its session cannot be noted here: {}", told(&e)))?);
        // A separate task, since a handover may hold the record until this session has begun.
        tokio::spawn(name_lost(self.shared.clone(), self.server.name.clone(), seen).in_current_span());
        Ok(())
    }

    fn judge(&self, memory: &Memory, said: &Said<'_>) -> Verdict {
        let tickets = memory.opened.as_ref().map(|opened| (&opened.given, &opened.parties));
        let record = self.shared.record.borrow().clone();
        let head = self.shared.head.borrow().stored.header.number();
        let history = self.shared.history.read().unwrap_or_else(PoisonError::into_inner);
        let has = |id| history.get(id).is_some();
        let holdings = holdings(&history, head, &has);
        rollback_detection::judge_hello(record.record(), &holdings, tickets, &memory.remembered, said)
    }

    /// Examines a refusal by a member, which may carry the proof that our own state went back.
    pub(super) fn not_greeted(&self, memory: &Memory, status: &tonic::Status) -> String {
        let held = refusal(status.details()).and_then(|refusal| Ticket::from_wire(&refusal.ticket?).ok());
        let opened = memory.opened.as_ref();
        let proof =
            opened.and_then(|opened| rollback_detection::refused(&opened.given, &opened.parties, held.as_ref()));
        match proof {
            Some(proof) => self.halted(proof),
            None => self.turned_away(status),
        }
    }

    fn halted(&self, proof: Proof) -> String {
        let halt = Halt::new(self.server.name.clone(), proof);
        let said = cut(&halt.to_string(), 1_000);
        self.shared.halt(halt);
        said
    }
}

/// Names the revisions of an earlier manager that a member has seen and no history here has (invariant 4).
async fn name_lost(shared: Arc<Shared>, server: ServerName, seen: Vec<SignedHeader>) {
    let record = shared.record.borrow().clone();
    let unknown: Vec<SignedHeader> = {
        let (epoch, history) = (record.record().version.epoch, shared.history.read());
        let history = history.unwrap_or_else(PoisonError::into_inner);
        let unknown = |header: &SignedHeader| header.number().epoch < epoch && history.get(header.id()).is_none();
        seen.into_iter().filter(unknown).collect()
    };
    if unknown.is_empty() {
        return;
    }
    let found = {
        let shared = shared.clone();
        tokio::task::spawn_blocking(move || shared.lost(&unknown)).await
    };
    let lost = match found {
        Ok(Ok(lost)) => lost,
        Ok(Err(error)) => return tracing::warn!(error = told(&error), "the lost revisions are not known"),
        Err(_) => return,
    };
    let new = |record: &Record| {
        let new = lost.iter().filter(|header| !lost::is_named(record, header));
        new.map(|header| lost::line(header, &[server.as_str()])).collect::<Vec<_>>()
    };
    let lines = new(record.record());
    if lines.is_empty() {
        return;
    }
    let named = lines.join("; ");
    tracing::warn!(named, "revisions of an earlier manager are lost");
    shared.see(Event::Server(server.clone(), Observation::SawLost(named)));
    let author = By::new(shared.name.as_str(), now_ms());
    if let Err(error) = shared.edit(|held| Ok(lost::next(held, &new(held.record()), &author))).await {
        tracing::warn!(error = told(&error), "the lost revisions are not in the group's log yet");
    }
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
