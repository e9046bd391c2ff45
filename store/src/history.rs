//! History: packs on disk, in segments of a base and its increments. Retention deletes whole segments.
//!
//! The history is one directory, mode 0700. A file holds packs, one after the other and nothing else, so each pack is a range
//! of its file. A base begins a file, and small increments are appended to it: a write and an fdatasync. An increment of more
//! than 1 MiB has a file of its own, so that its bytes are written once, and the segment goes on in that file. A file is named
//! after its first pack: `SEQUENCE.EPOCH.ID.base` or `.inc`, the sequence in sixteen digits, the id the first eight of the
//! revision's. `incoming-N.part` is a pack that is being written or was interrupted. Names are for people; the parents that
//! the headers name count. An increment belongs to the segment of the last base before its own revision, so a base for a
//! revision is stored beside that revision's increment and begins the next segment.
//!
//! A member's small increments are first in its log ([`crate::log`]), which is a file in this directory. [`History::settle`]
//! moves many of them at once to a file of their own.
//!
//! A file whose end was cut off is read up to its last whole pack (`history/segment.rs`). All durable operations are in
//! `history/disk.rs`.

mod arriving;
mod disk;
mod examine;
mod forget;
mod index;
mod new_pack;
mod reading;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{
    entry::Chunk,
    hash::Hash,
    revision::{RevisionId, SignedHeader},
};

use self::{
    disk::{Directory, Newest, Partial},
    index::Index,
    new_pack::Body,
    segment::{Rest, Segment},
};
pub use self::{
    examine::{Examined, Interrupted, examine},
    forget::{Holding, file_holds},
    new_pack::{NewPack, WholePack},
};
use crate::{
    log::{self, Log},
    pack::PackError,
    state::file::StateFileError,
    tree::{Change, Tree},
};

/// The revisions that a server keeps at least when retention deletes segments.
pub const REVISIONS: usize = 200;

/// A pack in the history.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The revision.
    pub header: SignedHeader,
    /// Whether it is a base.
    pub base: bool,
    /// The pack's identity: BLAKE3 of its first frame.
    pub pack: Hash,
    /// The pack's size in bytes.
    pub size: u64,
    /// Bytes up to the end of its change frames, which are the part that a preview needs.
    pub changes_end: u64,
    /// The number of changes: from the parent, or of a base all entries.
    pub changes: u64,
    /// The file.
    pub path: PathBuf,
    /// The byte of the file at which the pack begins.
    pub at: u64,
}

/// The history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The system's error.
    #[error("cannot {action} {path}")]
    Io {
        /// The operation: read, write …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A stored pack has a later form than this program knows.
    #[error("{path} cannot be read here, and nothing was changed")]
    Newer {
        /// The pack.
        path: PathBuf,
        /// The form that the pack has.
        source: PackError,
    },
    /// A stored pack is damaged.
    #[error("{path} is damaged")]
    Damaged {
        /// The pack.
        path: PathBuf,
        /// The damage.
        source: PackError,
    },
    /// The revision was never kept here, or is not kept any more.
    #[error("revision {0} is not in the history")]
    Unknown(RevisionId),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] StateFileError),
}

/// The packs that bring a server to the head.
#[derive(Debug, Clone)]
pub enum Route {
    /// The server has the head.
    Nothing,
    /// Packs in order: increments from the server's revision, or a base and the increments after it.
    Packs(Vec<Arc<Stored>>),
}

/// A part of a file that was left out of the history and is still in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The file.
    pub path: PathBuf,
    /// The byte at which that part begins.
    pub at: u64,
    /// The lowest sequence that may be in that part.
    pub sequence: u64,
    /// The reason, for people.
    pub why: String,
}

/// Checks that no newer bellwether made the file `path` of a history. Damage is found when the file is read.
///
/// # Errors
/// The file cannot be read, or a newer bellwether made it.
pub fn check_version(path: &Path) -> Result<(), HistoryError> {
    match segment::read(path) {
        Err(HistoryError::Log(StateFileError::Damaged { .. })) => Ok(()),
        other => other.map(drop),
    }
}

/// The headers of the history in `directory`, unordered, as far as its files can be read. Nothing is changed there.
///
/// # Errors
/// The system's.
pub fn headers(directory: &Path) -> Result<Vec<SignedHeader>, HistoryError> {
    let (_, files) = Directory::open(directory)?;
    let segments = files.iter().map(|path| segment::read(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(segments.into_iter().flat_map(|segment| segment.packs).map(|stored| stored.header).collect())
}

/// The content of a history's files.
struct Found {
    /// The packs that can be read and whose parents are in the history.
    index: Index,
    left_out: Vec<LeftOut>,
    /// Files with an append that was interrupted, and the byte at which that append begins.
    torn: Vec<(PathBuf, u64)>,
    /// The end of the whole packs in each file to which packs may be appended.
    ends: HashMap<PathBuf, u64>,
}

fn found(files: Vec<PathBuf>) -> Result<Found, HistoryError> {
    let (mut packs, mut left_out, mut torn, mut ends) = (Vec::new(), Vec::new(), Vec::new(), HashMap::new());
    for path in files {
        let Segment { packs: here, end, rest } = match segment::read(&path) {
            // Its owner has removed the file since the listing.
            Err(HistoryError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            other => other?,
        };
        match rest {
            // Only a switch adds packs to the log.
            _ if segment::is_log(&path) => {}
            Rest::Nothing => drop(ends.insert(path, end)),
            Rest::Torn => {
                ends.insert(path.clone(), end);
                torn.push((path, end));
            }
            Rest::Damaged(why) => {
                let after = here.last().map(|stored| stored.header.number().sequence + 1);
                let sequence = after.or_else(|| disk::sequence(&path)).unwrap_or_default();
                left_out.push(LeftOut { path, at: end, sequence, why: why.to_string() });
            }
        }
        packs.extend(here.into_iter().map(Arc::new));
    }
    // The log keeps packs for a while after they were moved to a file.
    let filed: HashSet<_> =
        packs.iter().filter(|stored| !segment::is_log(&stored.path)).map(|stored| stored.pack).collect();
    packs.retain(|stored| !segment::is_log(&stored.path) || !filed.contains(&stored.pack));
    let (index, orphans) = Index::new(packs);
    // A pack in the log without its parent was moved to a file, and was deleted with that file.
    let orphans = orphans.into_iter().filter(|orphan| !segment::is_log(&orphan.path));
    left_out.extend(orphans.map(|orphan| LeftOut {
        path: orphan.path.clone(),
        at: orphan.at,
        sequence: orphan.header.number().sequence,
        why: "the revision that it changes is not in the history".into(),
    }));
    Ok(Found { index, left_out, torn, ends })
}

/// The history in one directory, which belongs to one process.
#[derive(Debug)]
pub struct History {
    directory: Arc<Directory>,
    log: Arc<Log>,
    index: Index,
    left_out: Vec<LeftOut>,
}

impl History {
    /// Opens or creates the history in `directory`. Unfinished files are removed, except for an interrupted pack (see
    /// [`History::partial`]). A damaged pack is named and left out, with the packs that need it.
    ///
    /// # Errors
    /// The system's, or a newer bellwether made a pack: in that case nothing is removed.
    pub fn open(directory: &Path) -> Result<Self, HistoryError> {
        let (log, (directory, files)) = (Log::open(directory)?, Directory::open(directory)?);
        let Found { index, left_out, torn, mut ends } = found(files)?;
        for LeftOut { path, at, why, .. } in &left_out {
            tracing::warn!(path = %path.display(), at, why, "a pack in the history cannot be used and is left out");
        }
        for (path, at) in &torn {
            tracing::warn!(path = %path.display(), at, "a pack was not written whole and is not part of the history");
        }
        directory.settle_partials(|pack| index.all().any(|stored| stored.pack == *pack))?;
        if let Some((path, end)) = index.newest_filed().and_then(|stored| ends.remove_entry(&stored.path)) {
            directory.append_to(Newest::new(path, end));
        }
        Ok(Self { directory: Arc::new(directory), log: Arc::new(log), index, left_out })
    }

    /// The log beside the packs: journals and the position.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The parts of files that were left out at [`History::open`].
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The newest revision: the one with the highest epoch, and in it the highest sequence.
    pub fn head(&self) -> Option<&Arc<Stored>> {
        self.index.head()
    }

    /// The stored revision of that identity: its increment if both packs are kept.
    pub fn get(&self, id: RevisionId) -> Option<&Arc<Stored>> {
        self.index.get(id)
    }

    /// Whether a base of that revision is kept.
    pub fn has_base(&self, id: RevisionId) -> bool {
        self.index.has_base(id)
    }

    /// All packs, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.index.all()
    }

    /// The tree of a revision: the nearest base before it with the increments applied.
    ///
    /// # Errors
    /// The revision is not kept, or a pack is damaged.
    pub fn tree(&self, id: RevisionId) -> Result<Tree, HistoryError> {
        self.chain(id)?.tree()
    }

    /// The packs that lead to a revision, to be read on other threads than the one that owns the history.
    ///
    /// # Errors
    /// Not kept.
    pub fn chain(&self, id: RevisionId) -> Result<Chain, HistoryError> {
        self.index.based_chain(id).map(Chain).ok_or(HistoryError::Unknown(id))
    }

    /// A revision and those it descends from, newest first, as far as this history goes back.
    pub fn line(&self, from: RevisionId) -> impl Iterator<Item = &Arc<Stored>> {
        self.index.line(from)
    }

    /// The packs from `from` to the head: the chain of increments, or a base (and its increments) if `from` is none or
    /// unknown, or if the base has fewer bytes.
    pub fn route(&self, from: Option<RevisionId>) -> Route {
        self.index.route(from)
    }

    /// Whether the head descends from that revision, as far as this history goes back.
    pub fn leads_from(&self, id: RevisionId) -> bool {
        self.index.leads_from(id)
    }

    /// Whether a base for the head should be built: the increments since the last one have more bytes than that base and 4
    /// MiB, or there are more than 500 of them.
    pub fn base_due(&self) -> bool {
        self.index.base_due()
    }

    /// A new pack, to be written in order. It is not yet part of the history.
    pub fn create(&self) -> NewPack {
        NewPack::new(self.directory.clone())
    }

    /// Goes on with the interrupted pack of that identity, behind its bytes in whole frames. Other interrupted packs are
    /// removed.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(&self, pack: Hash) -> Result<NewPack, HistoryError> {
        let Some(Partial { path, bytes, .. }) = self.directory.take_partial(&pack)? else { return Ok(self.create()) };
        Ok(NewPack::resumed(disk::reopen(path, bytes)?, bytes, self.directory.clone()))
    }

    /// The interrupted pack that is kept, and its bytes in whole frames.
    pub fn partial(&self) -> Option<(Hash, u64)> {
        self.directory.partial()
    }

    /// Makes a complete pack part of the history. When this returns, the pack survives a power loss. Interrupted packs of this
    /// revision or older ones are removed.
    ///
    /// # Errors
    /// The system's, the pack is not complete, or the revision that it changes is not in the history
    /// ([`HistoryError::Unknown`]). The history is unchanged.
    pub fn commit(&mut self, pack: NewPack) -> Result<Arc<Stored>, HistoryError> {
        let whole = self.check(pack)?;
        self.keep(whole)
    }

    /// Checks that the pack is complete and can become part of the history.
    ///
    /// # Errors
    /// As [`History::commit`], except for errors of writing.
    pub fn check(&self, pack: NewPack) -> Result<WholePack, HistoryError> {
        let whole = pack.whole()?;
        if !whole.stored.base && !self.index.has_parent(&whole.stored) {
            let header = &whole.stored.header;
            return Err(HistoryError::Unknown(header.header().parent.unwrap_or(header.id())));
        }
        Ok(whole)
    }

    /// The part of [`History::commit`] after [`History::check`].
    ///
    /// # Errors
    /// The system's; the history is unchanged.
    pub fn keep(&mut self, whole: WholePack) -> Result<Arc<Stored>, HistoryError> {
        let stored = self.write(whole)?;
        Ok(self.add(stored))
    }

    /// Writes the pack to its file; when this returns, the pack survives a power loss. A small increment is appended to the
    /// newest file by one write and one fdatasync. A base, or a pack with a file of its own, is synced and renamed, and its
    /// directory is synced. The caller calls [`History::add`] before it writes another pack.
    ///
    /// # Errors
    /// The system's; the history is unchanged.
    pub fn write(&self, WholePack { body, stored }: WholePack) -> Result<Stored, HistoryError> {
        let part = match body {
            Body::Memory(bytes) => {
                let appended = if stored.base { None } else { self.directory.append(&bytes)? };
                if let Some((path, at)) = appended {
                    return Ok(Stored { path, at, ..stored });
                }
                let failed = |source| HistoryError::Io { action: "write", path: stored.path.clone(), source };
                self.directory.write_part(&bytes).map_err(failed)?
            }
            Body::File(part) => part,
        };
        let path = self.directory.publish(part, &self.free_name(&stored), stored.size)?;
        Ok(Stored { path, ..stored })
    }

    /// A name for the file that the pack begins. If the pack arrived again, an old file that also holds other packs stays.
    fn free_name(&self, stored: &Stored) -> String {
        let is_used = |name: &String| {
            let holds_more = |other: &Arc<Stored>| other.at > 0 && other.path.ends_with(name);
            self.index.all().any(holds_more)
        };
        disk::names(&stored.header, stored.base).find(|name| !is_used(name)).unwrap_or_default()
    }

    /// Adds the pack that [`History::write`] wrote to this history in memory.
    pub fn add(&mut self, stored: Stored) -> Arc<Stored> {
        let stored = Arc::new(stored);
        if stored.at == 0 {
            // The new file replaced one that could not be read.
            self.left_out.retain(|left| left.path != stored.path);
        }
        self.index.insert(stored.clone());
        self.directory.forget_partials(stored.header.number().sequence);
        stored
    }

    /// Adds a pack that the log holds from byte `at` on, where the pack survives a power loss.
    pub fn add_logged(&mut self, WholePack { stored, body: _ }: WholePack, at: u64) -> Arc<Stored> {
        self.add(Stored { path: self.log.path().to_owned(), at, ..stored })
    }

    /// Moves the packs in the log to files, one for each segment, and makes the log anew. This is done if the log is large, or
    /// if `all` packs are to be in files. The newest segment goes on in its file.
    ///
    /// # Errors
    /// The system's; a pack that was not moved remains part of the history in the log.
    pub fn settle(&mut self, all: bool) -> Result<(), HistoryError> {
        if !all && !self.log.is_large() {
            return Ok(());
        }
        // There is a file for each segment: retention deletes whole files, so no file may have packs of two segments.
        let mut segments = vec![Vec::new()];
        for stored in self.index.all() {
            if stored.base {
                segments.push(Vec::new());
            }
            if segment::is_log(&stored.path)
                && let Some(packs) = segments.last_mut()
            {
                packs.push(stored.clone());
            }
        }
        segments.retain(|packs| !packs.is_empty());
        if segments.is_empty() && !self.log.is_large() {
            return Ok(());
        }
        for packs in segments {
            let first = &packs[0];
            let failed = |source| HistoryError::Io { action: "move the packs of", path: first.path.clone(), source };
            let read = |stored: &Arc<Stored>| log::bytes(&stored.path, (stored.at, stored.at + stored.size));
            let bytes = packs.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(failed)?.concat();
            let part = self.directory.write_part(&bytes).map_err(failed)?;
            let path = self.directory.publish(part, &self.free_name(first), bytes.len() as u64)?;
            let mut at = 0;
            for stored in packs {
                let size = stored.size;
                self.add(Stored { path: path.clone(), at, ..Stored::clone(&stored) });
                at += size;
            }
        }
        let failed = |source| HistoryError::Io { action: "write", path: self.log.path().to_owned(), source };
        self.log.renew().map_err(failed)
    }

    /// Finds chunks by hash; `found` gets each once. Packs are read, newest first, until all chunks are found.
    ///
    /// # Errors
    /// The system's.
    pub fn chunks(
        &self,
        wanted: &HashSet<Hash>,
        found: &mut dyn FnMut(Chunk, bytes::Bytes),
    ) -> Result<(), HistoryError> {
        self.packs().chunks(wanted, found)
    }

    /// The present packs, for threads that do not own the history.
    pub fn packs(&self) -> Packs {
        Packs(self.all().cloned().collect())
    }

    /// Deletes the oldest segments while at least `revisions` revisions stay, each with a base. Files that were left out are
    /// deleted with the segments of their age.
    ///
    /// # Errors
    /// The system's.
    pub fn retain(&mut self, revisions: usize) -> Result<(), HistoryError> {
        let Some((oldest, doomed)) = self.index.doomed(revisions) else { return Ok(()) };
        self.remove(oldest, doomed)
    }

    /// Deletes these files, and the files of that age that were left out.
    fn remove(&mut self, oldest: u64, mut paths: Vec<PathBuf>) -> Result<(), HistoryError> {
        let kept: HashSet<&PathBuf> = self.index.all().map(|stored| &stored.path).collect();
        let aged = |left: &&LeftOut| left.sequence < oldest && !kept.contains(&left.path);
        paths.extend(self.left_out.iter().filter(aged).map(|left| left.path.clone()));
        if paths.is_empty() {
            return Ok(());
        }
        paths.retain(|path| !segment::is_log(path));
        let mut gone = HashSet::new();
        let removed = self.directory.remove(&paths, &mut |path| {
            gone.insert(path.to_owned());
        });
        self.index.remove(&gone);
        self.left_out.retain(|left| !gone.contains(&left.path));
        removed
    }
}

/// The packs that lead to a revision: a base, and the increments from there.
#[derive(Debug, Clone)]
pub struct Chain(Vec<Arc<Stored>>);

impl Chain {
    /// The revision's tree.
    ///
    /// # Errors
    /// The system's, a pack is damaged, or it was deleted since.
    pub fn tree(&self) -> Result<Tree, HistoryError> {
        reading::tree(&self.0)
    }
}

impl Stored {
    /// Gives the changes of the pack to `take`, in parts that are sorted by (set, path): from the parent, or of a base all
    /// entries.
    ///
    /// # Errors
    /// The system's, the pack is damaged, or it was deleted since.
    pub fn read_changes(&self, take: &mut dyn FnMut(Vec<Change>)) -> Result<(), HistoryError> {
        reading::change_lists(self, take)
    }
}

/// The packs of a history at one moment.
#[derive(Debug, Clone)]
pub struct Packs(Vec<Arc<Stored>>);

impl Packs {
    /// As [`History::chunks`], but chunks that retention has deleted since are not found.
    ///
    /// # Errors
    /// The system's, or a pack was deleted since.
    pub fn chunks(
        &self,
        wanted: &HashSet<Hash>,
        found: &mut dyn FnMut(Chunk, bytes::Bytes),
    ) -> Result<(), HistoryError> {
        reading::chunks(self.0.iter().rev(), wanted.clone(), found)
    }
}
