//! Frames: their header and codec, and the cutting of a stream of bytes into frames.

use bellwether_proto::{limits, record::Codec};
use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{PackError, malformed};

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 24;
/// Raw bytes at which a frame is closed.
pub(super) const TARGET: usize = 1 << 20;
/// The most changes or chunks of a frame, so that decoding takes memory in proportion to the bytes that arrived.
pub(super) const ITEMS: usize = 1 << 16;

const MAGIC: [u8; 4] = *b"BWF1";
const VERSION: u8 = MAGIC[3];
const AS_IS: u8 = 0;
const DEFLATE: u8 = 1;
/// The fewest raw bytes for which deflate gains more than it costs.
const WORTH: usize = 256;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameKind {
    /// The pack's head.
    Head = 1,
    /// Changes.
    Changes = 2,
    /// Chunks.
    Chunks = 3,
    /// The end.
    End = 4,
    /// Chunks as differences from old chunks.
    Patches = 5,
}

impl std::fmt::Display for FrameKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::Changes => "changes",
            Self::Chunks => "chunks",
            Self::End => "end",
            Self::Patches => "patches",
        })
    }
}

/// Checks that no newer program made a frame with this beginning. Other damage is not looked for.
///
/// # Errors
/// [`PackError::Newer`].
fn check_version(begins: &[u8]) -> Result<(), PackError> {
    match begins {
        [b'B', b'W', b'F', version, ..] if version.is_ascii_digit() && *version > VERSION => {
            Err(PackError::Newer((*version).into()))
        }
        _ => Ok(()),
    }
}

/// A frame's header, its lengths checked against the limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHeader {
    pub(super) kind: FrameKind,
    deflated: bool,
    /// Bytes of the payload.
    pub(super) payload: usize,
    raw: usize,
    checksum: u32,
}

impl FrameHeader {
    /// Reads a header; no memory is allocated for its lengths.
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Result<Self, PackError> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        check_version(bytes)?;
        if bytes[..4] != MAGIC {
            return Err(malformed("there is no frame where one should begin"));
        }
        if number(20) != crc32fast::hash(&bytes[..20]) {
            return Err(malformed("a frame header whose checksum is wrong"));
        }
        let kind = match bytes[4] {
            1 => FrameKind::Head,
            2 => FrameKind::Changes,
            3 => FrameKind::Chunks,
            4 => FrameKind::End,
            5 => FrameKind::Patches,
            other => return Err(malformed(format!("a frame of kind {other}"))),
        };
        if bytes[5] > DEFLATE || bytes[6..8] != [0, 0] {
            return Err(malformed(format!("a {kind} frame of codec {}", bytes[5])));
        }
        let (payload, raw, deflated) = (number(8) as usize, number(12) as usize, bytes[5] == DEFLATE);
        for (what, length) in [("payload", payload), ("raw length", raw)] {
            if length == 0 || length > limits::FRAME {
                return Err(malformed(format!(
                    "a {kind} frame whose {what} is {length} bytes; the limit is {}",
                    limits::FRAME
                )));
            }
        }
        if (deflated && payload >= raw) || (!deflated && payload != raw) {
            return Err(malformed(format!("a {kind} frame of {payload} bytes that says it stands for {raw} bytes")));
        }
        Ok(Self { kind, deflated, payload, raw, checksum: number(16) })
    }

    /// The bytes of the whole frame.
    pub(super) fn length(&self) -> u64 {
        (HEADER + self.payload) as u64
    }
}

/// Encodes one frame. The callers give a `raw` of 1 to [`limits::FRAME`] bytes.
pub(super) fn encode(kind: FrameKind, raw: &[u8], codec: Codec) -> Vec<u8> {
    debug_assert!(!raw.is_empty() && raw.len() <= limits::FRAME);
    let mut frame = Vec::with_capacity(HEADER + raw.len());
    frame.resize(HEADER, 0);
    let deflated = match codec {
        Codec::Deflate(level) if raw.len() >= WORTH => deflate(raw, level, &mut frame),
        Codec::Deflate(_) | Codec::None => false,
    };
    if !deflated {
        frame.truncate(HEADER);
        frame.extend_from_slice(raw);
    }
    let payload = (frame.len() - HEADER) as u32;
    let checksum = crc32fast::hash(&frame[HEADER..]);
    frame[..4].copy_from_slice(&MAGIC);
    frame[4] = kind as u8;
    frame[5] = if deflated { DEFLATE } else { AS_IS };
    frame[8..12].copy_from_slice(&payload.to_le_bytes());
    frame[12..16].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    frame[16..20].copy_from_slice(&checksum.to_le_bytes());
    let own = crc32fast::hash(&frame[..20]);
    frame[20..24].copy_from_slice(&own.to_le_bytes());
    frame
}

/// Appends `raw` deflated if that fits into the room of `frame`. Returns whether the result is shorter.
fn deflate(raw: &[u8], level: u8, frame: &mut Vec<u8>) -> bool {
    let mut deflater = Compress::new(Compression::new(level.into()), false);
    let ended = matches!(deflater.compress_vec(raw, frame, FlushCompress::Finish), Ok(Status::StreamEnd));
    ended && frame.len() - HEADER < raw.len()
}

/// A whole frame of which only the header was checked.
#[derive(Debug, Clone)]
pub struct RawFrame {
    header: FrameHeader,
    bytes: Bytes,
}

impl RawFrame {
    /// The frame's kind.
    pub fn kind(&self) -> FrameKind {
        self.header.kind
    }

    /// The frame's bytes, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether the payload is compressed.
    pub(super) fn is_deflated(&self) -> bool {
        self.header.deflated
    }

    /// Bytes of the payload after decompression, according to the header.
    pub(super) fn raw_length(&self) -> usize {
        self.header.raw
    }

    /// Checks the payload's checksum.
    pub(super) fn verify(&self) -> Result<(), PackError> {
        if crc32fast::hash(&self.bytes[HEADER..]) == self.header.checksum {
            return Ok(());
        }
        Err(malformed(format!("a {} frame whose checksum is wrong", self.header.kind)))
    }

    /// The payload, decompressed into a buffer of exactly the length in the header.
    pub(super) fn raw(&self) -> Result<Bytes, PackError> {
        self.verify()?;
        let payload = self.bytes.slice(HEADER..);
        if !self.header.deflated {
            return Ok(payload);
        }
        let (kind, length) = (self.header.kind, self.header.raw);
        let mut raw = Vec::with_capacity(length);
        let mut inflater = Decompress::new(false);
        let status = inflater.decompress_vec(&payload, &mut raw, FlushDecompress::Finish);
        match status {
            Ok(Status::StreamEnd) if raw.len() == length && inflater.total_in() == payload.len() as u64 => {
                Ok(raw.into())
            }
            Ok(Status::StreamEnd) if raw.len() == length => {
                Err(malformed(format!("a {kind} frame with bytes behind its compressed data")))
            }
            Ok(Status::StreamEnd) => {
                Err(malformed(format!("a {kind} frame that says {length} bytes and inflates to {}", raw.len())))
            }
            Ok(_) if raw.len() >= length => {
                Err(malformed(format!("a {kind} frame that inflates to more than its {length} bytes")))
            }
            Ok(_) | Err(_) => Err(malformed(format!("a {kind} frame whose compressed data is damaged"))),
        }
    }
}

/// Cuts bytes that arrive in pieces of any size into frames. This is cheap: [`RawFrame::decode`] decodes, on any thread.
///
/// It holds the bytes that were pushed and not taken: less than one frame if all frames are taken after each push.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: BytesMut,
}

impl Splitter {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it has arrived whole.
    ///
    /// # Errors
    /// The bytes are no frame, or its lengths are over the limits; this is seen once the header has arrived.
    pub fn take(&mut self) -> Result<Option<RawFrame>, PackError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let header = FrameHeader::parse(header)?;
        let whole = HEADER + header.payload;
        if self.buffer.len() < whole {
            // Memory for the whole frame is reserved at once, since a buffer that grows step by step is copied at each step.
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        Ok(Some(RawFrame { header, bytes: self.buffer.split_to(HEADER + header.payload).freeze() }))
    }

    /// Bytes of the frame that has not arrived whole.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}
