//! One file of a set replaced or removed, only where it still is what was looked at. Every path is opened beneath the set's
//! root, through no link (invariant 7); the new content is whole, with the attributes of the old one, before it has the name.

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

/// The new content until it has its name; one that a crash left is replaced by the next. Excluded from every set.
const TEMPORARY: &[u8] = b".bellwether.put";

/// Why the file, named `SET:PATH`, is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Something that is not a regular file is in the way: a directory, behind a symbolic link …
    #[error("{0} is {1}")]
    Held(String, &'static str),
    /// Somebody changed it after it was looked at.
    #[error("{0} is not what was expected (it changed at this moment)")]
    Changed(String),
    /// The set's directory is another place than before.
    #[error(transparent)]
    Elsewhere(Elsewhere),
    /// The system's error, with what was to be done.
    #[error("cannot {1} {0}; nothing was changed")]
    Io(String, &'static str, #[source] io::Error),
}

/// Which file.
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

/// A file as it is now, open.
#[derive(Debug)]
struct Current {
    file: File,
    stat: Metadata,
}

impl Current {
    /// What changes whenever the file does.
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

/// A file of a set, or its absence, as it was looked at.
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
    /// It is no regular file, cannot be opened, or the set's directory is another place.
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

    /// The BLAKE3 of the file, whatever its size is; none: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn hash(&self) -> Result<Option<Hash>, ReplaceError> {
        self.before.as_ref().map(Current::hash).transpose().map_err(self.place.failed("read"))
    }

    /// Puts a file with these bytes there, in directories that are made where they are missing. Without a `mode` it has that
    /// of the file it replaces, or 0644. The bytes are durable when this returns, the name is after [`Replaced::sync`]. None:
    /// it was so already.
    ///
    /// # Errors
    /// Nothing was changed, but for directories that were made.
    pub fn replace(&self, data: &[u8], mode: Option<u16>) -> Result<Option<Replaced>, ReplaceError> {
        if self.holds(data, mode).map_err(self.place.failed("read"))? {
            return Ok(None);
        }
        let (parent, name) = self.split()?;
        let (directory, made) = self.make_parent(&parent)?;
        let replaced = self.put(durable::Name { directory: directory.as_fd(), name }, data, mode);
        if replaced.is_err() {
            // Only our own file, which was never seen under its name.
            let _ = durable::remove(directory.as_fd(), TEMPORARY);
        }
        replaced.map(|()| Some(self.replaced(made, directory)))
    }

    /// Removes the file; gone for good after [`Replaced::sync`]. None: there is none.
    ///
    /// # Errors
    /// It is still there.
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

    /// Whether it is already what a replacement would make of it: putting twice is putting once.
    fn holds(&self, data: &[u8], mode: Option<u16>) -> io::Result<bool> {
        let Some(before) = &self.before else { return Ok(false) };
        let differs = mode.is_some_and(|mode| mode != before.mode()) || before.stat.size() != data.len() as u64;
        Ok(!differs && before.hash()? == Hash::of(data))
    }

    /// Looks again right before the file is replaced.
    fn unchanged(&self) -> Result<(), ReplaceError> {
        if self.current()?.as_ref().map(Current::mark) == self.before.as_ref().map(Current::mark) {
            return Ok(());
        }
        Err(ReplaceError::Changed(self.place.name()))
    }

    /// The directory that is to hold the file; missing ones are made, 0755. Returns the topmost that was made.
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

    /// Those of the file that is replaced; its time is now.
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
        // Names are for trees; here the numbers count.
        let owner = Owners::default().get("0", "0").map_err(io::Error::other)?;
        Ok((Meta { mode: mode.unwrap_or(there), owner, mtime: (now_ms() / 1_000) as i64, xattrs }, ids))
    }
}

/// A change that was made.
#[derive(Debug)]
pub struct Replaced {
    place: SetPath,
    top: EntryPath,
    directory: OwnedFd,
}

impl Replaced {
    /// What a scan is to look at: the file, or the topmost directory that was made for it.
    pub fn look(&self) -> Look {
        Look::At([((self.place.set.clone(), self.top.clone()), Depth::All)].into())
    }

    /// Makes the change survive a power loss. Cheap once something newer on the same disk does.
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
