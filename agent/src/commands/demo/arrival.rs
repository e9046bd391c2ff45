//! Measures when files arrive, with looks that are short enough to give times worth printing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// The time between two looks at all files.
const STEP: Duration = Duration::from_micros(200);

/// One file on one server.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// The server.
    pub(super) server: String,
    /// The file.
    pub(super) path: PathBuf,
    /// The content that it will have.
    pub(super) content: Arc<[u8]>,
}

/// The server and the time of each file.
pub(super) type Arrivals = Vec<(String, Option<Duration>)>;

/// Waits until each file holds its content. Returns the times after `since`, in the order of `files`; none: not within
/// `limit`. It begins at once, on its own thread, which ends when nobody awaits the answer.
pub(super) fn watch(files: Vec<Expected>, since: Instant, limit: Duration) -> impl Future<Output = Arrivals> {
    let (done, seen) = oneshot::channel();
    let servers: Vec<_> = files.iter().map(|file| file.server.clone()).collect();
    thread::spawn(move || look(&files, since, limit, done));
    async move {
        let times = seen.await.unwrap_or_else(|_| vec![None; servers.len()]);
        servers.into_iter().zip(times).collect()
    }
}

fn look(files: &[Expected], since: Instant, limit: Duration, done: oneshot::Sender<Vec<Option<Duration>>>) {
    let mut times = vec![None; files.len()];
    while times.contains(&None) && since.elapsed() < limit && !done.is_closed() {
        for (file, time) in files.iter().zip(&mut times).filter(|(_, time)| time.is_none()) {
            if holds(&file.path, &file.content) {
                *time = Some(since.elapsed());
            }
        }
        thread::sleep(STEP);
    }
    // Nobody awaits the answer any more.
    let _ = done.send(times);
}

fn holds(path: &Path, content: &[u8]) -> bool {
    let right_length = path.symlink_metadata().is_ok_and(|metadata| metadata.len() == content.len() as u64);
    right_length && fs::read(path).is_ok_and(|bytes| bytes == content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(dir: &Path) -> Vec<Expected> {
        ["a", "b"]
            .map(|name| Expected { server: name.to_owned(), path: dir.join(name), content: Arc::from(*b"new") })
            .to_vec()
    }

    #[tokio::test]
    async fn what_arrives_has_a_time() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let limit = Duration::from_secs(60);
        let seen = watch(expected(dir.path()), Instant::now(), limit);
        fs::write(dir.path().join("a"), "new").unwrap();
        fs::write(dir.path().join("b"), "new").unwrap();
        assert!(seen.await.iter().all(|(_, time)| time.is_some()));
    }

    #[tokio::test]
    async fn what_does_not_has_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let seen = watch(expected(dir.path()), Instant::now(), Duration::from_millis(2)).await;
        assert_eq!(seen, [("a".to_owned(), None), ("b".to_owned(), None)]);
    }
}
