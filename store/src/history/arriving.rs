//! Writes a pack as it arrives, and bypasses the page cache where the file system can: the bytes are not read soon, and the
//! final sync is shorter.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// Bytes that are written at once.
const PIECE: usize = 1 << 20;
/// Addresses, offsets and lengths are multiples of this many bytes, which is enough for every disk.
const ALIGNED: usize = 4 << 10;

/// The end of a file that is being written in order.
#[derive(Debug)]
pub(super) struct Arriving {
    /// The same file, opened with `O_DIRECT`; none if the file system refuses that.
    direct: Option<File>,
    /// Bytes that will be written at `at`. They begin at `start`, which is aligned.
    buffer: Vec<u8>,
    start: usize,
    at: u64,
}

impl Arriving {
    /// Goes on at byte `at` of the file `path`.
    pub(super) fn new(path: &Path, at: u64) -> Self {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags((OFlags::DIRECT | OFlags::NOFOLLOW).bits() as i32);
        let aligned = at.is_multiple_of(ALIGNED as u64);
        let direct = if aligned { options.open(path).ok() } else { None };
        let mut buffer = Vec::<u8>::with_capacity(PIECE + ALIGNED);
        let start = buffer.as_ptr().align_offset(ALIGNED).min(ALIGNED);
        buffer.resize(start, 0);
        Self { direct, buffer, start, at }
    }

    /// Adds bytes, which may stay in the buffer.
    pub(super) fn push(&mut self, file: &File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.start + PIECE - self.buffer.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == self.start + PIECE {
                self.write(file)?;
            }
        }
        Ok(())
    }

    /// Writes the buffer.
    pub(super) fn flush(&mut self, file: &File) -> io::Result<()> {
        // The rest has no aligned length, so it cannot bypass the page cache.
        self.direct = None;
        self.write(file)
    }

    fn write(&mut self, file: &File) -> io::Result<()> {
        let bytes = &self.buffer[self.start..];
        let refused = match self.direct.as_ref().map(|direct| direct.write_all_at(bytes, self.at)) {
            Some(Ok(())) => false,
            Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
            Some(Err(_)) | None => true,
        };
        if refused {
            self.direct = None;
            file.write_all_at(bytes, self.at)?;
        }
        self.at += bytes.len() as u64;
        self.buffer.truncate(self.start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `lengths` of bytes after the first `at` and reads the file again.
    fn written(home: &Path, at: u64, lengths: &[usize]) {
        let path = home.join("pack");
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        file.write_all_at(&vec![7; at as usize], 0).unwrap();
        let mut expected = vec![7; at as usize];
        let mut arriving = Arriving::new(&path, at);
        for (number, length) in lengths.iter().enumerate() {
            let bytes: Vec<u8> = (0..*length).map(|n| (n * 31 + number) as u8).collect();
            arriving.push(&file, &bytes).unwrap();
            expected.extend(bytes);
        }
        arriving.flush(&file).unwrap();
        assert!(std::fs::read(&path).unwrap() == expected, "{at} {lengths:?}");
    }

    #[test]
    fn what_arrives_in_any_pieces_is_in_the_file() {
        // One is on a disk, and one in memory, which may refuse `O_DIRECT`.
        for home in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
            for at in [0, 1, 4096] {
                written(home.path(), at, &[]);
                written(home.path(), at, &[1, 100, 4096]);
                written(home.path(), at, &[PIECE]);
                written(home.path(), at, &[PIECE - 1, 1, 1]);
                written(home.path(), at, &[3 * PIECE + 5, 17, PIECE]);
            }
        }
    }
}
