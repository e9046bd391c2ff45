//! Replaces or removes one file of a set if it is unchanged since the caller looked at it. Every path is opened beneath the
//! set's root, through no link (invariant 7). The new content is whole, with the old attributes, before it gets the name.

use std::{
    fs::{File, Metadata},
    io::{self, Seek},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use bellwether_proto::{
    clock::now_ms,
    entry::{EntryPath, Meta, Owners},
    hash::Hash,
    name::SetName,
};
use rustix::io::Errno;

use crate::{
    attributes,
    beneath::Root,
    durable,
    root::{self, Elsewhere},
    scan::{Depth, Look, Source},
};

/// The name of the new content until it has its own; the next one replaces one that a crash left. Excluded from every set.
const TEMPORARY: &[u8] = b".bellwether.put";

/// The file, named `SET:PATH`, is unchanged for this reason.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// An entry that is not a regular file is in the way: a directory, behind a symbolic link …
    #[error("{0} is {1}")]
    Held(String, &'static str),
    /// The file was changed after the caller looked at it.
    #[error("{0} is not as expected (it changed at this moment)")]
    Changed(String),
    /// The set's directory is another place than before.
    #[error(transparent)]
    Elsewhere(Elsewhere),
    /// The system's error, with the failed operation.
    #[error("cannot {1} {0}; nothing was changed")]
    Io(String, &'static str, #[source] io::Error),
}

/// The place of the file.
#[derive(Debug, Clone)]
struct SetPath {
    set: SetName,
    path: EntryPath,
}

impl SetPath {
    fn name(&self) -> String {
        format!("{}:{}", self.set, self.path)
    }

    fn held(&self, what: &'static str) -> ReplaceError {
        ReplaceError::Held(self.name(), what)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> ReplaceError {
        move |source| match (root::elsewhere(&source), Errno::from_io_error(&source)) {
            (Some(elsewhere), _) => ReplaceError::Elsewhere(elsewhere.clone()),
            (_, Some(Errno::LOOP)) => self.held("a symbolic link, or behind one, which is not followed"),
            (_, Some(Errno::XDEV)) => self.held("behind a mount point, which is not followed"),
            (_, Some(Errno::NOTDIR)) => self.held("below something that is not a directory"),
            _ => ReplaceError::Io(self.name(), action, source),
        }
    }
}

/// The present file, open.
#[derive(Debug)]
struct Current {
    file: File,
    stat: Metadata,
}

impl Current {
    /// Numbers that change at every change of the file.
    fn mark(&self) -> (u64, i64, i64, u64) {
        (self.stat.ino(), self.stat.ctime(), self.stat.ctime_nsec(), self.stat.size())
    }

    fn mode(&self) -> u16 {
        (self.stat.mode() & 0o7777) as u16
    }

    fn hash(&self) -> io::Result<Hash> {
        let mut hasher = blake3::Hasher::new();
        (&self.file).rewind()?;
        hasher.update_reader(&self.file)?;
        Ok(Hash::from(*hasher.finalize().as_bytes()))
    }
}

/// A file of a set, or its absence, at the moment of the look.
#[derive(Debug)]
pub struct LookedAt {
    place: SetPath,
    root: Root,
    before: Option<Current>,
}

impl LookedAt {
    /// Looks at the file `path` of a set.
    ///
    /// # Errors
    /// The entry is no regular file or cannot be opened, or the set's directory is another place.
    pub fn open(source: &Source, path: &EntryPath) -> Result<Self, ReplaceError> {
        let place = SetPath { set: source.rules.name.clone(), path: path.clone() };
        let root = source.open().map_err(place.failed("open"))?;
        let mut looked = Self { place, root, before: None };
        looked.before = looked.current()?;
        Ok(looked)
    }

    /// Whether there is a file.
    pub fn is_there(&self) -> bool {
        self.before.is_some()
    }

    /// The BLAKE3 of the file of any size; none if there is no file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn hash(&self) -> Result<Option<Hash>, ReplaceError> {
        self.before.as_ref().map(Current::hash).transpose().map_err(self.place.failed("read"))
    }

    /// Puts a file with these bytes there, and makes missing directories. Without a `mode` it has the mode of the replaced
    /// file, or 0644. The bytes are durable when this returns, and the name is after [`Replaced::sync`]. None if the file was
    /// so already.
    ///
    /// # Errors
    /// Nothing was changed, except that directories may have been made.
    pub fn replace(&self, data: &[u8], mode: Option<u16>) -> Result<Option<Replaced>, ReplaceError> {
        if self.holds(data, mode).map_err(self.place.failed("read"))? {
            return Ok(None);
        }
        let (parent, name) = self.split()?;
        let (directory, made) = self.make_parent(&parent)?;
        let replaced = self.put(durable::Name { directory: directory.as_fd(), name }, data, mode);
        if replaced.is_err() {
            // This removes only our own file, which was never seen under its name.
            let _ = durable::remove(directory.as_fd(), TEMPORARY);
        }
        replaced.map(|()| Some(self.replaced(made, directory)))
    }

    /// Removes the file, durably after [`Replaced::sync`]. None if there is no file.
    ///
    /// # Errors
    /// The file is still there.
    pub fn remove(&self) -> Result<Option<Replaced>, ReplaceError> {
        if !self.is_there() {
            return Ok(None);
        }
        let (parent, name) = self.split()?;
        let directory = self.root.directory(&parent).map_err(self.place.failed("open"))?;
        self.unchanged()?;
        durable::remove(directory.as_fd(), name).map_err(self.place.failed("remove"))?;
        Ok(Some(self.replaced(None, directory)))
    }

    fn split(&self) -> Result<(EntryPath, &[u8]), ReplaceError> {
        self.place.path.split().ok_or_else(|| self.place.held("a directory"))
    }

    fn replaced(&self, made: Option<EntryPath>, directory: OwnedFd) -> Replaced {
        Replaced { top: made.unwrap_or_else(|| self.place.path.clone()), place: self.place.clone(), directory }
    }

    fn current(&self) -> Result<Option<Current>, ReplaceError> {
        let read = |file: File| file.metadata().map(|stat| Current { file, stat });
        match self.root.file(&self.place.path).and_then(read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.place.failed("read")(error)),
            Ok(current) if current.stat.is_file() => Ok(Some(current)),
            Ok(current) if current.stat.is_dir() => Err(self.place.held("a directory")),
            Ok(_) => Err(self.place.held("not a regular file")),
        }
    }

    /// Whether a replacement would change nothing: putting twice is putting once.
    fn holds(&self, data: &[u8], mode: Option<u16>) -> io::Result<bool> {
        let Some(before) = &self.before else { return Ok(false) };
        let differs = mode.is_some_and(|mode| mode != before.mode()) || before.stat.size() != data.len() as u64;
        Ok(!differs && before.hash()? == Hash::of(data))
    }

    /// Checks, right before the replacement, that the file is unchanged.
    fn unchanged(&self) -> Result<(), ReplaceError> {
        if self.current()?.as_ref().map(Current::mark) == self.before.as_ref().map(Current::mark) {
            return Ok(());
        }
        Err(ReplaceError::Changed(self.place.name()))
    }

    /// The file's directory; missing directories are made, 0755. Also returns the topmost one that was made.
    fn make_parent(&self, parent: &EntryPath) -> Result<(OwnedFd, Option<EntryPath>), ReplaceError> {
        let (mut made, mut at) = (None, EntryPath::root());
        let mut directory = self.root.directory(&at).map_err(self.place.failed("open"))?;
        for component in parent.components() {
            at = at.join(component);
            directory = match self.root.directory(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    durable::make_directory(directory.as_fd(), component, 0o755)
                        .and_then(|()| durable::sync_directory(directory.as_fd()))
                        .map_err(self.place.failed("make the directory of"))?;
                    made.get_or_insert(at.clone());
                    self.root.directory(&at)
                }
                other => other,
            }
            .map_err(self.place.failed("open the directory of"))?;
        }
        Ok((directory, made))
    }

    fn put(&self, at: durable::Name<'_>, data: &[u8], mode: Option<u16>) -> Result<(), ReplaceError> {
        let temporary = durable::Name { name: TEMPORARY, ..at };
        let write = || {
            let file = durable::write_new(at.directory, TEMPORARY, data).map_err(in_the_way)?;
            let (meta, ids) = self.attributes(&file, mode)?;
            durable::put_on_file(file.as_fd(), &meta, ids)?;
            if let Some(before) = &self.before {
                attributes::copy_label(&before.file, &file)?;
            }
            durable::sync_file(file.as_fd())
        };
        write().map_err(self.place.failed("write"))?;
        self.unchanged()?;
        let swap = if self.is_there() { durable::rename } else { durable::rename_new };
        swap(temporary, at).map_err(self.place.failed("write"))
    }

    /// The attributes of the replaced file, with the present time.
    fn attributes(&self, new: &File, mode: Option<u16>) -> io::Result<(Meta, (u32, u32))> {
        let (there, ids, xattrs) = match &self.before {
            Some(before) => {
                let xattrs = attributes::read(before.file.as_fd(), true)?.xattrs;
                (before.mode(), (before.stat.uid(), before.stat.gid()), xattrs)
            }
            None => {
                let stat = new.metadata()?;
                (0o644, (stat.uid(), stat.gid()), None)
            }
        };
        // Names are for trees; only the numbers are used here.
        let owner = Owners::default().get("0", "0").map_err(io::Error::other)?;
        Ok((Meta { mode: mode.unwrap_or(there), owner, mtime: (now_ms() / 1_000) as i64, xattrs }, ids))
    }
}

/// A change of the file.
#[derive(Debug)]
pub struct Replaced {
    place: SetPath,
    top: EntryPath,
    directory: OwnedFd,
}

impl Replaced {
    /// The scope of the scan: the file, or the topmost directory that was made for it.
    pub fn look(&self) -> Look {
        Look::At([((self.place.set.clone(), self.top.clone()), Depth::All)].into())
    }

    /// Makes the change survive a power loss. This is cheap after a later sync on the same disk.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<(), ReplaceError> {
        durable::sync_directory(self.directory.as_fd()).map_err(self.place.failed("write"))
    }
}

/// The error of making the temporary file, which names a directory that is in its place.
fn in_the_way(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::IsADirectory => {
            let name = String::from_utf8_lossy(TEMPORARY);
            io::Error::other(format!("a directory {name} is in the way, beside the file; remove it"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests;
