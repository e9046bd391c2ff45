//! Decodes a frame, and checks everything that needs no other frame.

use std::sync::Arc;

use bellwether_proto::{
    Malformed,
    entry::{Chunk, Entry, EntryPath},
    hash::Hash,
    limits,
    record::SetRules,
    revision::SignedHeader,
    v1,
};
use bytes::Bytes;
use prost::Message;

use super::{
    Counts, FrameKind, Head, PackError, RawFrame, changes,
    frame::ITEMS,
    malformed,
    patch::{self, Patch},
};

/// A frame that was decoded by itself; [`super::Order`] checks its place among the others.
#[derive(Debug)]
pub enum Decoded {
    /// The head.
    Head(Box<Head>),
    /// Changes, strictly sorted.
    Changes(Vec<RawChange>),
    /// Chunks with their bytes, which are slices of one buffer; each hash was computed from the bytes.
    Chunks(Vec<(Chunk, Bytes)>),
    /// Patches.
    Patches(Vec<Patch>),
    /// The end with its counts.
    End(Counts),
}

/// A change whose set is given by its number.
#[derive(Debug)]
pub struct RawChange {
    /// Index into the head's sets.
    pub set: u32,
    /// The path in the set.
    pub path: EntryPath,
    /// The new entry; none if it is removed.
    pub entry: Option<Entry>,
}

impl RawFrame {
    /// Decompresses and decodes, which is the expensive part of reading a pack, on any thread.
    ///
    /// # Errors
    /// Malformed.
    pub fn decode(&self) -> Result<Decoded, PackError> {
        let raw = self.raw()?;
        Ok(match self.kind() {
            FrameKind::Head => Decoded::Head(Box::new(head(Hash::of(self.bytes()), raw)?)),
            FrameKind::Changes => Decoded::Changes(changes::decode(&raw)?),
            FrameKind::Chunks => Decoded::Chunks(chunks(&raw)?),
            FrameKind::Patches => Decoded::Patches(patch::decode(&raw)?),
            FrameKind::End => Decoded::End(Counts::decode(&raw)?),
        })
    }
}

fn head(pack: Hash, raw: Bytes) -> Result<Head, PackError> {
    let sets = changes::fields(&raw).filter(|field| matches!(field, Ok((3, _)))).take(limits::SETS + 1).count();
    if sets > limits::SETS {
        return Err(malformed(format!("a pack of more than {} sets", limits::SETS)));
    }
    let wire = v1::PackHead::decode(raw).map_err(|e| malformed(format!("a head frame that is not a pack's: {e}")))?;
    let header = wire.header.ok_or_else(|| Malformed::new("a pack without a revision header"))?;
    let rules = wire.sets.into_iter().map(|set| SetRules::from_wire(set).map(Arc::new));
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    if !rules.is_sorted_by(|a, b| a.name < b.name) {
        return Err(malformed("a pack whose sets are not sorted, or one of them twice"));
    }
    let head = Head {
        pack,
        header: SignedHeader::from_wire(header)?,
        base: wire.base,
        rules,
        changes: wire.changes,
        chunks: wire.chunks,
        chunk_bytes: wire.chunk_bytes,
    };
    check_counts(&head)?;
    Ok(head)
}

fn check_counts(head: &Head) -> Result<(), PackError> {
    if head.changes > limits::ENTRIES {
        return Err(malformed(format!("a pack of {} changes; the limit is {}", head.changes, limits::ENTRIES)));
    }
    let most = head.chunks.saturating_mul(limits::CHUNK as u64);
    if head.chunk_bytes < head.chunks || head.chunk_bytes > most {
        return Err(malformed(format!("a pack that says {} chunks of {} bytes", head.chunks, head.chunk_bytes)));
    }
    Ok(())
}

fn chunks(raw: &Bytes) -> Result<Vec<(Chunk, Bytes)>, PackError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let Some(prefix) = raw[at..].first_chunk::<4>() else {
            return Err(malformed("a chunk whose length is cut short"));
        };
        let length = u32::from_le_bytes(*prefix);
        if length == 0 || length as usize > limits::CHUNK {
            return Err(malformed(format!("a chunk of {length} bytes; the limit is {}", limits::CHUNK)));
        }
        let end = at + 4 + length as usize;
        if end > raw.len() {
            return Err(malformed(format!("a chunk of {length} bytes that its frame does not hold")));
        }
        if pieces.len() == ITEMS {
            return Err(malformed(format!("a frame of more than {ITEMS} chunks")));
        }
        pieces.push(raw.slice(at + 4..end));
        at = end;
    }
    let name = |bytes: Bytes| (Chunk { hash: Hash::of(&bytes), length: bytes.len() as u32 }, bytes);
    // Hashing takes half a millisecond per frame here. Waking other threads costs a busy machine more.
    Ok(pieces.into_iter().map(name).collect())
}
