//! The output of the demo: each step with the time since the start.

use std::time::{Duration, Instant};

use crate::output;

/// Prints on standard output, or on standard error if standard output is for the JSON document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Say {
    start: Instant,
    json: bool,
}

impl Say {
    pub(super) fn new(json: bool) -> Self {
        Self { start: Instant::now(), json }
    }

    /// A heading.
    pub(super) fn step(&self, text: &str) {
        self.line(&format!("\n{:>8} {text}", format!("{:.2} s", self.start.elapsed().as_secs_f64())));
    }

    /// A command, as one types it in the demo's directory.
    pub(super) fn command(&self, text: &str) {
        self.line(&format!("         $ {text}"));
    }

    /// The result: each line of `text`.
    pub(super) fn result(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.line(format!("           {line}").trim_end());
        }
    }

    /// The time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn line(&self, text: &str) {
        if self.json { output::note(text) } else { output::line(text) }
    }
}

/// A measured time in milliseconds: `8.3 ms`.
pub(super) fn ms(time: Duration) -> String {
    bellwether_monitor::text::micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
