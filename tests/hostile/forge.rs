//! Packs that are made frame by frame, so that they can have false contents.

use std::io::Write;

use bellwether_proto::{hash::Hash, revision::SignedHeader, v1};
use bellwether_store::attributes::Names;
use bytes::Bytes;
use prost::Message;

pub(super) const HEAD: u8 = 1;
pub(super) const CHANGES: u8 = 2;
pub(super) const CHUNKS: u8 = 3;
pub(super) const END: u8 = 4;

/// A correct frame as `store/src/pack.rs` describes it.
pub(super) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame_that_says(kind, 0, payload.len() as u32, payload.len() as u32, payload)
}

/// A frame with any header, and with right checksums.
pub(super) fn frame_that_says(kind: u8, codec: u8, length: u32, raw: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = b"BWF1".to_vec();
    frame.extend([kind, codec, 0, 0]);
    for number in [length, raw, crc32fast::hash(payload)] {
        frame.extend(number.to_le_bytes());
    }
    frame.extend(crc32fast::hash(&frame).to_le_bytes());
    frame.extend(payload);
    frame
}

/// Raw deflate (RFC 1951).
pub(super) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("a Vec has room");
    encoder.finish().expect("a Vec has room")
}

/// The payload of a chunks frame.
pub(super) fn chunks_payload(chunks: &[Vec<u8>]) -> Vec<u8> {
    let with_length = |chunk: &Vec<u8>| [&(chunk.len() as u32).to_le_bytes()[..], chunk].concat();
    chunks.iter().flat_map(with_length).collect()
}

/// A change of the first set.
pub(super) fn change(path: impl AsRef<[u8]>, entry: impl Into<Option<v1::Entry>>) -> v1::Change {
    v1::Change { set: 0, path: Bytes::copy_from_slice(path.as_ref()), entry: entry.into() }
}

fn entry(mode: u32, kind: v1::entry::Kind) -> v1::Entry {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = Names::new().owner(user, group);
    let (user, group) = (owner.user.to_string(), owner.group.to_string());
    v1::Entry { mode, user, group, mtime: 0, xattrs: Vec::new(), kind: Some(kind) }
}

/// A directory, 0755.
pub(super) fn directory() -> v1::Entry {
    entry(0o755, v1::entry::Kind::Directory(v1::Directory {}))
}

/// A file, 0644, of one chunk, or of none if it is empty.
pub(super) fn file(content: &[u8]) -> v1::Entry {
    let chunk = v1::Chunk { hash: Hash::of(content).into(), length: content.len() as u32 };
    let chunks = if content.is_empty() { Vec::new() } else { vec![chunk] };
    entry(0o644, v1::entry::Kind::File(v1::File { chunks }))
}

/// A symbolic link.
pub(super) fn link(target: impl AsRef<[u8]>) -> v1::Entry {
    entry(0o777, v1::entry::Kind::Link(Bytes::copy_from_slice(target.as_ref())))
}

/// The same entry with this attribute.
pub(super) fn with_xattr(mut entry: v1::Entry, name: &str, value: &[u8]) -> v1::Entry {
    entry
        .xattrs
        .push(v1::Xattr { name: Bytes::copy_from_slice(name.as_bytes()), value: Bytes::copy_from_slice(value) });
    entry
}

/// The parts of a pack.
#[derive(Debug, Clone)]
pub(super) struct Forged {
    pub(super) header: SignedHeader,
    pub(super) base: bool,
    pub(super) sets: Vec<v1::SetRules>,
    pub(super) changes: Vec<v1::Change>,
    pub(super) chunks: Vec<Vec<u8>>,
}

impl Forged {
    /// The pack's correct head.
    pub(super) fn head(&self) -> v1::PackHead {
        v1::PackHead {
            header: Some(self.header.to_wire()),
            base: self.base,
            sets: self.sets.clone(),
            changes: self.changes.len() as u64,
            chunks: self.chunks.len() as u64,
            chunk_bytes: self.chunks.iter().map(|chunk| chunk.len() as u64).sum(),
        }
    }

    pub(super) fn head_frame(&self) -> Vec<u8> {
        frame(HEAD, &self.head().encode_to_vec())
    }

    pub(super) fn changes_frame(&self) -> Vec<u8> {
        frame(CHANGES, &v1::Changes { changes: self.changes.clone() }.encode_to_vec())
    }

    pub(super) fn chunks_frame(&self) -> Vec<u8> {
        if self.chunks.is_empty() { Vec::new() } else { frame(CHUNKS, &chunks_payload(&self.chunks)) }
    }

    pub(super) fn end_frame(&self) -> Vec<u8> {
        let head = self.head();
        frame(END, &[head.changes, head.chunks, head.chunk_bytes].map(u64::to_le_bytes).concat())
    }

    /// The frames in order.
    pub(super) fn frames(&self) -> [Vec<u8>; 4] {
        [self.head_frame(), self.changes_frame(), self.chunks_frame(), self.end_frame()]
    }

    /// Bytes up to the end of the changes.
    pub(super) fn changes_end(&self) -> usize {
        self.head_frame().len() + self.changes_frame().len()
    }

    /// The pack, and the offer of the whole pack.
    pub(super) fn pack(&self) -> (v1::Offer, Vec<u8>) {
        let bytes = self.frames().concat();
        (self.offer(&self.head_frame(), bytes.len()), bytes)
    }

    /// The pack with these frames after its head.
    pub(super) fn pack_of(&self, frames: &[Vec<u8>]) -> (v1::Offer, Vec<u8>) {
        let bytes = [self.head_frame(), frames.concat()].concat();
        (self.offer(&self.head_frame(), bytes.len()), bytes)
    }

    /// The pack with another head.
    pub(super) fn pack_with_head(&self, head: &v1::PackHead) -> (v1::Offer, Vec<u8>) {
        let head = frame(HEAD, &head.encode_to_vec());
        let [_, changes, chunks, end] = self.frames();
        let bytes = [head.clone(), changes, chunks, end].concat();
        (self.offer(&head, bytes.len()), bytes)
    }

    fn offer(&self, head_frame: &[u8], size: usize) -> v1::Offer {
        let size = size as u64;
        let header = Some(self.header.to_wire());
        let (base, pack) = (self.base, Hash::of(head_frame).into());
        v1::Offer { pack, header, base, size, from: 0, to: size, ..v1::Offer::default() }
    }
}
