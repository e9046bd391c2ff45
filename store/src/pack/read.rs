//! Reads a pack as it arrives, and chunks that are sent outside packs.

use bellwether_proto::{entry::Chunk, record::Codec};
use bytes::Bytes;

use super::{
    Decoded, Frame, FrameKind, Order, PackError, Splitter,
    frame::{self, ITEMS, TARGET},
    malformed,
};

/// The most raw bytes of chunks, with four more for each, for one call of [`chunk_frames`]; [`read_chunks`] refuses more.
pub const SUPPLY: usize = 16 << 20;

/// Takes a pack's bytes as they arrive, in pieces of any size, and returns its frames. Memory is bounded for any input: the
/// pushed bytes, two frames, and sixteen bytes for every chunk (see [`Order`]).
///
/// Its parts decode in parallel: [`Splitter`], [`super::RawFrame::decode`] on other threads, and [`Order`] in order.
#[derive(Debug, Default)]
pub struct Reader {
    splitter: Splitter,
    order: Order,
    whole: u64,
    refused: bool,
}

impl Reader {
    /// Adds bytes and returns the frames that are complete, checked for order, counts and sizes.
    ///
    /// # Errors
    /// Malformed; no further bytes are accepted.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, PackError> {
        if self.refused {
            return Err(malformed("more of a pack that was refused already"));
        }
        let frames = self.frames(bytes);
        self.refused = frames.is_err();
        frames
    }

    fn frames(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, PackError> {
        self.splitter.push(bytes);
        let mut frames = Vec::new();
        while let Some(raw) = self.splitter.take()? {
            frames.push(self.order.check(raw.decode()?)?);
            self.whole += raw.bytes().len() as u64;
        }
        if self.order.ended() && self.splitter.pending() > 0 {
            return Err(malformed("bytes after the end of the pack"));
        }
        Ok(frames)
    }

    /// The bytes of the whole frames so far, where an interrupted transfer goes on.
    pub fn whole(&self) -> u64 {
        self.whole
    }
}

/// Encodes chunks as frames outside a pack, as the answer to a member that asks for chunks. One call takes at most [`SUPPLY`]
/// bytes.
pub fn chunk_frames(chunks: &[(Chunk, Bytes)], codec: Codec) -> Bytes {
    let mut frames = Vec::new();
    let mut raw = Vec::new();
    let mut count = 0;
    for (_, bytes) in chunks {
        if count == ITEMS || (count > 0 && raw.len() + 4 + bytes.len() > TARGET) {
            frames.extend(frame::encode(FrameKind::Chunks, &raw, codec));
            raw.clear();
            count = 0;
        }
        raw.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        raw.extend_from_slice(bytes);
        count += 1;
    }
    if count > 0 {
        frames.extend(frame::encode(FrameKind::Chunks, &raw, codec));
    }
    frames.into()
}

/// Decodes the frames from [`chunk_frames`].
///
/// # Errors
/// Malformed, or over [`SUPPLY`].
pub fn read_chunks(frames: &[u8]) -> Result<Vec<(Chunk, Bytes)>, PackError> {
    let mut splitter = Splitter::default();
    splitter.push(frames);
    let mut chunks = Vec::new();
    let mut raw_bytes = 0;
    while let Some(raw) = splitter.take()? {
        raw_bytes += raw.raw_length();
        if raw_bytes > SUPPLY {
            return Err(malformed(format!("chunks of more than {SUPPLY} bytes at once")));
        }
        if raw.kind() != FrameKind::Chunks {
            return Err(malformed(format!("a {} frame among chunks", raw.kind())));
        }
        if let Decoded::Chunks(list) = raw.decode()? {
            chunks.extend(list);
        }
    }
    if splitter.pending() > 0 {
        return Err(malformed("chunks that are cut short"));
    }
    Ok(chunks)
}
