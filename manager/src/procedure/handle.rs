//! What procedures ask of the manager that nobody else does.

use std::{collections::BTreeSet, sync::Arc};

use bellwether_proto::{name::ServerName, record::SignedRecord};

use crate::{Manager, by, group, shared::EditError};

impl Manager {
    /// Takes servers out of service, or back into it, as far as the record goes (W12).
    ///
    /// # Errors
    /// The record is as it was.
    pub async fn set_drained(
        &self,
        servers: &[ServerName],
        drained: bool,
        author: &str,
    ) -> Result<Arc<SignedRecord>, EditError> {
        self.inner.shared.edit(|held| Ok(group::set_drained(held, servers, drained, &by(author)))).await
    }

    /// Adds a server again that was removed or disabled, out of service until it is complete (W19, W21).
    ///
    /// # Errors
    /// The record is as it was.
    pub async fn bring_back(&self, name: &ServerName, author: &str) -> Result<Arc<SignedRecord>, EditError> {
        self.inner.shared.edit(|held| group::bring_back(held, name, &by(author))).await
    }

    /// The candidates that have the newest document of procedures.
    pub fn informed(&self) -> BTreeSet<ServerName> {
        let shared = &self.inner.shared;
        let newest = shared.board.version();
        let reached = shared.reached.borrow();
        let informed = reached.iter().filter(|(_, server)| server.procedures.is_some() && server.procedures == newest);
        informed.map(|(name, _)| name.clone()).collect()
    }
}
