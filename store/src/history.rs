//! History: packs on disk, in segments of a base and its increments, deleted whole by retention.
//!
//! One directory, mode 0700, a file a pack: `SEQUENCE.EPOCH.ID.inc` or `.base`, the sequence in sixteen digits, the id the
//! first eight of the revision's. `incoming-N.part` is a pack that is being written or was interrupted. Names are for
//! people; what counts are the parents that the headers name. An increment belongs to the segment of the last base before
//! its own revision, so a base for a revision stands beside that revision's increment and begins the next segment.
//!
//! All durable operations are in `history/disk.rs`.

mod arriving;
mod disk;
mod examine;
mod index;
mod reading;

use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{
    entry::Chunk,
    hash::Hash,
    revision::{RevisionId, SignedHeader},
};

pub use self::examine::{Examined, Interrupted, examine};
use self::{
    arriving::Arriving,
    disk::{Directory, Partial},
    index::Index,
};
use crate::{
    pack::{self, PackError},
    tree::Tree,
};

/// How many revisions a server keeps at the least when it lets old segments go.
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
    /// Its bytes.
    pub size: u64,
    /// Bytes up to the end of its change frames: what a preview needs.
    pub changes_end: u64,
    /// The file.
    pub path: PathBuf,
}

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The system's error.
    #[error("cannot {action} {path}")]
    Io {
        /// read, write …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A stored pack has a later form than this program reads.
    #[error("{path} cannot be read here, and nothing was changed")]
    Newer {
        /// The pack.
        path: PathBuf,
        /// Which form.
        source: PackError,
    },
    /// A stored pack is damaged.
    #[error("{path} is damaged")]
    Damaged {
        /// The pack.
        path: PathBuf,
        /// How.
        source: PackError,
    },
    /// The revision is not kept here (any more).
    #[error("revision {0} is not in the history")]
    Unknown(RevisionId),
}

/// How a server is brought to the head.
#[derive(Debug, Clone)]
pub enum Route {
    /// It is there.
    Nothing,
    /// These, in order: increments from where it is, or a base and the increments after it.
    Packs(Vec<Arc<Stored>>),
}

/// A file that was left out, with those that need it; it is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The file.
    pub path: PathBuf,
    /// Why, for people.
    pub why: String,
}

/// Checks that no newer bellwether made the pack in `path`. Damage is found when it is read.
///
/// # Errors
/// It cannot be read, or a newer bellwether made it.
pub fn check_version(path: &Path) -> Result<(), HistoryError> {
    reading::check_version(path)
}

/// The headers of the history in `directory`, in no order, as far as its files can be read. Nothing is changed there.
///
/// # Errors
/// The system's.
pub fn headers(directory: &Path) -> Result<Vec<SignedHeader>, HistoryError> {
    let (_, files) = Directory::open(directory)?;
    let read = |path: PathBuf| match reading::stored(&path) {
        Ok(stored) => Some(Ok(stored.header)),
        Err(HistoryError::Damaged { .. }) => None,
        Err(error) => Some(Err(error)),
    };
    files.into_iter().filter_map(read).collect()
}

/// The index of the packs in `files` that `read` can read and whose parents are there, and what is left out.
fn indexed(
    files: Vec<PathBuf>,
    read: impl Fn(&Path) -> Result<Stored, HistoryError>,
) -> Result<(Index, Vec<LeftOut>), HistoryError> {
    let (mut packs, mut left_out) = (Vec::new(), Vec::new());
    for path in files {
        match read(&path) {
            Ok(stored) => packs.push(Arc::new(stored)),
            Err(HistoryError::Damaged { path, source }) => left_out.push(LeftOut { path, why: source.to_string() }),
            // Its owner has removed it since it was listed.
            Err(HistoryError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let (index, orphans) = Index::new(packs);
    left_out.extend(orphans.into_iter().map(|orphan| LeftOut {
        path: orphan.path.clone(),
        why: "the revision it changes is not in the history".into(),
    }));
    Ok((index, left_out))
}

/// The history in one directory. One process owns it.
#[derive(Debug)]
pub struct History {
    directory: Arc<Directory>,
    index: Index,
    left_out: Vec<LeftOut>,
}

impl History {
    /// Opens or creates the history in `directory`; removes what was never finished there, but keeps interrupted packs
    /// (see [`History::partial`]). A damaged pack is named and left out, with those that need it.
    ///
    /// # Errors
    /// The system's, or a newer bellwether made a pack: then nothing is removed.
    pub fn open(directory: &Path) -> Result<Self, HistoryError> {
        let (directory, files) = Directory::open(directory)?;
        let (index, left_out) = indexed(files, reading::stored)?;
        for LeftOut { path, why } in &left_out {
            tracing::warn!(path = %path.display(), why, "a pack in the history cannot be used and is left out");
        }
        directory.settle_partials(|pack| index.all().any(|stored| stored.pack == *pack))?;
        Ok(Self { directory: Arc::new(directory), index, left_out })
    }

    /// The files that were left out at [`History::open`].
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The newest revision: the highest epoch, then sequence.
    pub fn head(&self) -> Option<&Arc<Stored>> {
        self.index.head()
    }

    /// The stored revision of that identity (its increment, where both are kept).
    pub fn get(&self, id: RevisionId) -> Option<&Arc<Stored>> {
        self.index.get(id)
    }

    /// Whether a base of that revision is kept.
    pub fn has_base(&self, id: RevisionId) -> bool {
        self.index.has_base(id)
    }

    /// All, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.index.all()
    }

    /// The tree of a revision: the nearest base before it with the increments applied.
    ///
    /// # Errors
    /// Not kept, or damaged.
    pub fn tree(&self, id: RevisionId) -> Result<Tree, HistoryError> {
        reading::tree(&self.index.based_chain(id).ok_or(HistoryError::Unknown(id))?)
    }

    /// How a server at `from` gets to the head: the chain of increments, or a base (and its increments) when `from` is
    /// none or unknown, or when that is fewer bytes.
    pub fn route(&self, from: Option<RevisionId>) -> Route {
        self.index.route(from)
    }

    /// Whether the head descends from that revision, as far as this history goes back.
    pub fn leads_from(&self, id: RevisionId) -> bool {
        self.index.leads_from(id)
    }

    /// Whether a base for the head should be built: the increments since the last one have more bytes than it and 4 MiB,
    /// or are more than 500.
    pub fn base_due(&self) -> bool {
        self.index.base_due()
    }

    /// A file for a new pack, in the history's directory, not yet part of it. Dropped unfinished, it is removed.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self) -> Result<NewPack, HistoryError> {
        let (file, path) = self.directory.create()?;
        Ok(NewPack { file, path, arriving: None, settled: false, directory: self.directory.clone() })
    }

    /// Goes on with the pack of that identity that was interrupted: its file, and how many bytes in whole frames are
    /// there. Other interrupted packs are removed.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(&self, pack: Hash) -> Result<(NewPack, u64), HistoryError> {
        let Some(Partial { path, bytes, .. }) = self.directory.take_partial(&pack)? else {
            return Ok((self.create()?, 0));
        };
        let file = disk::reopen(&path, bytes)?;
        Ok((NewPack { file, path, arriving: None, settled: false, directory: self.directory.clone() }, bytes))
    }

    /// The interrupted pack that is kept, and its bytes in whole frames.
    pub fn partial(&self) -> Option<(Hash, u64)> {
        self.directory.partial()
    }

    /// Makes a complete pack part of the history: fsync, rename, fsync of the directory. When this returns it survives a
    /// power loss. Interrupted packs of this revision or older ones are removed.
    ///
    /// # Errors
    /// The system's, the pack is not complete, or the revision it changes is not here ([`HistoryError::Unknown`]); the
    /// history is as it was.
    pub fn commit(&mut self, pack: NewPack) -> Result<Arc<Stored>, HistoryError> {
        let whole = self.check(pack)?;
        self.keep(whole)
    }

    /// Looks whether the pack is complete and can become part of the history.
    ///
    /// # Errors
    /// As [`History::commit`], but for what only writing shows.
    pub fn check(&self, mut pack: NewPack) -> Result<WholePack, HistoryError> {
        pack.flush().map_err(|source| HistoryError::Io { action: "write", path: pack.path.clone(), source })?;
        let stored = reading::complete(&pack.file, &pack.path)?;
        if !stored.base && !self.index.has_parent(&stored) {
            let header = &stored.header;
            return Err(HistoryError::Unknown(header.header().parent.unwrap_or(header.id())));
        }
        Ok(WholePack { pack, stored })
    }

    /// What [`History::commit`] does after [`History::check`].
    ///
    /// # Errors
    /// The system's; the history is as it was.
    pub fn keep(&mut self, WholePack { mut pack, stored }: WholePack) -> Result<Arc<Stored>, HistoryError> {
        let sequence = stored.header.number().sequence;
        let name = disk::name(&stored.header, stored.base);
        let path = self.directory.publish(&pack.file, &pack.path, &name)?;
        pack.settled = true;
        let stored = Arc::new(Stored { path, ..stored });
        self.index.insert(stored.clone());
        self.left_out.retain(|left| left.path != stored.path);
        self.directory.forget_partials(sequence);
        Ok(stored)
    }

    /// Finds chunks by hash; `found` gets each once. Reads the packs, newest first, until all are found.
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

    /// The packs as they are now, to be read on other threads than the one that owns the history.
    pub fn packs(&self) -> Packs {
        Packs(self.all().cloned().collect())
    }

    /// Deletes the oldest segments, whole, while at least `revisions` stay and a base for every one of them. Files that
    /// were left out go with the segments of their age.
    ///
    /// # Errors
    /// The system's.
    pub fn retain(&mut self, revisions: usize) -> Result<(), HistoryError> {
        let Some((oldest, doomed)) = self.index.doomed(revisions) else { return Ok(()) };
        let mut paths: Vec<PathBuf> = doomed.iter().map(|stored| stored.path.clone()).collect();
        let aged = |left: &LeftOut| disk::sequence(&left.path).is_some_and(|sequence| sequence < oldest);
        paths.extend(self.left_out.iter().filter(|left| aged(left)).map(|left| left.path.clone()));
        if paths.is_empty() {
            return Ok(());
        }
        let mut gone = HashSet::new();
        let removed = self.directory.remove(&paths, &mut |path| {
            gone.insert(path.to_owned());
        });
        self.index.remove(&gone);
        self.left_out.retain(|left| !gone.contains(&left.path));
        removed
    }
}

/// The packs of a history at one moment.
#[derive(Debug, Clone)]
pub struct Packs(Vec<Arc<Stored>>);

impl Packs {
    /// As [`History::chunks`]; what retention has deleted since is not found.
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

/// A pack that is being written.
#[derive(Debug)]
pub struct NewPack {
    file: File,
    path: PathBuf,
    /// What [`NewPack::append`] has taken.
    arriving: Option<Arriving>,
    /// Committed or kept: no longer this value's to remove.
    settled: bool,
    directory: Arc<Directory>,
}

/// A pack that is complete and fits the history, not yet part of it. Dropped, it is removed.
#[derive(Debug)]
pub struct WholePack {
    pack: NewPack,
    stored: Stored,
}

impl NewPack {
    /// The file, to be written in order.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Adds bytes as they arrive, from `at` on at first; from then on the file is written by this only.
    ///
    /// # Errors
    /// The system's.
    pub fn append(&mut self, bytes: &[u8], at: u64) -> std::io::Result<()> {
        let Self { file, path, arriving, .. } = self;
        arriving.get_or_insert_with(|| Arriving::new(path, at)).push(file, bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.arriving.take().map_or(Ok(()), |mut arriving| arriving.flush(&self.file))
    }

    /// Keeps what has arrived, to go on later with [`History::resume`]. Removed when not even the head has arrived, or it
    /// is another pack's.
    pub fn keep(mut self, pack: Hash) {
        if self.flush().is_ok()
            && let Ok(Some((head, bytes))) = pack::whole_frames(&self.file, &self.path)
            && head.pack == pack
        {
            let (sequence, path) = (head.header.number().sequence, self.path.clone());
            self.directory.keep(Partial { pack, bytes, sequence, path });
            self.settled = true;
        }
    }
}

impl Drop for NewPack {
    fn drop(&mut self) {
        if !self.settled {
            disk::discard(&self.path);
        }
    }
}
