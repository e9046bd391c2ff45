//! The manager's report on the farm, as a member remembers it. It is asked for at most once a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_monitor::farm::Told;
use bellwether_proto::{clock::now_ms, status::FarmStatus};
use bellwether_store::mutex::locked;
use bytes::Bytes;

/// The age at which an answer is renewed, and the pause after no answer.
const AGE: Duration = Duration::from_secs(1);

/// The newest answer.
#[derive(Debug, Default)]
pub(crate) struct ManagersWord {
    heard: std::sync::Mutex<Option<(Bytes, u64)>>,
    /// The time of the last question; the task that asks holds the lock.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl ManagersWord {
    /// Stores the manager's report.
    pub(crate) fn heard(&self, json: &Bytes) {
        *locked(&self.heard) = Some((json.clone(), now_ms()));
    }

    /// Renews the report with `ask`, unless it was asked for a moment ago.
    pub(crate) async fn refresh(&self, ask: impl Future<Output = Option<Bytes>>) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < AGE) {
            return;
        }
        if let Some(json) = ask.await {
            self.heard(&json);
        }
        *asked = Some(Instant::now());
    }

    /// `own`, this member's own status, extended by the manager's report on the others.
    pub(crate) fn added_to(&self, own: Arc<FarmStatus>) -> Arc<FarmStatus> {
        let heard = locked(&self.heard).clone();
        let told = heard.and_then(|(json, time_ms)| {
            // The report of another version may not parse: then only the own status is shown.
            Some(Told { status: serde_json::from_slice(&json).ok()?, time_ms })
        });
        match told {
            Some(told) => Arc::new(told.added_to(&own)),
            None => own,
        }
    }
}
