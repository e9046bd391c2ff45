//! A member's ticket of its last session with a manager (W14). The ticket is durable before the manager gets an answer.

use std::{path::PathBuf, sync::Arc};

use bellwether_member::greeting::{self, Refused};
use bellwether_proto::{error::chain, ticket::Ticket, v1};
use bellwether_store::state::{file, record::GroupRecord};
use tokio::sync::Mutex;
use tonic::Status;

use super::with;

/// The stored ticket.
pub(super) struct Tickets {
    record: Arc<GroupRecord>,
    path: PathBuf,
    one: Mutex<()>,
}

impl Tickets {
    pub(super) fn new(record: Arc<GroupRecord>) -> Self {
        Self { path: record.layout().ticket(), record, one: Mutex::new(()) }
    }

    /// Stores the ticket of a session that begins, and returns the previous ticket for the manager.
    ///
    /// # Errors
    /// The ticket is not the manager's, or the manager's state went back, with the proof in the details.
    pub(super) async fn take(&self, hello: &v1::DownHello) -> Result<Option<v1::Ticket>, Status> {
        let Some(offered) = &hello.ticket else { return Ok(None) };
        let offered = Ticket::from_wire(offered).map_err(Refused::from)?;
        let record = self.record.clone();
        let _one = self.one.lock().await;
        let path = self.path.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let held: Option<Ticket> = file::load(&path)?;
            let newer = with(&record, |here| greeting::ticket(here, held.as_ref(), offered));
            if let Ok(Some(newer)) = &newer {
                file::save(&path, newer)?;
            }
            Ok::<_, file::StateFileError>((held, newer))
        });
        let taken = taken.await.map_err(|_| Status::unavailable("the agent is stopping"))?;
        let (held, newer) = taken.map_err(|e| Status::internal(chain(&e)))?;
        newer?;
        Ok(held.as_ref().map(Ticket::to_wire))
    }
}
