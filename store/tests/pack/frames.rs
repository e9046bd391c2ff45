//! Frames that are made by the format's description, without the program's own encoder.

use std::io::Write;

use bellwether_proto::{record::SetRules, revision::SignedHeader, v1};
use bytes::Bytes;
use prost::Message;

use crate::fixture::Site;

pub(crate) const HEAD: u8 = 1;
pub(crate) const CHANGES: u8 = 2;
pub(crate) const CHUNKS: u8 = 3;
pub(crate) const END: u8 = 4;
pub(crate) const PATCHES: u8 = 5;

/// A frame with `kind`, `codec` and `raw` in its header, for any payload.
pub(crate) fn frame_that_says(kind: u8, codec: u8, length: u32, raw: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = b"BWF1".to_vec();
    frame.extend([kind, codec, 0, 0]);
    frame.extend(length.to_le_bytes());
    frame.extend(raw.to_le_bytes());
    frame.extend(crc32fast::hash(payload).to_le_bytes());
    frame.extend(crc32fast::hash(&frame).to_le_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame_that_says(kind, 0, payload.len() as u32, payload.len() as u32, payload)
}

pub(crate) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A pack that a test damages.
pub(crate) struct Forge {
    pub(crate) header: SignedHeader,
    pub(crate) base: bool,
    pub(crate) sets: Vec<v1::SetRules>,
    pub(crate) changes: Vec<v1::Change>,
    pub(crate) chunks: Vec<Vec<u8>>,
}

impl Forge {
    /// A valid base of one set: its root and one file.
    pub(crate) fn new() -> Self {
        let header = Site::new().header(None, bellwether_proto::hash::Hash::of(b""));
        let sets = vec![SetRules::new("web".parse().unwrap()).to_wire()];
        let chunk = b"hello\n".to_vec();
        let changes = vec![change("", directory()), change("index.html", file(&[&chunk]))];
        Self { header, base: true, sets, changes, chunks: vec![chunk] }
    }

    pub(crate) fn head(&self) -> v1::PackHead {
        v1::PackHead {
            header: Some(self.header.to_wire()),
            base: self.base,
            sets: self.sets.clone(),
            changes: self.changes.len() as u64,
            chunks: self.chunks.len() as u64,
            chunk_bytes: self.chunks.iter().map(|chunk| chunk.len() as u64).sum(),
        }
    }

    pub(crate) fn head_frame(&self) -> Vec<u8> {
        frame(HEAD, &self.head().encode_to_vec())
    }

    pub(crate) fn changes_frame(&self) -> Vec<u8> {
        frame(CHANGES, &v1::Changes { changes: self.changes.clone() }.encode_to_vec())
    }

    pub(crate) fn chunks_frame(&self) -> Vec<u8> {
        frame(CHUNKS, &chunk_payload(&self.chunks))
    }

    pub(crate) fn end_frame(&self) -> Vec<u8> {
        let head = self.head();
        frame(END, &[head.changes, head.chunks, head.chunk_bytes].map(u64::to_le_bytes).concat())
    }

    pub(crate) fn pack(&self) -> Vec<u8> {
        [self.head_frame(), self.changes_frame(), self.chunks_frame(), self.end_frame()].concat()
    }
}

pub(crate) fn chunk_payload(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| [&(chunk.len() as u32).to_le_bytes(), chunk.as_slice()].concat()).collect()
}

pub(crate) fn change(path: impl AsRef<[u8]>, entry: v1::Entry) -> v1::Change {
    v1::Change { set: 0, path: Bytes::copy_from_slice(path.as_ref()), entry: Some(entry) }
}

pub(crate) fn entry(mode: u32, kind: v1::entry::Kind) -> v1::Entry {
    v1::Entry { mode, user: "root".into(), group: "root".into(), mtime: 0, xattrs: Vec::new(), kind: Some(kind) }
}

pub(crate) fn directory() -> v1::Entry {
    entry(0o755, v1::entry::Kind::Directory(v1::Directory {}))
}

pub(crate) fn file(chunks: &[&[u8]]) -> v1::Entry {
    let chunks = chunks.iter().map(|chunk| v1::Chunk {
        hash: Bytes::copy_from_slice(blake3::hash(chunk).as_bytes()),
        length: chunk.len() as u32,
    });
    entry(0o644, v1::entry::Kind::File(v1::File { chunks: chunks.collect() }))
}
