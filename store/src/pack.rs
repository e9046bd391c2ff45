//! Packs: what a revision adds to its parent, or a whole tree; built once, the same bytes for members, history, mirror
//! and off-site.
//!
//! # The format, version 1
//!
//! A pack is a sequence of frames and nothing else. All numbers are little-endian. A frame is a header of 24 bytes and
//! its payload:
//!
//! | bytes  | what |
//! |--------|------|
//! | 0–3    | `BWF1`: a Bellwether frame, version 1 |
//! | 4      | kind: 1 head, 2 changes, 3 chunks, 4 end, 5 patches |
//! | 5      | codec: 0 the payload is as it is, 1 raw deflate (RFC 1951) |
//! | 6–7    | zero |
//! | 8–11   | length of the payload: 1 to [`limits::FRAME`](bellwether_proto::limits::FRAME) |
//! | 12–15  | raw length, after decompression: 1 to `limits::FRAME`; codec 0: the same, codec 1: more than the payload |
//! | 16–19  | CRC-32 (IEEE) of the payload as it is stored |
//! | 20–23  | CRC-32 of bytes 0–19 |
//!
//! The checksums find accidents early. Integrity proper comes from hashes: a chunk's BLAKE3 is its name, and the changes
//! must give the root that the signed header promises.
//!
//! The order is one head, changes, chunks, patches, one end, and nothing after it. Raw payloads:
//!
//! * **head**: a `v1.PackHead`. Its sets are sorted by name, none twice. The BLAKE3 of this whole frame, header included,
//!   is the pack's identity.
//! * **changes**: a `v1.Changes` of 1 to 65,536 changes, strictly sorted by (set, path) across all change frames. A base
//!   has no removals. Written in frames of about 1 MiB.
//! * **chunks**: 1 to 65,536 times a length of four bytes (1 to [`limits::CHUNK`](bellwether_proto::limits::CHUNK)) and that
//!   many bytes. Chunks come in the order of their first use by the changes, each once in a pack; hashes are not stored,
//!   the reader computes them. An increment lacks the chunks that the parent's files at changed paths (removed ones
//!   included) have, and those that patches tell. Written in frames of about 1 MiB.
//! * **patches**: in increments only, after the chunks: 1 to 65,536 chunks told by what differs from a chunk that the
//!   parent's file at the same path has. Each is the old chunk's hash, the new one's, and three numbers of four bytes: how
//!   many bytes at the beginning stay, how many at the end, how many stand between them; then those. Together they have at
//!   most `limits::CHUNK` bytes, and one at least stays. Patches count as the chunks that they make.
//! * **end**: changes, chunks and chunk bytes once more, eight bytes each, codec 0.
//!
//! A frame is compressed by itself, once, and stored as it is where that is not longer. The same contents, outlines and
//! codec give the same bytes.

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

/// What to pack.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The revision.
    pub header: &'a SignedHeader,
    /// A whole tree; otherwise what the revision adds to `parent`.
    pub base: bool,
    /// The parent's tree: chunks that its nodes under the changed paths hold are not packed again. Empty for a base; a
    /// base that gets its own tree here has its changes and no chunk (a preview).
    pub parent: &'a Tree,
    /// The rules of the revision's sets, sorted by name.
    pub rules: &'a [Arc<SetRules>],
    /// The changes, as [`Tree::diff`] gives them.
    pub changes: &'a [Change],
    /// Where the files are: read again here, and compared with the hashes in `changes`.
    pub sources: &'a [Source],
    /// Where chunks are that the files do not hold (any more): a revision may have an entry as it was before. None: those
    /// are an error.
    pub history: Option<&'a Packs>,
    /// How frames are compressed.
    pub codec: Codec,
    /// Remembers the chunks that are read, and tells their successors by what differs; none: all are written whole.
    pub outlines: Option<&'a Outlines>,
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
    /// A file cannot be read.
    #[error("cannot read {set}:{path}")]
    Read {
        /// The set.
        set: SetName,
        /// The file.
        path: bellwether_proto::entry::EntryPath,
        /// Why.
        source: std::io::Error,
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
    /// Frames of a later version than this program reads.
    #[error("it was made by a newer bellwether (frames of version {0}); upgrade bellwether on this server")]
    Newer(char),
    /// Bytes that are not a pack, or lie about sizes, counts or order.
    #[error("not a valid pack: {0}")]
    Malformed(#[from] Malformed),
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
    /// Chunks told by what differs; what they make is checked by [`Patch::apply`].
    Patches(Vec<Patch>),
    /// The last; all counts of the head were met.
    End,
}

/// A refusal of bytes that are not a pack.
fn malformed(what: impl Into<String>) -> PackError {
    PackError::Malformed(Malformed::new(what))
}
