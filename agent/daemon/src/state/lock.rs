//! One process at a time owns the state directory: `serve`, `init`, `join` and `leave` take this lock.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use bellwether_store::state::layout::Layout;
use rustix::fs::FlockOperation;

/// Held until it is dropped or its process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The lock cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{holder} is using {state}")]
    Held {
        /// The holder, such as "process 4711 (serve)", as far as it is known.
        holder: String,
        /// The state directory.
        state: PathBuf,
    },
    /// The system's error.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock of an existing state directory, for `command`.
    ///
    /// # Errors
    /// Another process has it; the error names that process.
    pub fn take(layout: &Layout, command: &str) -> Result<Self, LockError> {
        let path = layout.lock();
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held { holder: holder(file), state: layout.state().to_owned() });
            }
            Err(e) => return Err(failed(e.into())),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{} {command}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// The holder's note of itself: its process id, then its command.
fn holder(file: File) -> String {
    let mut text = String::new();
    let read = file.take(100).read_to_string(&mut text);
    match (read, text.trim().split_once(' ')) {
        (Ok(_), Some((pid, command))) => format!("process {pid} (bellwether {command})"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_has_it_and_gets_it_afterwards() {
        let state = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(state.path().to_owned());
        let first = Lock::take(&layout, "serve").expect("it is free");
        let error = Lock::take(&layout, "leave").expect_err("it is held").to_string();
        assert!(error.starts_with(&format!("process {} (bellwether serve) is using", std::process::id())), "{error}");
        drop(first);
        Lock::take(&layout, "leave").expect("it is free again");
    }
}
