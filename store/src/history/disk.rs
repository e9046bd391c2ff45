//! The history's directory: its names, and every operation that changes it. The operations that survive a power loss are
//! [`Directory::append`] (a small pack joins the newest file), [`Directory::publish`] (a pack becomes a file) and
//! [`Directory::remove`] (files are deleted). Parts need not survive a power loss.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bellwether_proto::{hash::Hash, revision::SignedHeader};

use super::{HistoryError, new_pack::Part, reading};
use crate::{
    durable::{self, Name},
    failpoint, log,
    mutex::locked,
};

const PART: &str = "part";
/// Bytes of a segment's file that are reserved at once.
const RESERVED: u64 = 256 << 10;

/// The names of the file that a pack begins; each further name is used if the earlier ones are in use.
pub(super) fn names(header: &SignedHeader, base: bool) -> impl Iterator<Item = String> + use<> {
    let (number, id) = (header.number(), header.id());
    let kind = if base { "base" } else { "inc" };
    let begins = format!("{:016}.{}.{}", number.sequence, number.epoch, id.0.short());
    (0u32..).map(move |copy| match copy {
        0 => format!("{begins}.{kind}"),
        _ => format!("{begins}.{copy}.{kind}"),
    })
}

/// The sequence in a file's name.
pub(super) fn sequence(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.split('.').next()?.parse().ok()
}

/// An interrupted pack.
#[derive(Debug, Clone)]
pub(super) struct Partial {
    pub(super) pack: Hash,
    /// The size of its whole frames.
    pub(super) bytes: u64,
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
}

/// The directory, held open for fsync.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    next: AtomicU64,
    partial: Mutex<Option<Partial>>,
    newest: Mutex<Option<Newest>>,
}

/// The file that packs are appended to.
#[derive(Debug)]
pub(super) struct Newest {
    path: PathBuf,
    /// The end of its last whole pack.
    end: u64,
    /// The end of the reserved space.
    reserved: u64,
    /// Opened by the first append.
    file: Option<File>,
}

impl Newest {
    pub(super) fn new(path: PathBuf, end: u64) -> Self {
        Self { path, end, reserved: end, file: None }
    }

    /// Appends `bytes`; when this returns, they survive a power loss.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
                if file.metadata()?.len() > self.end {
                    // An append was interrupted.
                    durable::set_length(&file, self.end)?;
                }
                file
            }
        };
        let file = self.file.insert(file);
        let end = self.end + bytes.len() as u64;
        if end > self.reserved {
            durable::reserve(file, self.end, RESERVED.max(bytes.len() as u64));
            self.reserved = self.end + RESERVED;
        }
        let written = durable::write_at(file, bytes, self.end).and_then(|()| {
            failpoint::check("history.appended")?;
            durable::sync_data(file.as_fd())
        });
        match written {
            Ok(()) => self.end = end,
            Err(_) => {
                // The caller takes this pack for missing, so it must not be on the disk.
                let cut = durable::set_length(file, self.end).and_then(|()| durable::sync_data(file.as_fd()));
                if let Err(error) = cut {
                    tracing::warn!(path = %self.path.display(), %error, "cannot cut off an append that failed");
                }
            }
        }
        written
    }
}

/// The files with packs in `directory`, including the log.
pub(super) fn packs(directory: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let mut packs = files(directory, |extension| extension == "inc" || extension == "base")?;
    packs.push(log::path(directory));
    Ok(packs)
}

/// The files of packs that are being written or were interrupted.
pub(super) fn parts(directory: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    files(directory, |extension| extension == PART)
}

fn files(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, HistoryError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let entry = entry.map_err(failed("list", directory))?;
        let path = entry.path();
        let regular = entry.file_type().map_err(failed("look at", &path))?.is_file();
        if regular && path.extension().and_then(|extension| extension.to_str()).is_some_and(&wanted) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HistoryError {
    move |source| HistoryError::Io { action, path: path.to_owned(), source }
}

impl Directory {
    /// Opens or creates the directory, and lists the files with packs.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<PathBuf>), HistoryError> {
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))?;
        }
        let handle = File::open(path).map_err(failed("open", path))?;
        let directory = Self {
            path: path.to_owned(),
            handle,
            next: AtomicU64::new(0),
            partial: Mutex::new(None),
            newest: Mutex::new(None),
        };
        let files = packs(path)?;
        Ok((directory, files))
    }

    /// Keeps, after a start, the furthest part that is the beginning of a pack that is not `stored`, and removes the other
    /// parts.
    pub(super) fn settle_partials(&self, stored: impl Fn(&Hash) -> bool) -> Result<(), HistoryError> {
        let mut partials = Vec::new();
        for path in parts(&self.path)? {
            match reading::partial(&path, 0)?.filter(|partial| !stored(&partial.pack)) {
                Some(partial) => partials.push(partial),
                None => discard(&path),
            }
        }
        partials.sort_by_key(|partial| (partial.sequence, partial.bytes));
        partials.into_iter().for_each(|partial| self.keep(partial));
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, Option<Partial>> {
        locked(&self.partial)
    }

    pub(super) fn partial(&self) -> Option<(Hash, u64)> {
        self.locked().as_ref().map(|partial| (partial.pack, partial.bytes))
    }

    /// Keeps `partial` instead of the one before.
    pub(super) fn keep(&self, partial: Partial) {
        if let Some(before) = self.locked().replace(partial) {
            discard(&before.path);
        }
    }

    /// Takes the interrupted pack of that identity; another one is removed.
    pub(super) fn take_partial(&self, pack: &Hash) -> Result<Option<Partial>, HistoryError> {
        match self.locked().take() {
            Some(partial) if partial.pack == *pack => Ok(Some(partial)),
            Some(other) => fs::remove_file(&other.path).map_err(failed("remove", &other.path)).map(|()| None),
            None => Ok(None),
        }
    }

    /// Removes an interrupted pack that is not newer than `sequence`.
    pub(super) fn forget_partials(&self, sequence: u64) {
        if let Some(partial) = self.locked().take_if(|partial| partial.sequence <= sequence) {
            discard(&partial.path);
        }
    }

    /// Makes `newest` the file to which packs are appended.
    pub(super) fn append_to(&self, newest: Newest) {
        *locked(&self.newest) = Some(newest);
    }

    /// A new file that holds the beginning of a pack.
    pub(super) fn write_part(&self, bytes: &[u8]) -> io::Result<Part> {
        loop {
            let name = format!("incoming-{}.{PART}", self.next.fetch_add(1, Ordering::Relaxed));
            match durable::create(self.handle.as_fd(), name.as_bytes(), 0o600) {
                Ok(file) => {
                    let part = Part::new(file, self.path.join(name));
                    durable::write_at(&part.file, bytes, 0)?;
                    return Ok(part);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends a complete pack to the newest file; the pack is durable when this returns. Returns the file and the byte at
    /// which the pack begins, or none if there is no file to append to.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<Option<(PathBuf, u64)>, HistoryError> {
        let mut newest = locked(&self.newest);
        let Some(newest) = newest.as_mut() else { return Ok(None) };
        let at = newest.end;
        newest.append(bytes).map_err(failed("append to", &newest.path))?;
        Ok(Some((newest.path.clone(), at)))
    }

    /// Makes a complete pack's own file part of the history, durably. The next packs are appended to that file.
    pub(super) fn publish(&self, mut part: Part, name: &str, size: u64) -> Result<PathBuf, HistoryError> {
        let to = self.path.join(name);
        let directory = self.handle.as_fd();
        let from = part.path.file_name().unwrap_or_default().as_bytes();
        durable::sync_file(part.file.as_fd()).map_err(failed("sync", &part.path))?;
        durable::rename(Name { directory, name: from }, Name { directory, name: name.as_bytes() })
            .map_err(failed("rename", &part.path))?;
        part.settled = true;
        if let Err(error) = durable::sync_directory(directory) {
            // The caller takes this pack for missing, so it must not be on the disk.
            discard(&to);
            return Err(failed("sync", &self.path)(error));
        }
        self.append_to(Newest::new(to.clone(), size));
        Ok(to)
    }

    /// Removes files in this order, calls `gone` for each, and makes the removals durable.
    pub(super) fn remove(&self, paths: &[PathBuf], gone: &mut dyn FnMut(&Path)) -> Result<(), HistoryError> {
        for path in paths {
            match durable::remove(self.handle.as_fd(), path.file_name().unwrap_or_default().as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(error)),
                Ok(()) | Err(_) => {
                    locked(&self.newest).take_if(|newest| newest.path == *path);
                    gone(path);
                }
            }
        }
        durable::sync_directory(self.handle.as_fd()).map_err(failed("sync", &self.path))
    }
}

/// Opens an interrupted pack, to go on at `bytes`.
pub(super) fn reopen(path: PathBuf, bytes: u64) -> Result<Part, HistoryError> {
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed("open", &path))?;
    file.set_len(bytes).map_err(failed("shorten", &path))?;
    Ok(Part::new(file, path))
}

/// Removes a part that is not needed; if this fails, the next start removes it.
pub(super) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished pack");
    }
}
