//! Whether a server that wants to enter can be reached at the address that it gives: asked before it enters, so that
//! nobody belongs to a group that cannot push to it.

use std::time::Duration;

use bellwether_proto::{key::PublicKey, v1};

use super::by;
use crate::{
    Manager,
    members::entering::{Admitted, EnterError, entered},
    shared::EditError,
};

/// How long the server may take to prove its key at that address.
const PATIENCE: Duration = Duration::from_secs(5);

impl Manager {
    /// Dials the address that a server with a token gives, and waits until that server has proved its key there.
    ///
    /// # Errors
    /// Its token does not admit it, or it is not reached: the address that was dialled, and why. The record is as it was.
    pub async fn dial_back(&self, request: &v1::EnterRequest, key: &PublicKey) -> Result<(), EnterError> {
        let Admitted { name, replaces, tokens, next } = self.admit(request, key).await?;
        // Others may enter meanwhile.
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
