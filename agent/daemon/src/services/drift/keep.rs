//! The manager's part of `drift keep`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether_manager::{Adopt, Adopted, Manager};
use bellwether_proto::{
    name::ServerName,
    record::Server,
    status::{FarmStatus, ServerStatus},
    v1,
};
use bellwether_store::mutex::locked;
use tonic::Status;

use super::{
    super::refusal::refusal,
    DriftService,
    edits::{self, Fetched},
    in_time, of,
};
use crate::drift;

/// The time that all edits of a member have to come.
const ARRIVAL: Duration = Duration::from_secs(120);
/// The longest wait for the status of a member that was told that its edits are kept.
const TOLD: Duration = Duration::from_secs(1);
/// The most keeps at a time: each holds a member's edits in memory.
const KEEPS: usize = 4;

/// The members whose edits are being kept: one keep of each, and few in all, to limit memory (invariant 6).
#[derive(Debug, Clone, Default)]
pub(super) struct Keeps(Arc<Mutex<BTreeSet<ServerName>>>);

/// One keep under way, until it is dropped.
struct Keeping(Keeps, ServerName);

impl Keeps {
    fn begin(&self, server: &ServerName) -> Result<Keeping, Status> {
        let mut under_way = locked(&self.0);
        if under_way.len() < KEEPS && under_way.insert(server.clone()) {
            return Ok(Keeping(self.clone(), server.clone()));
        }
        Err(Status::resource_exhausted(format!(
            "edits of {server}, or of other servers, are being kept already; try again"
        )))
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        locked(&self.0.0).remove(&self.1);
    }
}

impl DriftService {
    /// Fetches the edits, makes a revision of them, and tells the member.
    pub(super) async fn keep_from(
        &self,
        manager: &Manager,
        member: &Server,
        keep: v1::KeepRequest,
    ) -> Result<v1::KeepReply, Status> {
        let v1::KeepRequest { places, author, message, dry_run, accept, .. } = keep;
        let _one = self.keeps.begin(&member.name)?;
        let mut client = self.dial(member).await?;
        let fetched = tokio::time::timeout(ARRIVAL, edits::fetch(&mut client, places)).await;
        let late = |_| Status::deadline_exceeded(format!("{} did not send its edits", member.name));
        let Fetched { at, edits, chunks } = fetched.map_err(late)?.map_err(|status| of(&member.name, &status))?;
        let message = if message.is_empty() { format!("kept the edits of {}", member.name) } else { message };
        let known = drift::to_wire(&edits);
        let adopted =
            manager.adopt(Adopt { at, edits, chunks, author, message, dry_run, accept }).await.map_err(refusal)?;
        if !dry_run && let Err(status) = in_time(&member.name, client.kept(v1::KeptRequest { edits: known })).await {
            // If this fails, the member delays its updates under the policy hold until the next keep tells it again.
            let span = tracing::error_span!("peer", server = %member.name);
            let why = status.message();
            span.in_scope(|| tracing::warn!(why, "it could not be told that its edits are kept"));
        }
        if !dry_run {
            self.wait_until_free(member).await;
        }
        Ok(kept(adopted))
    }

    /// Waits until the status shows that edits do not hold that member back any more, because a command that follows would take
    /// the state from before for the end. Not for long: it may have other edits.
    async fn wait_until_free(&self, member: &Server) {
        let free = |status: &Arc<FarmStatus>| {
            let held = |server: &ServerStatus| server.name == member.name && server.held;
            !status.servers.iter().any(held)
        };
        let mut farm = self.agent.farm.clone();
        // An error means that the agent stops.
        let _ = tokio::time::timeout(TOLD, farm.wait_for(free)).await;
    }
}

fn kept(adopted: Adopted) -> v1::KeepReply {
    v1::KeepReply {
        revision: adopted.revision.as_ref().map(|header| header.number().to_string()).unwrap_or_default(),
        id: adopted.revision.map(|header| header.id().0.into()).unwrap_or_default(),
        entries: adopted.count,
        first: adopted.first,
    }
}
