//! Tells whether a process has a file open for writing, by a read lease that is taken and dropped at once. Only this crate of
//! the workspace has `unsafe`, since no safe wrapper of this system call exists (rustix 1.1, nix 0.32).

// Only `agent/src/output.rs` and the log write text for people.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::Once,
};

/// Whether any process of this machine has `file` open for writing, or mapped for writing. `file` itself is open for reading
/// only.
///
/// The kernel refuses a read lease with EAGAIN while there is a writer (fcntl(2), `F_SETLEASE`). This takes two system calls;
/// a writer that comes between them waits for the second one, or gets EWOULDBLOCK if it asked not to wait. The caller does not
/// ask on file systems whose server decides about leases (NFS, SMB), because EAGAIN says nothing about writers there.
///
/// From the first call on, the process ignores SIGIO, which the kernel sends when a writer meets the lease.
///
/// # Errors
/// The answer is unknown: the file system has no leases (EINVAL), or the file is another user's and the process has no
/// `CAP_LEASE` (EACCES).
pub fn is_open_for_writing(file: BorrowedFd<'_>) -> io::Result<bool> {
    static SIGIO_IGNORED: Once = Once::new();
    SIGIO_IGNORED.call_once(|| {
        // SAFETY: `SIG_IGN` is no function, so no code of this program ever runs in a signal's context, and no memory is
        // passed. The call fails only for a signal that does not exist.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    });
    match lease(file, libc::F_RDLCK) {
        Ok(()) => {
            // The lease may be broken already, and closing the file drops it in any case.
            let _ = lease(file, libc::F_UNLCK);
            Ok(false)
        }
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

fn lease(file: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: `file` is open while it is borrowed. `F_SETLEASE` takes one integer and neither reads nor writes memory of
    // this process.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        io::Write,
        os::fd::AsFd,
        path::Path,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    fn open(path: &Path) -> bool {
        is_open_for_writing(File::open(path).unwrap().as_fd()).unwrap()
    }

    /// Waits until no process has the file open. A process that another test starts has all files of this process, from its
    /// fork until its exec.
    fn closes(path: &Path) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while open(path) {
            assert!(Instant::now() < deadline, "{} is still open for writing", path.display());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_writer_is_seen_until_it_closes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut writer = File::create(&path).unwrap();
        assert!(open(&path));
        writer.write_all(b"half").unwrap();
        assert!(open(&path));
        drop(writer);
        closes(&path);
        let _reader = File::open(&path).unwrap();
        assert!(!open(&path), "a reader is no writer");
    }

    #[test]
    fn another_process_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let appending = OpenOptions::new().append(true).open(&path).unwrap();
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::from(appending)).spawn().unwrap();
        assert!(open(&path), "its standard output is the file");
        drop(cat.stdin.take());
        cat.wait().unwrap();
        closes(&path);
    }

    /// The lease is not held: a process that opens the file later does not wait, and this process does not die of SIGIO.
    #[test]
    fn nobody_meets_the_lease_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let _held = File::open(&path).unwrap();
        closes(&path);
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).expect("no lease is in the way");
    }

    /// Writers that come all the time sometimes meet the lease: each gets through, and SIGIO kills no process.
    #[test]
    fn writers_and_looks_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "x").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    OpenOptions::new().append(true).open(&path).unwrap();
                }
            });
            for _ in 0..2_000 {
                open(&path);
            }
        });
        closes(&path);
    }

    #[test]
    fn what_cannot_be_leased_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_open_for_writing(File::open(directory.path()).unwrap().as_fd()).is_err());
    }
}
