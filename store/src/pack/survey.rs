//! Looking at a pack in a file without reading all of it: its head, where its changes end, whether it is complete.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use super::{
    Counts, Decoded, FrameKind, Head, PackError, RawFrame, Splitter,
    frame::{FrameHeader, HEADER},
    malformed,
};

/// Read at once: the head of nearly every pack, and all of a small one.
const WINDOW: usize = 16 << 10;
/// Bytes of an end frame.
const END: usize = HEADER + Counts::SIZE;

/// What a complete pack says of itself.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) head: Box<Head>,
    pub(crate) size: u64,
    pub(crate) changes_end: u64,
}

/// Looks at the head, at the headers of the change frames, and at the end frame.
pub(crate) fn survey(file: &File, path: &Path) -> Result<Survey, PackError> {
    let view = View::new(file, path)?;
    let head = view.head()?;
    let mut at = view.frame_at(0)?.length();
    while let Some(header) = view.frame_before_end(at)? {
        if header.kind != FrameKind::Changes {
            break;
        }
        at += header.length();
    }
    view.check_end(&head)?;
    Ok(Survey { head, size: view.size, changes_end: at })
}

/// Looks at every frame's header: their order, and that they fill the file exactly. Payloads are not read.
pub(crate) fn check_structure(file: &File, path: &Path) -> Result<(), PackError> {
    let view = View::new(file, path)?;
    let mut at = view.frame_at(0)?.length();
    let mut last = FrameKind::Head;
    while let Some(header) = view.frame_before_end(at)? {
        let follows =
            matches!(header.kind, FrameKind::Changes | FrameKind::Chunks | FrameKind::Patches) && header.kind >= last;
        if !follows {
            return Err(malformed(format!("a {} frame after a {last} frame", header.kind)));
        }
        last = header.kind;
        at += header.length();
    }
    view.check_end(&*view.head()?)
}

/// The head and the bytes of the whole frames of a pack that may be cut short; their checksums are checked. None when
/// not even the head is there.
pub(crate) fn whole_frames(file: &File, path: &Path) -> Result<Option<(Box<Head>, u64)>, PackError> {
    let mut splitter = Splitter::default();
    let mut buffer = vec![0; 1 << 20];
    let mut whole: Option<(Box<Head>, u64)> = None;
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at).map_err(|e| failed(path, e))?;
        if read == 0 {
            return Ok(whole);
        }
        at += read as u64;
        splitter.push(&buffer[..read]);
        loop {
            // What is behind a damaged frame is of no use; what is before it is.
            let frame = match splitter.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return Ok(whole),
            };
            let length = frame.bytes().len() as u64;
            whole = match whole {
                None => match frame.decode() {
                    Ok(Decoded::Head(head)) => Some((head, length)),
                    Ok(_) | Err(_) => return Ok(None),
                },
                Some((head, before)) if frame.verify().is_ok() => Some((head, before + length)),
                Some(_) => return Ok(whole),
            };
        }
    }
}

fn failed(path: &Path, source: std::io::Error) -> PackError {
    if source.kind() == std::io::ErrorKind::UnexpectedEof {
        return malformed("the pack is shorter than it was");
    }
    PackError::Io { action: "read", path: path.to_owned(), source }
}

/// A pack's file and its first bytes.
struct View<'a> {
    file: &'a File,
    path: &'a Path,
    size: u64,
    window: Vec<u8>,
}

impl<'a> View<'a> {
    fn new(file: &'a File, path: &'a Path) -> Result<Self, PackError> {
        let size = file.metadata().map_err(|e| failed(path, e))?.len();
        let mut view = Self { file, path, size, window: Vec::new() };
        view.window = view.bytes(0, size.min(WINDOW as u64) as usize)?;
        Ok(view)
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>, PackError> {
        let end = at + length as u64;
        if end > self.size {
            return Err(malformed(format!("the pack is cut short at {} bytes", self.size)));
        }
        if end <= self.window.len() as u64 {
            return Ok(self.window[at as usize..end as usize].to_vec());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).map_err(|e| failed(self.path, e))?;
        Ok(bytes)
    }

    fn frame_at(&self, at: u64) -> Result<FrameHeader, PackError> {
        let bytes = self.bytes(at, HEADER)?;
        let header = bytes.first_chunk().ok_or_else(|| malformed("a frame header that is cut short"))?;
        FrameHeader::parse(header)
    }

    /// The frame at `at`; none when that is where the end frame has to be.
    fn frame_before_end(&self, at: u64) -> Result<Option<FrameHeader>, PackError> {
        if at + END as u64 == self.size { Ok(None) } else { self.frame_at(at).map(Some) }
    }

    /// The frame at `at`, payload and all.
    fn whole_frame_at(&self, at: u64) -> Result<RawFrame, PackError> {
        let length = self.frame_at(at)?.length();
        let mut splitter = Splitter::default();
        splitter.push(&self.bytes(at, length as usize)?);
        splitter.take()?.ok_or_else(|| malformed("a frame that is cut short"))
    }

    fn head(&self) -> Result<Box<Head>, PackError> {
        match self.whole_frame_at(0)?.decode()? {
            Decoded::Head(head) => Ok(head),
            Decoded::Changes(_) | Decoded::Chunks(_) | Decoded::Patches(_) | Decoded::End(_) => {
                Err(malformed("a pack that does not begin with its head"))
            }
        }
    }

    fn check_end(&self, head: &Head) -> Result<(), PackError> {
        let at = self.size.checked_sub(END as u64).ok_or_else(|| malformed("a pack without an end"))?;
        match self.whole_frame_at(at).and_then(|frame| frame.decode()) {
            Ok(Decoded::End(counts)) if counts == Counts::from(head) => Ok(()),
            Err(error @ PackError::Io { .. }) => Err(error),
            Ok(_) | Err(_) => Err(malformed("the pack is cut short: its end frame is not there")),
        }
    }
}

/// Gives the bytes from `from` to `to` of a pack in pieces.
pub(crate) fn read_range(
    path: &Path,
    (from, to): (u64, u64),
    take: &mut dyn FnMut(&[u8]) -> Result<bool, PackError>,
) -> Result<(), PackError> {
    let file = File::open(path).map_err(|source| PackError::Io { action: "open", path: path.to_owned(), source })?;
    let mut buffer = vec![0; to.saturating_sub(from).min(1 << 20) as usize];
    let mut at = from;
    while at < to {
        let length = (to - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..length], at).map_err(|e| failed(path, e))?;
        at += length as u64;
        if !take(&buffer[..length])? {
            break;
        }
    }
    Ok(())
}
