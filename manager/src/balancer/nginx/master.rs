//! The processes of an nginx: a master and its workers. A worker that ends has that in its title.

use std::{fs, io, path::Path};

/// A worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) pid: i32,
    /// Whether it takes no new connections.
    pub(super) ending: bool,
}

/// The process id in a pid file.
pub(super) fn pid(file: &Path) -> io::Result<i32> {
    let text = fs::read_to_string(file)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it holds no process id");
    text.trim().parse().ok().filter(|pid| *pid > 1).ok_or_else(wrong)
}

/// The workers of that master, except for those that end meanwhile.
pub(super) fn workers(master: i32) -> io::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if parent(&entry.path()) != Some(master) {
            continue;
        }
        let title = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title);
        if title.starts_with("nginx: worker process") {
            workers.push(Worker { pid, ending: title.contains("is shutting down") });
        }
    }
    Ok(workers)
}

/// The parent, unless the process has ended.
fn parent(process: &Path) -> Option<i32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // pid (name) state ppid …: the name may contain any character.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    let state = rest.next()?;
    let parent = rest.next()?.parse().ok()?;
    (state != "Z").then_some(parent)
}

/// Whether all workers from before a reload have ended or are about to, and new ones exist.
pub(super) fn replaced(before: &[Worker], now: &[Worker]) -> bool {
    let was = |worker: &Worker| before.iter().any(|old| old.pid == worker.pid);
    now.iter().filter(|worker| was(worker)).all(|worker| worker.ending)
        && now.iter().any(|worker| !was(worker) && !worker.ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_replaced_when_the_new_ones_are_there_and_the_old_ones_end() {
        let worker = |pid, ending| Worker { pid, ending };
        let before = [worker(1, false), worker(2, true)];
        for (now, done) in [
            (&before[..], false),
            (&[worker(1, false), worker(3, false)], false),
            (&[worker(1, true)], false),
            (&[worker(1, true), worker(3, false)], true),
            (&[worker(3, false)], true),
            (&[worker(3, true)], false),
            (&[], false),
        ] {
            assert_eq!(replaced(&before, now), done, "{now:?}");
        }
    }

    #[test]
    fn a_pid_file_holds_a_process_id() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nginx.pid");
        assert!(pid(&file).is_err());
        for (text, expected) in [("42\n", Some(42)), ("", None), ("0", None), ("-5", None), ("x", None)] {
            fs::write(&file, text).unwrap();
            assert_eq!(pid(&file).ok(), expected, "{text}");
        }
    }

    #[test]
    fn other_processes_are_no_workers() {
        assert_eq!(workers(std::process::id().cast_signed()).unwrap(), []);
    }
}
