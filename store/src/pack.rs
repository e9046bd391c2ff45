//! Packs: what a revision adds to its parent, or a whole tree; built once, the same bytes for members, history, mirror
//! and off-site.

use std::{fs::File, path::PathBuf, sync::Arc};

use bellwether_proto::{
    Malformed,
    entry::Chunk,
    hash::Hash,
    name::SetName,
    record::{Codec, SetRules},
    revision::SignedHeader,
};

use crate::{
    scan::Source,
    tree::{Change, Tree},
};

/// What to pack.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The revision.
    pub header: &'a SignedHeader,
    /// A whole tree; otherwise what the revision adds to `parent`.
    pub base: bool,
    /// The parent's tree (empty for a base): chunks that its nodes under the changed paths hold are not packed again.
    pub parent: &'a Tree,
    /// The rules of the revision's sets, sorted by name.
    pub rules: &'a [Arc<SetRules>],
    /// The changes, as [`Tree::diff`] gives them.
    pub changes: &'a [Change],
    /// Where the files are: read again here, and compared with the hashes in `changes`.
    pub sources: &'a [Source],
    /// How frames are compressed.
    pub codec: Codec,
}

/// Why a pack cannot be built or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file is no longer what was scanned: scan it again.
    #[error("{set}:{path} changed while it was packed")]
    Changed {
        /// The set.
        set: SetName,
        /// The file.
        path: bellwether_proto::entry::EntryPath,
    },
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
    /// Bytes that are not a pack, or lie about sizes, counts or order.
    #[error("not a valid pack: {0}")]
    Malformed(#[from] Malformed),
}

/// Writes the pack to `out`, compressing with all cores and a bounded number of frames in memory. Returns its size.
///
/// # Errors
/// A file changed, or the system's errors; what is in `out` is to be thrown away.
pub fn write(contents: &Contents<'_>, out: &mut File) -> Result<u64, PackError> {
    let _ = (contents, out);
    todo!()
}

/// What a pack begins with.
#[derive(Debug, Clone)]
pub struct Head {
    /// The pack's identity: BLAKE3 of its first frame.
    pub pack: Hash,
    /// The revision; its signature is the caller's to check.
    pub header: SignedHeader,
    /// Holds a whole tree.
    pub base: bool,
    /// The rules of its sets, sorted by name.
    pub rules: Vec<Arc<SetRules>>,
    /// How many changes follow.
    pub changes: u64,
    /// How many chunks follow.
    pub chunks: u64,
    /// Their bytes before compression.
    pub chunk_bytes: u64,
}

/// A decoded and checked frame.
#[derive(Debug)]
pub enum Frame {
    /// The first.
    Head(Box<Head>),
    /// Changes, sorted, across all change frames.
    Changes(Vec<Change>),
    /// Chunks with their bytes; each hash was computed from the bytes.
    Chunks(Vec<(Chunk, bytes::Bytes)>),
    /// The last; all counts of the head were met.
    End,
}

/// Takes a pack's bytes as they arrive, in pieces of any size, and gives its frames. Bounded memory, whatever arrives.
#[derive(Debug, Default)]
pub struct Reader {}

impl Reader {
    /// Adds bytes and gives the frames that are complete, checked for order, counts and sizes.
    ///
    /// # Errors
    /// Malformed; the reader is of no further use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, PackError> {
        let _ = bytes;
        todo!()
    }

    /// How many bytes the whole frames so far have: where an interrupted transfer goes on.
    pub fn whole(&self) -> u64 {
        todo!()
    }
}

/// Encodes chunks as frames outside a pack (the answer to a member that asks for chunks); [`read_chunks`] reads them.
pub fn chunk_frames(chunks: &[(Chunk, bytes::Bytes)], codec: Codec) -> bytes::Bytes {
    let _ = (chunks, codec);
    todo!()
}

/// Decodes what [`chunk_frames`] made.
///
/// # Errors
/// Malformed.
pub fn read_chunks(frames: &[u8]) -> Result<Vec<(Chunk, bytes::Bytes)>, PackError> {
    let _ = frames;
    todo!()
}
