//! Named points at which a test kills this program, makes it panic, or makes an operation fail. Releases have none.
//!
//! `BELLWETHER_FAILPOINT="name"` kills the process with SIGKILL when the point is reached, `"name:3"` when it is
//! reached the third time. `"name=error"` and `"name:3=error"` make [`check`] fail there, once; `"name=panic"` panics
//! there. `"name=hold:PATH"` makes [`hit`] and [`check`] create `PATH.reached` and wait until the file PATH exists.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Every point of an apply, in order.
pub const APPLY: &[&str] = &[
    "apply.begun",
    "apply.supply",
    "apply.unsynced",
    "apply.staged",
    "log.appended",
    "apply.journal",
    "apply.before-exchange",
    "apply.after-exchange",
    "apply.exchanged",
    "apply.synced",
    "apply.read-back",
    "apply.commit",
    "apply.kept",
    "apply.journal-removed",
    "apply.cleaned",
];

/// Every point of a pack's way into the history.
pub const HISTORY: &[&str] = &["history.appended"];

/// Every point of a recovery that completes a switch.
pub const RECOVER: &[&str] = &["apply.recover-entry", "apply.recover-synced", "apply.journal-removed"];

/// Every point of a recovery that takes a switch back.
pub const TAKE_BACK: &[&str] = &["apply.back", "apply.back-entry", "apply.back-synced", "apply.back-done"];

/// Whether this build has failpoints.
pub const THERE: bool = cfg!(any(debug_assertions, feature = "failpoints"));

#[derive(Debug, PartialEq, Eq)]
enum Strike {
    Kill,
    Error,
    Panic,
    Hold(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
struct Armed {
    name: String,
    at: u64,
    strike: Strike,
}

fn parse(text: &str) -> Armed {
    let (point, strike) = match text.split_once('=') {
        Some((point, "error")) => (point, Strike::Error),
        Some((point, "panic")) => (point, Strike::Panic),
        Some((point, held)) if held.starts_with("hold:") => (point, Strike::Hold(held[5..].into())),
        Some(_) | None => (text, Strike::Kill),
    };
    let counted = point.rsplit_once(':').and_then(|(name, at)| Some((name, at.parse().ok()?)));
    let (name, at) = counted.unwrap_or((point, 1));
    Armed { name: name.to_owned(), at, strike }
}

/// Whether this is the hit that `armed` waits for.
fn due(armed: &Armed, name: &str, hits: &AtomicU64) -> bool {
    armed.name == name && hits.fetch_add(1, Ordering::SeqCst) + 1 == armed.at
}

fn fires(name: &str) -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);
    let armed = ARMED.get_or_init(|| std::env::var("BELLWETHER_FAILPOINT").ok().map(|text| parse(&text))).as_ref()?;
    due(armed, name, &HITS).then_some(armed)
}

/// Passes the point `name`: the process is killed here, or this thread panics, if the environment says so.
///
/// # Panics
/// If the environment says so.
pub fn hit(name: &str) {
    if THERE && let Some(armed) = fires(name) {
        strike(armed, name);
    }
}

/// Passes the point `name`, at which an error can be injected.
///
/// # Errors
/// The injected one.
///
/// # Panics
/// If the environment says so.
pub fn check(name: &str) -> io::Result<()> {
    if THERE && let Some(armed) = fires(name) {
        if armed.strike == Strike::Error {
            return Err(io::Error::other(format!("injected at {name}")));
        }
        strike(armed, name);
    }
    Ok(())
}

fn strike(armed: &Armed, name: &str) {
    match &armed.strike {
        Strike::Kill => die(),
        Strike::Hold(until) => hold(until),
        Strike::Panic => panic!("injected at {name}"),
        // Only an operation can fail.
        Strike::Error => {}
    }
}

/// Marks the point as reached, and waits until it may go on.
fn hold(until: &Path) {
    let mut reached = until.as_os_str().to_owned();
    reached.push(".reached");
    let _ = std::fs::write(reached, "");
    while !until.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Like a power failure: no destructor and no handler runs.
fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_armed_by_name_by_hit_and_by_kind() {
        let armed = |name: &str, at, strike| Armed { name: name.to_owned(), at, strike };
        assert_eq!(parse("apply.staged"), armed("apply.staged", 1, Strike::Kill));
        assert_eq!(parse("apply.staged:3"), armed("apply.staged", 3, Strike::Kill));
        assert_eq!(parse("apply.staged=error"), armed("apply.staged", 1, Strike::Error));
        assert_eq!(parse("apply.staged:2=error"), armed("apply.staged", 2, Strike::Error));
        assert_eq!(parse("task.publisher=panic"), armed("task.publisher", 1, Strike::Panic));
        assert_eq!(parse("task.publisher:2=panic"), armed("task.publisher", 2, Strike::Panic));
        assert_eq!(parse("x:2=hold:/a/b:c"), armed("x", 2, Strike::Hold("/a/b:c".into())));
    }

    #[test]
    fn it_fires_once_at_its_hit_and_at_no_other_point() {
        let (armed, hits) = (parse("x:2"), AtomicU64::new(0));
        assert_eq!(["x", "y", "x", "x"].map(|name| due(&armed, name, &hits)), [false, false, true, false]);
    }

    #[test]
    fn without_the_variable_nothing_happens() {
        hit("apply.staged");
        assert!(check("apply.staged").is_ok());
    }
}
