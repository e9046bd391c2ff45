//! Whether this server leads its group. One source decides it, and [`crate::run::role`] alone acts on it: the old role
//! ends before the new one begins. The source is the group record today; a lease would be another one.

use std::sync::Arc;

use bellwether_proto::{key::PublicKey, record::SignedRecord, revision::Epoch};
use tokio::sync::watch;

/// The role that this server is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    Lead(Epoch),
    Follow,
}

/// A source of leadership.
pub(crate) trait Leadership: Send {
    fn duty(&mut self) -> Duty;

    /// Returns when the duty may differ from the last one returned; false if the source is gone. It may be cancelled.
    fn changed(&mut self) -> impl Future<Output = bool> + Send;
}

/// The group record as the source: its manager leads, in its epoch.
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
