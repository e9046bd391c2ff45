//! What the manager said of the farm, as a member remembers it: asked for at most once a second, however many look.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_monitor::farm::Told;
use bellwether_proto::{clock::now_ms, status::FarmStatus};
use bellwether_store::mutex::locked;
use bytes::Bytes;

/// How old an answer may be before the manager is asked again, and how long it is left alone when it gave none.
const AGE: Duration = Duration::from_secs(1);

/// The newest answer.
#[derive(Debug, Default)]
pub(crate) struct ManagersWord {
    heard: std::sync::Mutex<Option<(Bytes, u64)>>,
    /// When the manager was asked last; held by the one that asks.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl ManagersWord {
    /// The manager has just said this.
    pub(crate) fn heard(&self, json: &Bytes) {
        *locked(&self.heard) = Some((json.clone(), now_ms()));
    }

    /// Has `ask` ask it, unless somebody did a moment ago.
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

    /// `own`, the status as this member knows it, with what the manager said of the others.
    pub(crate) fn added_to(&self, own: Arc<FarmStatus>) -> Arc<FarmStatus> {
        let heard = locked(&self.heard).clone();
        let told = heard.and_then(|(json, time_ms)| {
            // A manager of another version says it in other words: then only what is known here is shown.
            Some(Told { status: serde_json::from_slice(&json).ok()?, time_ms })
        });
        match told {
            Some(told) => Arc::new(told.added_to(&own)),
            None => own,
        }
    }
}
