//! The task that goes on with what the record's notes ask for: after a start, after a change of the manager, and whenever
//! something was in the way.

use std::{sync::Arc, time::Duration};

use bellwether_group::edits::{By, forgotten_by_all};
use bellwether_proto::{
    clock::now_ms,
    error::chain,
    status::{Event, Observation},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{publish::publisher::Command, shared::Shared, tasks::stopped};

/// The pause before something that was in the way is looked at again.
const RETRY: Duration = Duration::from_secs(30);

/// Runs until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, commands: mpsc::Sender<Command>, mut shutdown: watch::Receiver<bool>) {
    let (mut head, mut record) = (shared.head.subscribe(), shared.record.clone());
    loop {
        head.mark_unchanged();
        record.mark_unchanged();
        let pause = if look(&shared, &commands).await { Duration::MAX } else { RETRY };
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = shared.forgets.heard.notified() => {}
            changed = head.changed() => if changed.is_err() { return },
            changed = record.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Erases here what the record says, and notes what every server has erased. Whether nothing is left to be done here.
async fn look(shared: &Arc<Shared>, commands: &mpsc::Sender<Command>) -> bool {
    if shared.record.borrow().record().policy.forgotten.is_empty() {
        return true;
    }
    let (answer, answered) = oneshot::channel();
    if commands.send(Command::Erase(answer)).await.is_err() {
        return true;
    }
    let Ok(holds) = answered.await else { return true };
    let is_erased = holds.values().all(Option::is_none);
    shared.see(Event::Server(shared.name.clone(), Observation::Forgets(holds)));
    let done = shared.forgets.done_everywhere(shared.record.borrow().record());
    if done.is_empty() || shared.undisputed().is_err() {
        return is_erased;
    }
    let by = By::new(shared.name.as_str(), now_ms());
    if let Err(error) = shared.edit(|held| Ok(forgotten_by_all(held, &done, &by))).await {
        tracing::warn!(error = chain(&error), "it cannot be noted that every server has erased a content");
        return false;
    }
    is_erased
}
