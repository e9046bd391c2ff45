//! A member's ticket of its last session with a manager (W14). It is durable before the manager is answered.

use std::{path::PathBuf, sync::Arc};

use bellwether_proto::{
    error::chain,
    record::stale_session,
    ticket::{self, Parties, Ticket},
    v1,
};
use bellwether_store::state::{file, record::GroupRecord};
use tokio::sync::Mutex;
use tonic::{Code, Status};

/// The ticket that is held.
pub(super) struct Tickets {
    record: Arc<GroupRecord>,
    path: PathBuf,
    one: Mutex<()>,
}

impl Tickets {
    pub(super) fn new(record: Arc<GroupRecord>) -> Self {
        Self { path: record.layout().ticket(), record, one: Mutex::new(()) }
    }

    /// Stores the ticket of a session that begins; returns the previous one, to be shown.
    ///
    /// # Errors
    /// The ticket is not the manager's, or the manager's state went back: the details of that refusal carry the proof.
    pub(super) async fn take(&self, hello: &v1::DownHello) -> Result<Option<v1::Ticket>, Status> {
        let Some(offered) = &hello.ticket else { return Ok(None) };
        let offered = Ticket::from_wire(offered).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let current = self.record.current();
        let record = current.record();
        let parties = Parties { group: record.group, server: self.record.own_key(), manager: record.manager().key };
        if !offered.is_current(&parties, record.version.epoch) {
            return Err(Status::permission_denied("the session's ticket is not the manager's for this server"));
        }
        let _one = self.one.lock().await;
        let path = self.path.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let held: Option<Ticket> = file::load(&path)?;
            let accepted = ticket::accept(held.as_ref(), &offered);
            if accepted == Ok(true) {
                file::save(&path, &offered)?;
            }
            Ok::<_, file::StateFileError>((held, accepted))
        });
        let taken = taken.await.map_err(|_| Status::unavailable("the agent is stopping"))?;
        let (held, accepted) = taken.map_err(|e| Status::internal(chain(&e)))?;
        let held = held.as_ref().map(Ticket::to_wire);
        match accepted {
            Ok(_) => Ok(held),
            Err(back) => {
                let details = stale_session(record.version, held);
                Err(Status::with_details(Code::FailedPrecondition, back.to_string(), details))
            }
        }
    }
}
