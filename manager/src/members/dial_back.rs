//! Checks, before a server enters, that its given address reaches it: a group has no members that it cannot push to.

use std::time::Duration;

use bellwether_proto::{key::PublicKey, v1};

use super::by;
use crate::{
    Manager,
    members::entering::{Admitted, EnterError, entered},
    shared::EditError,
};

/// The time that the server has to prove its key at that address.
const PATIENCE: Duration = Duration::from_secs(5);

impl Manager {
    /// Dials the address that a server with a token gives, and waits until that server has proved its key there.
    ///
    /// # Errors
    /// The token does not admit the server, or it is not reached: the address and the reason. The record is unchanged.
    pub async fn dial_back(&self, request: &v1::EnterRequest, key: &PublicKey) -> Result<(), EnterError> {
        let Admitted { name, replaces, tokens, next } = self.admit(request, key).await?;
        // Released, so that others may enter meanwhile.
        drop(self.save_tokens(tokens, next).await?);
        let record = self.record();
        let next =
            entered(&record, &name, key, &request.address, replaces, &by(name.as_str())).map_err(EditError::from)?;
        let record = next.as_ref().unwrap_or_else(|| record.record());
        let Some(server) = record.by_key(key) else { return Ok(()) };
        let dialled = tokio::time::timeout(PATIENCE, self.inner.shared.dial.dial(server)).await;
        let why = match dialled {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        let (address, manager) = (server.address.clone(), record.manager().name.clone());
        Err(EnterError::OutOfReach { server: name, manager, address, why })
    }
}
