//! The history's directory: names, and every operation that changes it. What has to survive a power loss is in
//! [`Directory::publish`] (a pack joins) and [`Directory::remove`] (segments go); parts need not survive one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bellwether_proto::{hash::Hash, revision::SignedHeader};

use super::{HistoryError, reading};
use crate::{
    durable::{self, Name},
    mutex::locked,
};

const PART: &str = "part";

/// The name of a pack's file.
pub(super) fn name(header: &SignedHeader, base: bool) -> String {
    let number = header.number();
    let kind = if base { "base" } else { "inc" };
    format!("{:016}.{}.{}.{kind}", number.sequence, number.epoch, header.id().0.short())
}

/// The sequence that a pack's file name says.
pub(super) fn sequence(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.split('.').next()?.parse().ok()
}

/// An interrupted pack.
#[derive(Debug, Clone)]
pub(super) struct Partial {
    pub(super) pack: Hash,
    /// In whole frames.
    pub(super) bytes: u64,
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
}

/// The directory, held open to be fsync'd.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    next: AtomicU64,
    partial: Mutex<Option<Partial>>,
}

/// The packs' files in `directory`.
pub(super) fn packs(directory: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    files(directory, |extension| extension == "inc" || extension == "base")
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
    /// Opens or creates it; gives the packs' files.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<PathBuf>), HistoryError> {
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))?;
        }
        let handle = File::open(path).map_err(failed("open", path))?;
        let directory = Self { path: path.to_owned(), handle, next: AtomicU64::new(0), partial: Mutex::new(None) };
        let files = packs(path)?;
        Ok((directory, files))
    }

    /// After a start: of the parts that are there, the furthest is kept, if it is the beginning of a pack that is not
    /// `stored`; the others are removed.
    pub(super) fn settle_partials(&self, stored: impl Fn(&Hash) -> bool) -> Result<(), HistoryError> {
        let mut partials = Vec::new();
        for path in parts(&self.path)? {
            match reading::partial(&path)?.filter(|partial| !stored(&partial.pack)) {
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

    /// The interrupted pack of that identity, no longer kept here; another one is removed.
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

    /// A new file to write a pack into.
    pub(super) fn create(&self) -> Result<(File, PathBuf), HistoryError> {
        loop {
            let path = self.path.join(format!("incoming-{}.{PART}", self.next.fetch_add(1, Ordering::Relaxed)));
            let mut options = OpenOptions::new();
            match options.read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((file, path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", &path)(error)),
            }
        }
    }

    /// Gives a complete pack its name; durable when this returns.
    pub(super) fn publish(&self, file: &File, from: &Path, name: &str) -> Result<PathBuf, HistoryError> {
        let to = self.path.join(name);
        let directory = self.handle.as_fd();
        let part = from.file_name().unwrap_or_default().as_bytes();
        durable::sync_file(file.as_fd()).map_err(failed("sync", from))?;
        durable::rename(Name { directory, name: part }, Name { directory, name: name.as_bytes() })
            .map_err(failed("rename", from))?;
        if let Err(error) = durable::sync_directory(directory) {
            // Not part of the history as far as the caller knows, so not on disk either.
            discard(&to);
            return Err(failed("sync", &self.path)(error));
        }
        Ok(to)
    }

    /// Removes packs in this order, telling each to `gone`, and makes that durable.
    pub(super) fn remove(&self, paths: &[PathBuf], gone: &mut dyn FnMut(&Path)) -> Result<(), HistoryError> {
        for path in paths {
            match durable::remove(self.handle.as_fd(), path.file_name().unwrap_or_default().as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(error)),
                Ok(()) | Err(_) => gone(path),
            }
        }
        durable::sync_directory(self.handle.as_fd()).map_err(failed("sync", &self.path))
    }
}

/// Opens an interrupted pack to go on at `bytes`.
pub(super) fn reopen(path: &Path, bytes: u64) -> Result<File, HistoryError> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(failed("open", path))?;
    file.set_len(bytes).map_err(failed("shorten", path))?;
    file.seek(SeekFrom::Start(bytes)).map_err(failed("seek in", path))?;
    Ok(file)
}

/// Removes a part that nobody needs; one that stays is removed at the next start.
pub(super) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished pack");
    }
}
