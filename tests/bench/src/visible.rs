//! The time at which a change is seen on the members, from outside and in the same way for every contender: one thread looks
//! at the files in turn, with a pause of 0.2 ms between rounds. A file's stat decides whether it is read.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::problem::{Problem, Result};

/// The pause between two rounds.
const NAP: Duration = Duration::from_micros(200);

/// A file on a member that is about to change.
#[derive(Debug)]
pub(crate) struct Awaited<'a> {
    path: PathBuf,
    content: &'a [u8],
    before: Option<Stamp>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl<'a> Awaited<'a> {
    /// The present file, which is to have that content.
    pub(crate) fn new(path: PathBuf, content: &'a [u8]) -> Self {
        Self { before: Stamp::of(&path).ok(), path, content }
    }

    fn is_there(&self) -> bool {
        let now = Stamp::of(&self.path).ok();
        now.is_some() && now != self.before && fs::read(&self.path).is_ok_and(|content| content == self.content)
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self(found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    }
}

/// Waits until all files of all members are there; each inner list is one member's. Returns the seconds from `began` after
/// which the last member had its last file.
///
/// # Errors
/// Some files are not there after `patience`.
pub(crate) fn wait(began: Instant, members: Vec<Vec<Awaited<'_>>>, patience: Duration) -> Result<f64> {
    let mut waiting: Vec<_> = members.into_iter().map(|files| files.into_iter().peekable()).collect();
    loop {
        for files in &mut waiting {
            // A member's files may come in any order; the member is done when all are there.
            while files.next_if(Awaited::is_there).is_some() {}
        }
        let missing = waiting.iter_mut().find_map(|files| files.peek());
        let Some(missing) = missing else { return Ok(began.elapsed().as_secs_f64()) };
        if began.elapsed() > patience {
            return Err(Problem::new(format!("{} has not changed after {patience:?}", missing.path.display())));
        }
        thread::sleep(NAP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_all_members_are_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b"] {
            fs::write(path(name), "old").expect("written");
        }
        let all = vec![vec![Awaited::new(path("a"), b"new!")], vec![Awaited::new(path("b"), b"new!")]];
        fs::write(path("a"), "new!").expect("written");
        let missing = wait(Instant::now(), all, Duration::from_millis(5)).expect_err("b is old");
        assert!(missing.to_string().contains("/b "), "{missing}");
        let b = vec![vec![Awaited::new(path("b"), b"new!")]];
        thread::scope(|scope| {
            scope.spawn(|| fs::write(path("b"), "newer, and then").and_then(|()| fs::write(path("b"), "new!")));
            assert!(wait(Instant::now(), b, Duration::from_secs(60)).expect("it comes") > 0.0);
        });
    }
}
