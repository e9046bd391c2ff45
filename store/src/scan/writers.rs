//! Who has a file open for writing: by a lease where the file system has leases, else by looking at what every process of
//! this machine has open.

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

/// How it is found out who has a file open, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// By a lease: every writer of this machine is seen.
    Lease,
    /// By the descriptors of this machine's processes; who has mapped a file and closed it is not seen.
    Descriptors,
    /// Neither: nothing can be said.
    None,
}

/// What is known of a file's writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// Somebody is known to have it open for writing.
    pub(super) open: bool,
    pub(super) means: Means,
}

/// Descriptors that are looked at, at most: about 20 ms.
const MOST: usize = 20_000;
/// How long a look at all descriptors holds.
const HOLDS: Duration = Duration::from_millis(100);
/// File systems whose server decides about leases, and refuses one for reasons of its own: NFS, SMB (statfs(2)).
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
        // One that was found is certain.
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
    /// Whether every descriptor of every process could be seen.
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
        // The others are looked at all the same.
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

/// Of one process; its links in `fd` have the modes that the files are open with.
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

    /// Another process that has `path` open as `how` says, until it is dropped.
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
        assert_eq!(look(), Written { open: false, means: Means::Lease });
    }
}
