//! Whether this server takes requests: what its sets say (W12), unless the group record has it out of service. One task
//! joins the two into what `/ready` shows.

use std::sync::Arc;

use bellwether_monitor::http::Ready;
use bellwether_proto::{
    key::PublicKey,
    record::{Record, Role, SignedRecord},
};
use tokio::sync::watch;

/// Shows `own` under the record, until one of the two ends.
pub(crate) async fn run(
    key: PublicKey,
    mut record: watch::Receiver<Arc<SignedRecord>>,
    mut own: watch::Receiver<Ready>,
    shown: watch::Sender<Ready>,
) {
    loop {
        let now = under(record.borrow_and_update().record(), &key, own.borrow_and_update().clone());
        shown.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
        tokio::select! {
            changed = record.changed() => if changed.is_err() { return },
            changed = own.changed() => if changed.is_err() { return },
        }
    }
}

/// What the record makes of `own`: a balancer that only asks `/ready` sends nothing to a server in maintenance.
fn under(record: &Record, key: &PublicKey, own: Ready) -> Ready {
    match record.by_key(key) {
        None => Ready::no("removed from the group"),
        Some(server) if server.role == Role::Disabled => {
            Ready::no(format!("disabled in the group; at the manager: bellwether maintenance finish {}", server.name))
        }
        Some(server) if server.drained => {
            Ready::no(format!("drained; at the manager: bellwether maintenance finish {}", server.name))
        }
        Some(_) => own,
    }
}
