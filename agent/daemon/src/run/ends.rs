//! Unexpected ends. A panic on any thread ends the agent, in every build profile: without one of its tasks, it could
//! silently stop following. The work in progress at that moment is noted, and what was in progress at three ends is
//! quarantined at the next start ([`quarantine`]).

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

/// The interval of checks whether a quarantine was lifted.
const LOOK: Duration = Duration::from_secs(1);

/// From now on a panic anywhere is noted in that state directory, and ends the process.
pub(crate) fn end_at_a_panic(state: PathBuf) {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        shown(panic);
        // Of several panics at once the first one ends the process.
        static FIRST: Mutex<()> = Mutex::new(());
        let _first = match FIRST.try_lock() {
            Ok(first) => first,
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => loop {
                std::thread::park();
            },
        };
        let (task, what) = (task(), what(panic));
        tracing::error!(task, what, "a panic ends the agent; it is to be started again");
        note(&state, &task, &what);
        std::process::abort();
    }));
}

/// The name of the task that panics, or of its thread.
fn task() -> String {
    let thread = std::thread::current();
    tasks::current().or(thread.name()).unwrap_or("a thread without a name").to_owned()
}

fn what(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let said = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{said}{place}")
}

/// Notes an end with the work in progress. An unreadable earlier note must not make this fail.
pub(crate) fn note(state: &Path, task: &str, what: &str) {
    let mut ends = quarantine::load(state).unwrap_or_else(|error| {
        tracing::error!(error = chain(&error), "the earlier ends cannot be read and are forgotten");
        Ends::default()
    });
    let end = End { time_ms: now_ms(), task: task.to_owned(), what: what.to_owned(), suspects: underway::now() };
    let dealt = end.suspects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let guilty = ends.note(end);
    if !dealt.is_empty() {
        tracing::error!("these were in progress: {dealt}");
    }
    for suspect in guilty {
        tracing::error!(%suspect, "in progress at three such ends: from the next start on it is quarantined");
    }
    if let Err(error) = quarantine::save(state, &ends) {
        tracing::error!(error = chain(&error), "this end could not be noted");
    }
}

/// One line for each quarantined thing: its name, the reason, and how to lift the quarantine.
pub fn lines(ends: &Ends) -> Vec<String> {
    let line = |Held { suspect, what, .. }: &Held| {
        format!(
            "{suspect} was handled at 3 ends of this agent ({what}); let it in: bellwether quarantine lift '{suspect}'"
        )
    };
    ends.held.iter().map(line).collect()
}

/// The quarantine as the file in the state directory lists it. Lifting a quarantine removes its entry there.
pub(crate) struct KeptOut {
    file: Follow,
    events: mpsc::UnboundedSender<Event>,
}

impl KeptOut {
    /// Starts with an empty quarantine.
    pub(crate) fn new(state: PathBuf, events: mpsc::UnboundedSender<Event>) -> Self {
        Self { file: Follow::new(state), events }
    }

    /// Checks the file; it is small, and in a directory that is used all the time.
    pub(crate) fn look(&mut self) {
        match self.file.look() {
            Ok(None) => {}
            Ok(Some(ends)) => {
                let held = lines(&ends);
                held.iter().for_each(|line| tracing::warn!("quarantined: {line}"));
                let _ = self.events.send(Event::Quarantined(held));
            }
            Err(error) => tracing::error!(error = chain(&error), "the quarantine cannot be read"),
        }
    }

    /// Repeats the check.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look();
        }
    }
}
