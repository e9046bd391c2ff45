//! Ends that nobody asked for. A panic on any thread ends the agent, whatever the profile: a task that is gone while the
//! others live on would be a farm that follows nothing and says nothing. What was dealt with at that moment is noted, and
//! what was there three times is kept out at the next start ([`quarantine`]).

use std::{
    panic::PanicHookInfo,
    path::{Path, PathBuf},
    sync::{Mutex, TryLockError},
    time::Duration,
};

use bellwether_manager::tasks;
use bellwether_proto::{clock::now_ms, error::chain, status::Event};
use bellwether_store::{
    quarantine::{self, End, Ends, Follow, Held},
    underway,
};
use tokio::sync::mpsc;

/// Between two looks at whether somebody lifted a quarantine.
const LOOK: Duration = Duration::from_secs(1);

/// From now on a panic anywhere is noted in that state directory, and ends the process.
pub(crate) fn end_at_a_panic(state: PathBuf) {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        shown(panic);
        // Of several at once the first one ends the process.
        static FIRST: Mutex<()> = Mutex::new(());
        let _first = match FIRST.try_lock() {
            Ok(first) => first,
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => loop {
                std::thread::park();
            },
        };
        let (task, what) = (task(), what(panic));
        tracing::error!(task, what, "a panic: the agent ends, to be started again");
        note(&state, &task, &what);
        std::process::abort();
    }));
}

/// The task that panics, or its thread.
fn task() -> String {
    let thread = std::thread::current();
    tasks::current().or(thread.name()).unwrap_or("a thread without a name").to_owned()
}

fn what(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let said = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it said nothing");
    let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{said}{place}")
}

/// Notes an end with what is dealt with now. It must not fail for what was noted before.
pub(crate) fn note(state: &Path, task: &str, what: &str) {
    let mut ends = quarantine::load(state).unwrap_or_else(|error| {
        tracing::error!(error = chain(&error), "the ends before this one are forgotten");
        Ends::default()
    });
    let end = End { time_ms: now_ms(), task: task.to_owned(), what: what.to_owned(), suspects: underway::now() };
    let dealt = end.suspects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let guilty = ends.note(end);
    if !dealt.is_empty() {
        tracing::error!("what was dealt with: {dealt}");
    }
    for suspect in guilty {
        tracing::error!(%suspect, "there at three such ends: from the next start on it is quarantined");
    }
    if let Err(error) = quarantine::save(state, &ends) {
        tracing::error!(error = chain(&error), "this end could not be noted");
    }
}

/// One line for each that is kept out: which, why, and how it is let in again.
pub fn lines(ends: &Ends) -> Vec<String> {
    let line = |Held { suspect, what, .. }: &Held| {
        format!(
            "{suspect} was dealt with at three ends of this agent ({what}); let it in: bellwether quarantine lift '{suspect}'"
        )
    };
    ends.held.iter().map(line).collect()
}

/// Keeps out whom the file in the state directory says, and follows it: whoever lifts a quarantine removes it there.
pub(crate) struct KeptOut {
    file: Follow,
    events: mpsc::UnboundedSender<Event>,
}

impl KeptOut {
    /// Nobody is kept out yet.
    pub(crate) fn new(state: PathBuf, events: mpsc::UnboundedSender<Event>) -> Self {
        Self { file: Follow::new(state), events }
    }

    /// Looks at the file: one small one, in a directory that is used all the time.
    pub(crate) fn look(&mut self) {
        match self.file.look() {
            Ok(None) => {}
            Ok(Some(ends)) => {
                let held = lines(&ends);
                held.iter().for_each(|line| tracing::warn!("quarantined: {line}"));
                let _ = self.events.send(Event::Quarantined(held));
            }
            Err(error) => tracing::error!(error = chain(&error), "what is quarantined cannot be read"),
        }
    }

    /// Looks again and again.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look();
        }
    }
}
