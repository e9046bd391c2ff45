//! The log: the records of a server's changes in one append-only file, `history/log`.
//!
//! A record is a pack that has arrived, the journal of a switch, the position of a member, or the end of a switch. The newest
//! position and the newest journal count, and a journal counts until the end of its switch. So one `fdatasync` makes a pack
//! and the journal of its switch durable, and another one makes the position durable. The end needs none of its own: if it is
//! lost, recovery finds every entry in its place.
//!
//! A record is a header of 68 bytes and its body. Numbers are little-endian:
//!
//! | bytes | content |
//! |-------|------|
//! | 0–3   | `BWL1`: a record of a Bellwether log, version 1 |
//! | 4–7   | four bytes that each log chooses when it is made, so that a log inside a pack is not taken for a part of this one |
//! | 8     | kind: 1 pack, 2 journal, 3 position, 4 end |
//! | 9–11  | zero |
//! | 12–19 | length of the body |
//! | 20–27 | length of the log that was durable when this record was written |
//! | 28–59 | BLAKE3 of the same field of the record before (zeros in the first record), bytes 0–27, and the body |
//! | 60–63 | CRC-32 of bytes 0–59 |
//! | 64–67 | zero |
//!
//! Each record is checked together with all records before it, so the rest of an interrupted write never follows a newer
//! record. The log is read up to its last whole record, and the next record replaces the rest. A record that cannot be read,
//! although a later record says that it was durable, is damage.
//!
//! The bodies of journals and positions are state files. A pack stays in the log until the history moves it to a file
//! ([`crate::history::History::settle`]). After that, the log is made anew with the position alone.

use std::{
    cmp::Ordering,
    fs::{File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use bellwether_proto::{
    hash::Hash,
    level::{Level, State},
};

use crate::{
    durable, failpoint,
    mutex::locked,
    state::file::{self, StateFileError},
};

#[cfg(any(fuzzing, test))]
pub mod fuzzing;
#[cfg(test)]
mod tests;

/// The file's name in the history's directory.
pub(crate) const NAME: &str = "log";
const MAGIC: &[u8; 4] = b"BWL1";
const HEADER: usize = 68;
/// The bytes of a header that the hash covers.
const HASHED: usize = 28;
/// Bytes that are reserved at once.
const RESERVED: u64 = 256 << 10;
/// The size in bytes above which the log is made anew.
const LARGE: u64 = 1 << 20;

/// The path of a history's log.
pub fn path(history: &Path) -> PathBuf {
    history.join(NAME)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pack = 1,
    Journal = 2,
    Position = 3,
    End = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Pack, Self::Journal, Self::Position, Self::End].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A record's header.
struct Header {
    id: [u8; 4],
    kind: Kind,
    length: u64,
    durable: u64,
    hash: [u8; 32],
}

/// The `COUNT` bytes at `at`.
fn array<const COUNT: usize>(bytes: &[u8], at: usize) -> [u8; COUNT] {
    let mut array = [0; COUNT];
    array.copy_from_slice(&bytes[at..at + COUNT]);
    array
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let whole = &bytes[..4] == MAGIC
            && bytes[9..12] == [0; 3]
            && bytes[64..] == [0; 4]
            && crc32fast::hash(&bytes[..60]) == u32::from_le_bytes(array(bytes, 60));
        Some(Self {
            id: array(bytes, 4),
            kind: Kind::of(bytes[8]).filter(|_| whole)?,
            length: u64::from_le_bytes(array(bytes, 12)),
            durable: u64::from_le_bytes(array(bytes, 20)),
            hash: array(bytes, 28),
        })
    }
}

/// Adds a record to `log` and returns its hash, which the next record continues.
fn encode(log: &mut Vec<u8>, (id, before): ([u8; 4], [u8; 32]), durable: u64, kind: Kind, body: &[u8]) -> [u8; 32] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&id);
    header[8] = kind as u8;
    header[12..20].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[20..28].copy_from_slice(&durable.to_le_bytes());
    let hash = chained(&before, &header, body);
    header[28..60].copy_from_slice(&hash);
    let checksum = crc32fast::hash(&header[..60]);
    header[60..64].copy_from_slice(&checksum.to_le_bytes());
    log.extend_from_slice(&header);
    log.extend_from_slice(body);
    hash
}

fn chained(before: &[u8; 32], header: &[u8; HEADER], body: &[u8]) -> [u8; 32] {
    let body = Hash::of(body);
    *Hash::of(&[before, &header[..HASHED], body.as_bytes()].concat()).as_bytes()
}

/// The content of a log.
#[derive(Debug, Default)]
pub struct Records {
    path: PathBuf,
    /// The byte at which each pack begins.
    pub packs: Vec<u64>,
    /// The range of the journal that counts.
    journal: Option<(u64, u64)>,
    /// The position that counts.
    position: Option<Vec<u8>>,
    id: Option<[u8; 4]>,
    hash: [u8; 32],
    /// The end of the last whole record, and whether any bytes follow it.
    end: u64,
    torn: bool,
}

impl Records {
    /// Reads `bytes`, the content of the log at `path`.
    fn read(path: &Path, bytes: &[u8]) -> Result<Self, StateFileError> {
        let mut records = Self { path: path.to_owned(), ..Self::default() };
        while let Some((header, body)) = records.next(bytes) {
            let begins = records.end + HEADER as u64;
            records.end = begins + header.length;
            (records.id, records.hash) = (Some(header.id), header.hash);
            match header.kind {
                Kind::Pack => records.packs.push(begins),
                Kind::Journal => {
                    file::check(path, body)?;
                    records.journal = Some((begins, records.end));
                }
                Kind::Position => {
                    file::check(path, body)?;
                    records.position = Some(body.to_owned());
                }
                Kind::End => records.journal = None,
            }
        }
        let rest = &bytes[records.end as usize..];
        records.torn = !rest.is_empty();
        if let [b'B', b'W', b'L', version @ b'2'..=b'9', ..] = rest {
            return Err(StateFileError::Newer { path: path.to_owned(), level: Level((version - b'0').into()) });
        }
        if records.was_durable(rest) {
            let what = format!(
                "the record at byte {} cannot be read, though later ones can; move the file away, start the agent, and bring \
                 this server to the head: bellwether sync NAME",
                records.end
            );
            return Err(StateFileError::Damaged { path: path.to_owned(), what });
        }
        Ok(records)
    }

    /// The next record, if it is whole.
    fn next<'a>(&self, bytes: &'a [u8]) -> Option<(Header, &'a [u8])> {
        let rest = &bytes[self.end as usize..];
        let (head, rest) = rest.split_first_chunk::<HEADER>()?;
        let header = Header::parse(head)?;
        let body = rest.get(..usize::try_from(header.length).ok()?)?;
        let fits = self.id.is_none_or(|id| id == header.id) && chained(&self.hash, head, body) == header.hash;
        fits.then_some((header, body))
    }

    /// Whether a later record says that the record after the whole ones was durable.
    fn was_durable(&self, rest: &[u8]) -> bool {
        rest.windows(HEADER).any(|window| {
            let header = window.first_chunk().filter(|bytes| bytes[..4] == *MAGIC).and_then(Header::parse);
            header.is_some_and(|header| self.id.is_none_or(|id| id == header.id) && header.durable > self.end)
        })
    }

    /// The position, if one was noted.
    ///
    /// # Errors
    /// A newer bellwether made the position, or it is damaged.
    pub fn position<P: State>(&self) -> Result<Option<P>, StateFileError> {
        self.position.as_deref().map(|body| file::read(&self.path, body)).transpose()
    }

    /// The journal of a switch that is under way, or was interrupted.
    pub(crate) fn journal<J: State>(&self) -> Result<Option<J>, StateFileError> {
        let Some(range) = self.journal else { return Ok(None) };
        let failed = |source| StateFileError::Io { action: "read", path: self.path.clone(), source };
        let body = bytes(&self.path, range).map_err(failed)?;
        file::read(&self.path, &body).map(Some)
    }

    /// Whether a switch is under way, or was interrupted.
    pub fn is_switching(&self) -> bool {
        self.journal.is_some()
    }
}

/// The records in the log of the history in `directory`; none if there is no log. Another process may write it meanwhile.
///
/// # Errors
/// The log cannot be read, a newer bellwether made it, or it is damaged.
pub fn read(directory: &Path) -> Result<Records, StateFileError> {
    let path = path(directory);
    match durable::read_regular(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Records::read(&path, &[]),
        Err(source) => Err(StateFileError::Io { action: "read", path, source }),
        Ok(bytes) => Records::read(&path, &bytes),
    }
}

/// The log of a history that this process owns. Only one thread at a time writes.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// Opened or made by the first record that is written.
    file: Option<File>,
    records: Records,
    /// The length that is durable.
    durable: u64,
    /// The end of the reserved space.
    reserved: u64,
}

impl Log {
    /// The log in the history's `directory`; made by the first record.
    ///
    /// # Errors
    /// As [`read`].
    pub fn open(directory: &Path) -> Result<Self, StateFileError> {
        let records = read(directory)?;
        if records.torn {
            let (path, at) = (records.path.display(), records.end);
            tracing::warn!(%path, at, "a record was not written whole and does not count");
        }
        let (durable, reserved) = (records.end, records.end);
        let open = Mutex::new(Open { file: None, records, durable, reserved });
        Ok(Self { directory: directory.to_owned(), path: path(directory), open })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, source: io::Error) -> StateFileError {
        StateFileError::Io { action: "write", path: self.path.clone(), source }
    }

    /// The position, if one was noted.
    ///
    /// # Errors
    /// A newer bellwether made the position, or it is damaged.
    pub fn position<P: State>(&self) -> Result<Option<P>, StateFileError> {
        locked(&self.open).records.position()
    }

    /// Notes the position; when this returns, the position survives a power loss.
    ///
    /// # Errors
    /// The position cannot be written; the previous one counts.
    pub fn note(&self, position: &impl State) -> Result<(), StateFileError> {
        let body = file::encode(position).map_err(|error| self.failed(error.into()))?;
        let mut open = locked(&self.open);
        self.append(&mut open, &[(Kind::Position, &body)], true).map_err(|source| self.failed(source))?;
        open.records.position = Some(body);
        Ok(())
    }

    /// The journal of a switch that is under way, or was interrupted.
    pub(crate) fn journal<J: State>(&self) -> Result<Option<J>, StateFileError> {
        locked(&self.open).records.journal()
    }

    /// Notes the journal of a switch and the pack of the new revision; when this returns, both survive a power loss. Returns
    /// the byte at which the pack begins.
    pub(crate) fn begin(&self, pack: Option<&[u8]>, journal: &impl State) -> io::Result<Option<u64>> {
        let body = file::encode(journal)?;
        let mut open = locked(&self.open);
        let at = pack.map(|_| open.records.end + HEADER as u64);
        let records: Vec<_> =
            pack.map(|pack| (Kind::Pack, pack)).into_iter().chain([(Kind::Journal, &body[..])]).collect();
        self.append(&mut open, &records, true)?;
        let end = open.records.end;
        open.records.packs.extend(at);
        open.records.journal = Some((end - body.len() as u64, end));
        Ok(at)
    }

    /// Notes that the switch has ended, if one is under way. A power loss may undo that until [`Log::sync`], or until the next
    /// record that is synced.
    pub(crate) fn end(&self) -> io::Result<()> {
        let mut open = locked(&self.open);
        if open.records.is_switching() {
            self.append(&mut open, &[(Kind::End, &[])], false)?;
            open.records.journal = None;
        }
        Ok(())
    }

    /// Treats the switch as ended, though that could not be noted.
    pub(crate) fn disregard_journal(&self) {
        locked(&self.open).records.journal = None;
    }

    /// Makes all records survive a power loss.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut open = locked(&self.open);
        if let (Some(file), true) = (&open.file, open.durable < open.records.end) {
            durable::sync_data(file.as_fd())?;
            open.durable = open.records.end;
        }
        Ok(())
    }

    /// Whether its file has records of packs.
    pub(crate) fn has_packs(&self) -> bool {
        !locked(&self.open).records.packs.is_empty()
    }

    /// Whether the log is so large that it is to be made anew, and no switch is under way.
    pub(crate) fn is_large(&self) -> bool {
        let open = locked(&self.open);
        open.records.end > LARGE && !open.records.is_switching()
    }

    /// Makes the log anew with the position alone: the history has the packs. Does nothing while a switch is under way.
    pub(crate) fn renew(&self) -> io::Result<()> {
        let mut open = locked(&self.open);
        if open.records.is_switching() {
            return Ok(());
        }
        let mut new = Vec::new();
        if let Some(body) = &open.records.position {
            encode(&mut new, (choose(), [0; 32]), 0, Kind::Position, body);
        }
        let held = File::open(&self.directory)?;
        let replaced = durable::replace_file(held.as_fd(), NAME.as_bytes(), &new);
        // Whether or not the replacement failed, the log is the file with the name.
        open.file = None;
        open.records = read(&self.directory).map_err(io::Error::other)?;
        (open.durable, open.reserved) = (open.records.end, open.records.end);
        replaced
    }

    /// Appends records by one write. If they could not be written, they are cut off again, if possible.
    fn append(&self, open: &mut Open, records: &[(Kind, &[u8])], sync: bool) -> io::Result<()> {
        let id = open.records.id.unwrap_or_else(choose);
        let (mut bytes, mut hash) = (Vec::new(), open.records.hash);
        for (kind, body) in records {
            hash = encode(&mut bytes, (id, hash), open.durable, *kind, body);
        }
        let (at, end) = (open.records.end, open.records.end + bytes.len() as u64);
        let file = match open.file.take() {
            Some(file) => file,
            None => self.open_file(at)?,
        };
        let file = open.file.insert(file);
        if end > open.reserved {
            durable::reserve(file, at, RESERVED.max(bytes.len() as u64));
            open.reserved = at + RESERVED;
        }
        let written = durable::write_at(file, &bytes, at).and_then(|()| {
            failpoint::check("log.appended")?;
            if sync { durable::sync_data(file.as_fd()) } else { Ok(()) }
        });
        if let Err(error) = written {
            let cut = durable::set_length(file, at).and_then(|()| durable::sync_data(file.as_fd()));
            if let Err(error) = cut {
                tracing::warn!(path = %self.path.display(), %error, "cannot cut off an append that failed");
            }
            return Err(error);
        }
        (open.records.id, open.records.hash, open.records.end) = (Some(id), hash, end);
        if sync {
            open.durable = end;
        }
        Ok(())
    }

    /// Opens the file and cuts it at `end`, or makes it with a durable name.
    fn open_file(&self, end: u64) -> io::Result<File> {
        if end == 0 {
            let held = File::open(&self.directory)?;
            let file = durable::write_new(held.as_fd(), NAME.as_bytes(), &[])?;
            durable::sync_directory(held.as_fd())?;
            return Ok(file);
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        match file.metadata()?.len().cmp(&end) {
            Ordering::Less => return Err(io::Error::other("the log is shorter than before")),
            Ordering::Equal => {}
            // A write was interrupted.
            Ordering::Greater => durable::set_length(&file, end)?,
        }
        Ok(file)
    }
}

/// The bytes of a range of the file.
pub(crate) fn bytes(path: &Path, (from, to): (u64, u64)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
    durable::open_regular(path)?.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

/// Four bytes for a new log.
fn choose() -> [u8; 4] {
    array(&RandomState::new().build_hasher().finish().to_le_bytes(), 0)
}
