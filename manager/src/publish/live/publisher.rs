//! The publisher's part: it looks for edits at the live paths now and then, and notes when the edited directories are in line with
//! the head.

use std::time::{Duration, Instant};

use bellwether_proto::status::{Event, Observation};

use crate::publish::{live, publisher::Publisher};

/// The interval of looks for edits at the live paths.
const LOOK: Duration = Duration::from_secs(5);

/// The pause without live paths.
const NEVER: Duration = Duration::from_secs(86_400);

/// The next look at the live paths, and what the monitor was told of the last one.
pub(crate) struct LiveLook {
    next: Instant,
    told: Option<(u64, Vec<String>)>,
}

impl LiveLook {
    pub(crate) fn new(now: Instant) -> Self {
        Self { next: now, told: None }
    }

    /// A revision was published.
    pub(crate) fn soon(&mut self) {
        self.next = Instant::now();
    }

    /// Returns when the next look is due. It may be cancelled.
    pub(crate) async fn due(&self) {
        tokio::time::sleep_until(self.next.into()).await;
    }
}

impl Publisher {
    /// Tells the monitor of the edits at the live paths, if they changed.
    pub(crate) async fn look_live(&mut self) {
        if self.shared.live.is_empty() {
            self.live.next = Instant::now() + NEVER;
            return;
        }
        self.live.next = Instant::now() + LOOK;
        let shared = self.shared.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || live::drift(&shared)).await else { return };
        let observed = match found {
            Ok(found) if self.live.told.as_ref() == Some(&found) => return,
            Ok((entries, paths)) => {
                self.live.told = Some((entries, paths.clone()));
                Observation::Drift { entries, paths, held: false, kept: Vec::new() }
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the live paths are not looked at");
                return;
            }
        };
        self.shared.see(Event::Server(self.shared.name.clone(), observed));
    }

    /// Notes that the edited directories are in line with the head, or that a person decided so.
    pub(crate) async fn trust_sources(&self) {
        if !self.shared.live.holds() {
            return;
        }
        let shared = self.shared.clone();
        let epoch = self.shared.head.borrow().stored.header.number().epoch;
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || shared.live.trust(epoch)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the source is not published by itself yet");
        }
    }
}
