//! Packs: the difference between a revision and its parent, or a whole tree. A pack is built once, and members and the history
//! get the same bytes.
//!
//! # The format, version 1
//!
//! A pack is a sequence of frames and nothing else. All numbers are little-endian. A frame is a header of 24 bytes and
//! its payload:
//!
//! | bytes  | content |
//! |--------|------|
//! | 0–3    | `BWF1`: a Bellwether frame, version 1 |
//! | 4      | kind: 1 head, 2 changes, 3 chunks, 4 end, 5 patches |
//! | 5      | codec: 0 the payload is not compressed, 1 raw deflate (RFC 1951) |
//! | 6–7    | zero |
//! | 8–11   | length of the payload: 1 to [`limits::FRAME`](bellwether_proto::limits::FRAME) |
//! | 12–15  | raw length, after decompression: 1 to `limits::FRAME`; codec 0: the same, codec 1: more than the payload |
//! | 16–19  | CRC-32 (IEEE) of the payload as it is stored |
//! | 20–23  | CRC-32 of bytes 0–19 |
//!
//! The checksums find accidents early. Integrity comes from hashes: a chunk's name is its BLAKE3 hash, and the changes must
//! give the root in the signed header.
//!
//! The order is one head, changes, chunks, patches and one end; nothing follows the end. Raw payloads:
//!
//! * **head**: a `v1.PackHead`. Its sets are sorted by name, none twice. The BLAKE3 of this whole frame, header included,
//!   is the pack's identity.
//! * **changes**: a `v1.Changes` of 1 to 65,536 changes, strictly sorted by (set, path) across all change frames. A base
//!   has no removals. Written in frames of about 1 MiB.
//! * **chunks**: 1 to 65,536 times a length of four bytes (1 to [`limits::CHUNK`](bellwether_proto::limits::CHUNK)) and that
//!   many bytes. Chunks come in the order of their first use by the changes, each once in a pack. Their hashes are not
//!   stored, since the reader computes them. An increment has no chunk that the parent's files at changed or removed paths
//!   have, and none that a patch makes. Written in frames of about 1 MiB.
//! * **patches**: in increments only, after the chunks: 1 to 65,536 chunks as differences from a chunk that the parent's file
//!   at the same path has. A patch is the old chunk's hash, the new chunk's hash, and three numbers of four bytes: the bytes
//!   at the beginning that stay, those at the end that stay, and those between them; then the bytes between them. The new
//!   chunk has at most `limits::CHUNK` bytes, and at least one byte stays. Patches count as the chunks that they make.
//! * **end**: the numbers of changes, chunks and chunk bytes again, eight bytes each, codec 0.
//!
//! A frame is compressed by itself, once, and stored without compression if that is not longer. The same contents, outlines
//! and codec give the same bytes.

mod changes;
mod decode;
mod examine;
mod files;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod old;
mod order;
mod outline;
mod patch;
mod patching;
mod read;
mod survey;
mod write;

use std::{path::PathBuf, sync::Arc};

use bellwether_proto::{
    Malformed,
    entry::Chunk,
    hash::Hash,
    name::SetName,
    record::{Codec, SetRules},
    revision::SignedHeader,
};

use crate::{
    history::Packs,
    scan::Source,
    tree::{Change, Tree},
};

pub use decode::{Decoded, RawChange};
pub use examine::{Damage, Examination, Examined};
pub use frame::{FrameKind, RawFrame, Splitter};
pub use old::OldChunks;
pub use order::{Counts, Order};
pub use outline::Outlines;
pub use patch::Patch;
pub use read::{Reader, SUPPLY, chunk_frames, read_chunks};
pub(crate) use survey::{Place, Survey, begins_behind, read_range, survey, survey_alone, whole_frames};
pub use write::write;

/// The content of a new pack.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The revision.
    pub header: &'a SignedHeader,
    /// Whether the pack is a base with a whole tree; otherwise it is an increment on `parent`.
    pub base: bool,
    /// The parent's tree: chunks in its nodes under the changed paths are not packed again. It is empty for a base; a base
    /// that gets its own tree here has its changes and no chunks (a preview).
    pub parent: &'a Tree,
    /// The rules of the revision's sets, sorted by name.
    pub rules: &'a [Arc<SetRules>],
    /// The changes, as from [`Tree::diff`].
    pub changes: &'a [Change],
    /// The sets' directories, whose files are read again and compared with the hashes in `changes`.
    pub sources: &'a [Source],
    /// The packs with the chunks that the files no longer hold, since a revision may keep an earlier state of an entry. With
    /// none, a missing chunk is an error.
    pub history: Option<&'a Packs>,
    /// The codec of the frames.
    pub codec: Codec,
    /// The cache that remembers the chunks and makes patches of their successors; with none, all chunks are written whole.
    pub outlines: Option<&'a Outlines>,
}

/// The pack cannot be built or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file was changed after it was scanned, and has to be scanned again.
    #[error("{set}:{path} changed while it was packed")]
    Changed {
        /// The set.
        set: SetName,
        /// The file.
        path: bellwether_proto::entry::EntryPath,
    },
    /// A file cannot be read.
    #[error("cannot read {set}:{path}")]
    Read {
        /// The set.
        set: SetName,
        /// The file.
        path: bellwether_proto::entry::EntryPath,
        /// The system's error.
        source: std::io::Error,
    },
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
    /// The frames have a later version than this program knows.
    #[error("it was made by a newer bellwether (frames of version {0}); upgrade bellwether on this server")]
    Newer(char),
    /// The bytes are not a pack, or their sizes, counts or order are wrong.
    #[error("not a valid pack: {0}")]
    Malformed(#[from] Malformed),
}

/// The beginning of a pack.
#[derive(Debug, Clone)]
pub struct Head {
    /// The pack's identity: BLAKE3 of its first frame.
    pub pack: Hash,
    /// The header; the caller checks its signature.
    pub header: SignedHeader,
    /// Whether the pack holds a whole tree.
    pub base: bool,
    /// The rules of its sets, sorted by name.
    pub rules: Vec<Arc<SetRules>>,
    /// The number of changes that follow.
    pub changes: u64,
    /// The number of chunks that follow.
    pub chunks: u64,
    /// Their bytes before compression.
    pub chunk_bytes: u64,
}

/// A decoded and checked frame.
#[derive(Debug)]
pub enum Frame {
    /// The first frame.
    Head(Box<Head>),
    /// Changes, sorted, across all change frames.
    Changes(Vec<Change>),
    /// Chunks with their bytes; each hash was computed from the bytes.
    Chunks(Vec<(Chunk, bytes::Bytes)>),
    /// Patches; [`Patch::apply`] checks the chunks that they make.
    Patches(Vec<Patch>),
    /// The last frame; all counts of the head are right.
    End,
}

/// A refusal of bytes that are not a pack.
fn malformed(what: impl Into<String>) -> PackError {
    PackError::Malformed(Malformed::new(what))
}
