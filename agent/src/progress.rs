//! The progress of long work on standard error: a moving line on a terminal, plain lines elsewhere.

use std::{
    cell::RefCell,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use bellwether_monitor::text::plain;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// The time between two lines without a terminal.
const LINE: Duration = Duration::from_secs(1);

/// Work in progress.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    /// The last line without a terminal, and its time.
    said: RefCell<(Instant, String)>,
}

impl Progress {
    /// Shows that `what` begins: "scanning nginx".
    pub fn begin(what: &str) -> Self {
        let began = Instant::now();
        if !io::stderr().is_terminal() {
            output::note(&format!("{what} …"));
            return Self { bar: None, began, said: RefCell::new((began, what.to_owned())) };
        }
        let style = ProgressStyle::with_template("{spinner} {msg} … {elapsed}").expect("a fixed template");
        let bar = ProgressBar::new_spinner().with_style(style).with_message(plain(what));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar: Some(bar), began, said: RefCell::new((began, String::new())) }
    }

    /// Shows the progress: at once on a terminal, elsewhere one line a second while it changes.
    pub fn now(&self, what: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(plain(&what));
            return;
        }
        let mut said = self.said.borrow_mut();
        if said.0.elapsed() >= LINE && said.1 != what {
            output::note(&format!("{what} …"));
            *said = (Instant::now(), what);
        }
    }

    /// Shows that the work is done: "scanned nginx: 312 entries".
    pub fn done(self, what: &str) {
        let took = self.began.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        output::note(&format!("{what} ({took:.1} s)"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
