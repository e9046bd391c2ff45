//! Detects files that are open for writing: by a lease, or else by the open files of every process on this machine.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind},
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::fs::{fstat, fstatfs};

use crate::mutex::locked;

/// The means to detect open files, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// A lease: it shows every writer on this machine.
    Lease,
    /// The descriptors of this machine's processes; a process that has mapped a file and closed it is missed.
    Descriptors,
    /// Neither: nothing is known.
    None,
}

/// The knowledge of a file's writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// Whether it is known to be open for writing.
    pub(super) open: bool,
    pub(super) means: Means,
}

/// The most descriptors that are examined: about 20 ms.
const MOST: usize = 20_000;
/// The time for which the result of all descriptors is reused.
const HOLDS: Duration = Duration::from_millis(100);
/// File systems whose server decides about leases, and may refuse one for its own reasons: NFS, SMB (statfs(2)).
const REMOTE: [u32; 4] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42];

/// Looks for writers of the files of one scan.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<Option<Descriptors>>);

impl Writers {
    pub(super) fn look(&self, file: BorrowedFd<'_>) -> Written {
        match by_lease(file) {
            Some(open) => Written { open, means: Means::Lease },
            None => self.by_descriptors(file),
        }
    }

    fn by_descriptors(&self, file: BorrowedFd<'_>) -> Written {
        let Ok(stat) = fstat(file) else { return Written { open: false, means: Means::None } };
        let mut held = locked(&self.0);
        let fresh = held.take().filter(|seen| seen.at.elapsed() < HOLDS);
        let seen = held.insert(fresh.unwrap_or_else(|| Descriptors::look(Path::new("/proc"), MOST)));
        let open = seen.written.contains(&(stat.st_dev, stat.st_ino));
        // A writer that was found is certain.
        let means = if open || seen.all { Means::Descriptors } else { Means::None };
        Written { open, means }
    }
}

fn by_lease(file: BorrowedFd<'_>) -> Option<bool> {
    match bellwether_lease::is_open_for_writing(file) {
        Ok(true) if fstatfs(file).is_ok_and(|system| REMOTE.contains(&(system.f_type as u32))) => None,
        answer => answer.ok(),
    }
}

/// The files that processes had open for writing.
#[derive(Debug)]
struct Descriptors {
    at: Instant,
    /// By device and inode.
    written: HashSet<(u64, u64)>,
    /// Whether every descriptor of every process was visible.
    all: bool,
}

impl Descriptors {
    fn look(proc: &Path, most: usize) -> Self {
        let (at, mut written, mut left) = (Instant::now(), HashSet::new(), most);
        let all = processes(proc, &mut left, &mut written).is_ok();
        Self { at, written, all }
    }
}

fn processes(proc: &Path, left: &mut usize, written: &mut HashSet<(u64, u64)>) -> io::Result<()> {
    let mut refused = None;
    for process in fs::read_dir(proc)? {
        let process = process?;
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // The others are examined all the same.
        match descriptors(&process.path().join("fd"), left, written) {
            Err(error) if !is_over(&error) => refused = Some(error),
            Ok(()) | Err(_) => {}
        }
        if *left == 0 {
            return Err(ErrorKind::QuotaExceeded.into());
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Examines one process; its links in `fd` have the modes with which the files are open.
fn descriptors(fds: &Path, left: &mut usize, written: &mut HashSet<(u64, u64)>) -> io::Result<()> {
    for fd in fs::read_dir(fds)? {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let link = fd?.path();
        let file = match link.symlink_metadata() {
            Ok(opened) if opened.mode() & 0o200 == 0 => continue,
            Ok(_) => link.metadata(),
            Err(error) => Err(error),
        };
        match file {
            Ok(file) if file.is_file() => drop(written.insert((file.dev(), file.ino()))),
            Err(error) if !is_over(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether the process ended, or closed the descriptor, meanwhile.
fn is_over(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd, process::Command};

    use super::*;

    fn written(path: &Path) -> Written {
        Writers::default().by_descriptors(File::open(path).unwrap().as_fd())
    }

    /// Another process that has `path` open in the mode `how`, until it is dropped.
    struct Other(std::process::Child);

    impl Other {
        fn new(path: &Path, how: &str) -> Self {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("exec 3{how}\"$1\" && echo ready && read over")).arg("sh").arg(path);
            let child = shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
            let mut child = child.unwrap();
            let mut ready = [0; 6];
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
            Self(child)
        }
    }

    impl Drop for Other {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn descriptors_say_who_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "x").unwrap();
        {
            let _reader = Other::new(&path, "<");
            assert!(!written(&path).open);
        }
        for how in [">>", "<>"] {
            let _writer = Other::new(&path, how);
            assert_eq!(written(&path), Written { open: true, means: Means::Descriptors }, "{how}");
        }
        assert!(!written(&path).open, "it is closed");
    }

    #[test]
    fn too_many_descriptors_say_nothing() {
        assert!(!Descriptors::look(Path::new("/proc"), 3).all);
        assert!(!Descriptors::look(Path::new("/nonexistent"), MOST).all);
    }

    #[test]
    fn a_lease_is_the_better_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let writer = File::create(&path).unwrap();
        let look = || Writers::default().look(File::open(&path).unwrap().as_fd());
        assert_eq!(look(), Written { open: true, means: Means::Lease });
        drop(writer);
        // A process that another test starts has the file, too, from its fork until its exec.
        let deadline = Instant::now() + Duration::from_secs(30);
        while look().open {
            assert!(Instant::now() < deadline, "{} is still open for writing", path.display());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(look(), Written { open: false, means: Means::Lease });
    }
}
