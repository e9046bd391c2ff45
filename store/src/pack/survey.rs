//! Looks at packs without reading all of their bytes: finds the head, the end of the changes and the end of the pack.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{
    Counts, Decoded, FrameKind, Head, PackError, RawFrame, Splitter,
    frame::{FrameHeader, HEADER},
    malformed,
};

/// Bytes that are read at once: the head of nearly every pack, and all of a small one.
const WINDOW: usize = 16 << 10;

/// A place with packs: a file or memory.
pub(crate) trait Place {
    /// The number of bytes.
    ///
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes from `at` on.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` if there are fewer bytes.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

impl Place for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, at)
    }
}

impl Place for Vec<u8> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let bytes = self.get(at..).and_then(|rest| rest.get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// The head and the sizes of a complete pack.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) head: Box<Head>,
    pub(crate) size: u64,
    /// Counted from the beginning of the pack.
    pub(crate) changes_end: u64,
}

/// Surveys the pack that begins at `start`: its head, its end, and the header of every frame between them.
pub(crate) fn survey(place: &dyn Place, path: &Path, start: u64) -> Result<Survey, PackError> {
    let view = View::new(place, path, start)?;
    let first = view.whole_frame_at(0)?;
    let Decoded::Head(head) = first.decode()? else {
        return Err(malformed("a pack that does not begin with its head"));
    };
    let (mut at, mut last) = (first.bytes().len() as u64, FrameKind::Head);
    let mut changes_end = at;
    loop {
        let header = view.frame_at(at)?;
        match header.kind {
            FrameKind::End => break,
            FrameKind::Changes | FrameKind::Chunks | FrameKind::Patches if header.kind >= last => {}
            kind => return Err(malformed(format!("a {kind} frame after a {last} frame"))),
        }
        at += header.length();
        last = header.kind;
        if last == FrameKind::Changes {
            changes_end = at;
        }
    }
    let end = view.whole_frame_at(at)?;
    match end.decode()? {
        Decoded::End(counts) if counts == Counts::from(&*head) => {}
        _ => return Err(malformed("the end of the pack does not fit its head")),
    }
    Ok(Survey { head, size: at + end.bytes().len() as u64, changes_end })
}

/// As [`survey`], for a place with one pack alone.
pub(crate) fn survey_alone(place: &dyn Place, path: &Path) -> Result<Survey, PackError> {
    let survey = survey(place, path, 0)?;
    if survey.size == place.length().map_err(|e| failed(path, e))? {
        return Ok(survey);
    }
    Err(malformed("bytes after the end of the pack"))
}

/// Whether another pack begins behind `at`.
pub(crate) fn begins_behind(place: &dyn Place, path: &Path, mut at: u64) -> Result<bool, PackError> {
    let end = place.length().map_err(|e| failed(path, e))?;
    at += 1;
    while at + (HEADER as u64) <= end {
        let mut buffer = vec![0; (end - at).min(1 << 20) as usize];
        place.read_exact_at(&mut buffer, at).map_err(|e| failed(path, e))?;
        let is_head = |bytes: &[u8]| {
            let header = bytes.first_chunk().and_then(|header| FrameHeader::parse(header).ok());
            header.is_some_and(|header| header.kind == FrameKind::Head)
        };
        if buffer.windows(HEADER).any(is_head) {
            return Ok(true);
        }
        at += (buffer.len() - HEADER + 1) as u64;
    }
    Ok(false)
}

/// The head and the size of the whole frames of the pack that begins at `start` and may be cut short. The checksums of those
/// frames are checked. None if the head is not complete.
pub(crate) fn whole_frames(place: &dyn Place, path: &Path, start: u64) -> Result<Option<(Box<Head>, u64)>, PackError> {
    let end = place.length().map_err(|e| failed(path, e))?;
    let mut splitter = Splitter::default();
    let mut buffer = vec![0; end.saturating_sub(start).min(1 << 20) as usize];
    let mut whole: Option<(Box<Head>, u64)> = None;
    let mut at = start;
    loop {
        let read = end.saturating_sub(at).min(buffer.len() as u64) as usize;
        if read == 0 {
            return Ok(whole);
        }
        place.read_exact_at(&mut buffer[..read], at).map_err(|e| failed(path, e))?;
        at += read as u64;
        splitter.push(&buffer[..read]);
        loop {
            // The frames before a damaged one are of use, and the rest is not.
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
        return malformed("the pack was shortened meanwhile");
    }
    PackError::Io { action: "read", path: path.to_owned(), source }
}

/// The place from the beginning of a pack on, and the first bytes of the pack.
struct View<'a> {
    place: &'a dyn Place,
    path: &'a Path,
    start: u64,
    /// The number of bytes from `start` to the end of the place.
    size: u64,
    window: Vec<u8>,
}

impl<'a> View<'a> {
    fn new(place: &'a dyn Place, path: &'a Path, start: u64) -> Result<Self, PackError> {
        let size = place.length().map_err(|e| failed(path, e))?.saturating_sub(start);
        let mut view = Self { place, path, start, size, window: Vec::new() };
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
        self.place.read_exact_at(&mut bytes, self.start + at).map_err(|e| failed(self.path, e))?;
        Ok(bytes)
    }

    fn frame_at(&self, at: u64) -> Result<FrameHeader, PackError> {
        let bytes = self.bytes(at, HEADER)?;
        let header = bytes.first_chunk().ok_or_else(|| malformed("a frame header that is cut short"))?;
        FrameHeader::parse(header)
    }

    /// The frame at `at`, with its payload.
    fn whole_frame_at(&self, at: u64) -> Result<RawFrame, PackError> {
        let length = self.frame_at(at)?.length();
        let mut splitter = Splitter::default();
        splitter.push(&self.bytes(at, length as usize)?);
        splitter.take()?.ok_or_else(|| malformed("a frame that is cut short"))
    }
}

/// Reads the bytes from `from` to `to` of a file in pieces.
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
        FileExt::read_exact_at(&file, &mut buffer[..length], at).map_err(|e| failed(path, e))?;
        at += length as u64;
        if !take(&buffer[..length])? {
            break;
        }
    }
    Ok(())
}
