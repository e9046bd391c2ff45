//! Whether this server leads its group. One source says it, and [`crate::run::role`] alone acts on it: what can be done in the old
//! role ends before the new one begins. The group record is the source today; a lease would be another one.

use std::sync::Arc;

use bellwether_proto::{key::PublicKey, record::SignedRecord, revision::Epoch};
use tokio::sync::watch;

/// What this server is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    Lead(Epoch),
    Follow,
}

/// A source of leadership.
pub(crate) trait Leadership: Send {
    /// What this server is to be now.
    fn duty(&mut self) -> Duty;

    /// Returns when there may be another duty than the last one that was asked for; false: the source is gone. May be
    /// cancelled.
    fn changed(&mut self) -> impl Future<Output = bool> + Send;
}

/// The group record says it: its manager leads, in its epoch.
pub(crate) struct ByRecord {
    pub(crate) record: watch::Receiver<Arc<SignedRecord>>,
    pub(crate) own: PublicKey,
}

impl Leadership for ByRecord {
    fn duty(&mut self) -> Duty {
        let signed = self.record.borrow_and_update();
        let record = signed.record();
        if record.manager().key == self.own { Duty::Lead(record.version.epoch) } else { Duty::Follow }
    }

    async fn changed(&mut self) -> bool {
        self.record.changed().await.is_ok()
    }
}
