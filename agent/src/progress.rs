//! How long work is shown on standard error: a moving line on a terminal, plain lines elsewhere.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Work that is under way.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Progress {
    /// Says that `what` begins: "scanning nginx".
    pub fn begin(what: &str) -> Self {
        let began = Instant::now();
        if !io::stderr().is_terminal() {
            eprintln!("{what} …");
            return Self { bar: None, began };
        }
        let style = ProgressStyle::with_template("{spinner} {msg} … {elapsed}").expect("a fixed template");
        let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar: Some(bar), began }
    }

    /// Says how far it is, where somebody looks on.
    pub fn now(&self, what: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(what);
        }
    }

    /// Says that it is done: "scanned nginx: 312 entries".
    pub fn done(self, what: &str) {
        let took = self.began.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{what} ({took:.1} s)");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
