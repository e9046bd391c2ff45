//! The processes of a service that has a master and its workers, as nginx, HAProxy and Apache do. A worker of nginx that ends
//! has that in its title.

use std::{fs, io, path::Path};

/// A worker: a child of the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its process id.
    pub pid: i32,
    /// Whether it takes no new connections; none: its title does not say so.
    pub ending: Option<bool>,
}

/// The process id in a pid file.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn pid(file: &Path) -> io::Result<i32> {
    let text = fs::read_to_string(file)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it holds no process id");
    text.trim().parse().ok().filter(|pid| *pid > 1).ok_or_else(wrong)
}

/// The workers of that master, except for those that end meanwhile, and nginx's helpers, which are no workers.
///
/// # Errors
/// /proc cannot be read.
pub fn workers(master: i32) -> io::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if parent(&entry.path()) != Some(master) {
            continue;
        }
        let title = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title);
        let worker = title.starts_with("nginx: worker process");
        if worker || !title.starts_with("nginx: ") {
            workers.push(Worker { pid, ending: worker.then(|| title.contains("is shutting down")) });
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
pub fn replaced(before: &[Worker], now: &[Worker]) -> bool {
    let was = |worker: &Worker| before.iter().any(|old| old.pid == worker.pid);
    now.iter().filter(|worker| was(worker)).all(|worker| worker.ending != Some(false))
        && now.iter().any(|worker| !was(worker) && worker.ending != Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_replaced_when_the_new_ones_are_there_and_the_old_ones_end() {
        let worker = |pid, ending| Worker { pid, ending: Some(ending) };
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
        let untold = |pid| Worker { pid, ending: None };
        assert!(replaced(&[untold(1)], &[untold(1), untold(2)]), "an old one may serve its last requests");
        assert!(!replaced(&[untold(1)], &[untold(1)]));
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
    fn the_children_of_a_master_are_its_workers() {
        use std::{
            io::{BufRead, BufReader},
            process::{Command, Stdio},
        };
        let script = "sleep 600 & echo $!; wait";
        let mut master = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(master.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let child = line.trim().parse().unwrap();
        let found = workers(master.id().cast_signed()).unwrap();
        let of_child = workers(child).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        master.wait().unwrap();
        assert_eq!((found, of_child), (vec![Worker { pid: child, ending: None }], vec![]));
    }
}
