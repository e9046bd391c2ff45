//! A pack that is being written for the history: in memory while it is small, and after that in a file of its own.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::hash::Hash;

use super::{
    Stored,
    arriving::Arriving,
    disk::{self, Directory, Partial},
};
use crate::{
    durable,
    pack::{self, Place},
};

/// Bytes up to which a pack is in memory and joins the history by one append. A larger pack is written once, to a file of its
/// own.
const SMALL: usize = 1 << 20;

/// A pack that is being written. If it is dropped unfinished, it is removed.
#[derive(Debug)]
pub struct NewPack {
    body: Body,
    length: u64,
    directory: Arc<Directory>,
}

#[derive(Debug)]
pub(super) enum Body {
    Memory(Vec<u8>),
    File(Part),
}

/// A pack's own file until the pack is part of the history. If it is dropped before that, the file is removed.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// The bytes that [`NewPack::append`] has taken and not written yet.
    arriving: Option<Arriving>,
    /// Dropping this value no longer removes the file.
    pub(super) settled: bool,
}

impl Part {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { file, path, arriving: None, settled: false }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.arriving.take().map_or(Ok(()), |mut arriving| arriving.flush(&self.file))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.settled {
            disk::discard(&self.path);
        }
    }
}

/// A pack that is complete and fits the history, but is not part of it yet.
#[derive(Debug)]
pub struct WholePack {
    pub(super) body: Body,
    /// The pack's description; its path is set when the pack is stored.
    pub(super) stored: Stored,
}

impl WholePack {
    /// The pack's bytes if it can be a record of the log, which holds only small increments.
    pub fn record(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Memory(bytes) if !self.stored.base => Some(bytes),
            Body::Memory(_) | Body::File(_) => None,
        }
    }
}

impl NewPack {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        Self { body: Body::Memory(Vec::new()), length: 0, directory }
    }

    /// Goes on behind the first `length` bytes of `part`.
    pub(super) fn resumed(part: Part, length: u64, directory: Arc<Directory>) -> Self {
        Self { body: Body::File(part), length, directory }
    }

    /// The number of bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads bytes from `at` on, before anything is [appended](NewPack::append). Returns the number of bytes that were read.
    ///
    /// # Errors
    /// The system's.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match &self.body {
            Body::Memory(bytes) => io::Read::read(&mut bytes.get(at as usize..).unwrap_or_default(), buffer),
            Body::File(part) => part.file.read_at(buffer, at),
        }
    }

    /// Removes the bytes behind the first `length`.
    ///
    /// # Errors
    /// The system's.
    pub fn shorten(&mut self, length: u64) -> io::Result<()> {
        match &mut self.body {
            Body::Memory(bytes) => bytes.truncate(length as usize),
            Body::File(part) => part.file.set_len(length)?,
        }
        self.length = length;
        Ok(())
    }

    /// Adds bytes as they arrive. A large pack bypasses the page cache, since it is not read soon. After this call, bytes are
    /// added only by further calls of it.
    ///
    /// # Errors
    /// The system's.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let at = self.length;
        self.length += bytes.len() as u64;
        if let Some(memory) = self.memory_for(bytes.len()) {
            memory.extend_from_slice(bytes);
            return Ok(());
        }
        let part = self.part()?;
        let Part { file, path, arriving, .. } = part;
        arriving.get_or_insert_with(|| Arriving::new(path, at)).push(file, bytes)
    }

    /// The memory with the pack, if it has room for so many more bytes.
    fn memory_for(&mut self, more: usize) -> Option<&mut Vec<u8>> {
        match &mut self.body {
            Body::Memory(bytes) if bytes.len() + more <= SMALL => Some(bytes),
            Body::Memory(_) | Body::File(_) => None,
        }
    }

    /// The pack's file, which is made from the bytes in memory if there is none yet.
    fn part(&mut self) -> io::Result<&mut Part> {
        if let Body::Memory(bytes) = &self.body {
            self.body = Body::File(self.directory.write_part(bytes)?);
        }
        match &mut self.body {
            Body::File(part) => Ok(part),
            Body::Memory(_) => unreachable!("a file was just made of it"),
        }
    }

    /// Makes the bytes in the file survive a power loss early, so that the history need not wait for them.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&mut self) -> io::Result<()> {
        match &mut self.body {
            Body::Memory(_) => Ok(()),
            Body::File(part) => part.flush().and_then(|()| durable::sync_file(part.file.as_fd())),
        }
    }

    /// The pack's file, which has no name any more.
    ///
    /// # Errors
    /// The system's.
    pub fn into_file(mut self) -> io::Result<File> {
        let part = self.part()?;
        part.flush()?;
        part.file.try_clone()
    }

    /// Keeps the bytes that have arrived, so that [`super::History::resume`] can go on. They are not kept if the head is not
    /// complete, or if they are another pack's.
    pub fn keep(mut self, pack: Hash) {
        if let Some((bytes, sequence)) = self.whole_frames(pack)
            && let Ok(part) = self.part()
        {
            part.settled = true;
            let path = part.path.clone();
            self.directory.keep(Partial { pack, bytes, sequence, path });
        }
    }

    /// The bytes in whole frames of that pack, and the pack's sequence.
    fn whole_frames(&mut self, pack: Hash) -> Option<(u64, u64)> {
        let (place, path) = self.place().ok()?;
        let (head, bytes) = pack::whole_frames(place, path, 0).ok()??;
        (head.pack == pack).then(|| (bytes, head.header.number().sequence))
    }

    /// The place where the pack can be read, and its name in errors.
    fn place(&mut self) -> io::Result<(&dyn Place, &Path)> {
        match &mut self.body {
            Body::Memory(bytes) => Ok((bytes, Path::new("the new pack"))),
            Body::File(part) => {
                part.flush()?;
                Ok((&part.file, &part.path))
            }
        }
    }

    /// The pack, if it is complete.
    pub(super) fn whole(mut self) -> Result<WholePack, super::HistoryError> {
        let failed = |source| super::HistoryError::Io { action: "write", path: PathBuf::from("the new pack"), source };
        let (place, path) = self.place().map_err(failed)?;
        let stored = super::reading::complete(place, path)?;
        Ok(WholePack { body: self.body, stored })
    }
}

impl Write for NewPack {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.memory_for(bytes.len()) {
            Some(memory) => memory.extend_from_slice(bytes),
            None => {
                let at = self.length;
                durable::write_at(&self.part()?.file, bytes, at)?;
            }
        }
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
