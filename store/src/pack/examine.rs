//! Lists a file of packs frame by frame, for people who search for damage.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{
    Frame, FrameKind, Order, PackError, RawFrame, Splitter,
    frame::{FrameHeader, HEADER},
    malformed,
};

/// A frame in the file.
#[derive(Debug)]
pub struct Examined {
    /// The offset of its header.
    pub at: u64,
    /// The frame's bytes, header included.
    pub length: u64,
    /// The frame's kind.
    pub kind: FrameKind,
    /// Whether the payload is compressed.
    pub deflated: bool,
    /// Bytes of the payload after decompression.
    pub raw_length: u64,
    /// The decoded frame.
    pub frame: Frame,
}

/// The place of damage in a file; nothing behind it can be read.
#[derive(Debug, thiserror::Error)]
#[error("at byte {at}: {source}")]
pub struct Damage {
    /// The offset of the damaged frame.
    pub at: u64,
    /// The damage.
    pub source: PackError,
}

/// The frames of a file of packs in order, checked like those of a reader. After a [`Damage`] there are no more.
#[derive(Debug)]
pub struct Examination<'a> {
    file: &'a File,
    path: &'a Path,
    at: u64,
    order: Order,
    /// Whether the first pack is also the last.
    one: bool,
    over: bool,
}

impl<'a> Examination<'a> {
    /// The frames of all packs in `file`, which is at `path`.
    pub fn new(file: &'a File, path: &'a Path) -> Self {
        Self { file, path, at: 0, order: Order::default(), one: false, over: false }
    }

    /// The frames of the pack that begins at `at` of `file`.
    pub fn of_one(file: &'a File, path: &'a Path, at: u64) -> Self {
        Self { at, one: true, ..Self::new(file, path) }
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), PackError> {
        self.file.read_exact_at(buffer, at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => malformed("the file ends within this frame"),
            _ => PackError::Io { action: "read", path: self.path.to_owned(), source },
        })
    }

    /// The frame at the current offset; none at the end of the file.
    fn raw(&self) -> Result<Option<RawFrame>, PackError> {
        let mut first = [0];
        match self.file.read_at(&mut first, self.at) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(source) => return Err(PackError::Io { action: "read", path: self.path.to_owned(), source }),
        }
        let mut header = [0; HEADER];
        self.read(&mut header, self.at)?;
        let mut payload = vec![0; FrameHeader::parse(&header)?.payload];
        self.read(&mut payload, self.at + HEADER as u64)?;
        let mut splitter = Splitter::default();
        splitter.push(&header);
        splitter.push(&payload);
        splitter.take()
    }

    fn frame(&mut self) -> Result<Option<Examined>, PackError> {
        if self.one && self.order.ended() {
            return Ok(None);
        }
        let Some(raw) = self.raw()? else {
            return if self.order.ended() { Ok(None) } else { Err(malformed("the file ends without an end frame")) };
        };
        if self.order.ended() {
            self.order = Order::default();
        }
        let frame = self.order.check(raw.decode()?)?;
        let (at, length) = (self.at, raw.bytes().len() as u64);
        self.at += length;
        let (kind, deflated, raw_length) = (raw.kind(), raw.is_deflated(), raw.raw_length() as u64);
        Ok(Some(Examined { at, length, kind, deflated, raw_length, frame }))
    }
}

impl Iterator for Examination<'_> {
    type Item = Result<Examined, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.frame().map_err(|source| Damage { at: self.at, source }).transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}
