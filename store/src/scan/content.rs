//! Cuts a file into chunks: equal bytes give equal chunks on every server, so this is part of the format. A hole counts
//! as zeros but is not read: all whole chunks in it are the same one.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::OnceLock,
};

use bellwether_proto::{
    entry::{Chunk, Content},
    hash::Hash,
};
use fastcdc::v2020::StreamCDC;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

/// The most bytes of a file that is one chunk.
pub const WHOLE: u64 = 64 << 10;
/// The least bytes of a chunk of a larger file, its last one excepted.
pub const LEAST: usize = 16 << 10;
/// The usual size of a chunk of a larger file (FastCDC 2020, normalization level 1, seed 0).
pub const AVERAGE: usize = 64 << 10;
/// The most bytes of a chunk.
pub const MOST: usize = 256 << 10;

/// Reads at most `size` bytes and cuts them; `MOST` bytes are held at a time. It reads one byte more, so that the
/// content of a file that has grown is longer than `size`.
///
/// # Errors
/// The reader's.
pub fn cut(reader: impl Read, size: u64) -> io::Result<Content> {
    let mut reader = reader.take(size.saturating_add(1));
    if size > WHOLE {
        return StreamCDC::new(reader, LEAST, AVERAGE, MOST).map(|data| Ok(chunk(&data?.data))).collect();
    }
    let mut bytes = Vec::with_capacity(size as usize + 1);
    reader.read_to_end(&mut bytes)?;
    Ok(whole(&bytes))
}

/// As [`cut`], for a file with holes.
pub(super) fn cut_sparse(file: &File, size: u64) -> io::Result<Content> {
    let (mut holes, mut chunks, mut at) = (Holes::new(file, size), Vec::new(), 0);
    'data: while at < size {
        let whole = (holes.end(at) - at) / MOST as u64;
        chunks.extend(std::iter::repeat_n(zeros(), whole as usize));
        at += whole * MOST as u64;
        let rest = From { file, at }.take((size - at).saturating_add(1));
        for data in StreamCDC::new(rest, LEAST, AVERAGE, MOST) {
            let data = data?.data;
            chunks.push(chunk(&data));
            at += data.len() as u64;
            if holes.end(at) - at >= MOST as u64 {
                continue 'data;
            }
        }
        break;
    }
    Ok(chunks.into_iter().collect())
}

/// The largest chunk of zeros, into which holes are cut.
pub(crate) fn zeros() -> Chunk {
    static ZEROS: OnceLock<Chunk> = OnceLock::new();
    *ZEROS.get_or_init(|| chunk(&vec![0; MOST]))
}

/// Whether that is the hash of the chunk of zeros into which holes are cut.
pub fn is_zeros(hash: &Hash) -> bool {
    zeros().hash == *hash
}

/// The bytes of a file of this content that have to be written: those outside chunks of zeros.
pub(crate) fn data(content: &Content) -> u64 {
    let written = content.chunks().iter().filter(|chunk| **chunk != zeros());
    written.map(|chunk| u64::from(chunk.length)).sum()
}

/// Reads a file from a position, independent of its own offset.
pub(super) struct From<'f> {
    pub(super) file: &'f File,
    pub(super) at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The holes of a file, in ascending order.
pub(crate) struct Holes<'f> {
    file: &'f File,
    size: u64,
    /// The last answer: begin, end, and whether that is a hole.
    run: (u64, u64, bool),
}

impl<'f> Holes<'f> {
    pub(crate) fn new(file: &'f File, size: u64) -> Self {
        Self { file, size, run: (0, 0, false) }
    }

    /// The end of the hole around `at`; `at` itself if there are data, or if this is not known.
    pub(crate) fn end(&mut self, at: u64) -> u64 {
        if !(self.run.0..self.run.1).contains(&at) {
            self.run = self.ask(at);
        }
        if self.run.2 { self.run.1 } else { at }
    }

    fn ask(&self, at: u64) -> (u64, u64, bool) {
        match seek(self.file, SeekFrom::Data(at)) {
            Ok(data) if data > at => (at, data.min(self.size), true),
            // The system also answers this past the end of the file.
            Err(Errno::NXIO) if at < self.size => (at, self.size, true),
            Ok(_) => (at, seek(self.file, SeekFrom::Hole(at)).unwrap_or(u64::MAX).max(at + 1), false),
            Err(_) => (at, u64::MAX, false),
        }
    }
}

/// The content of a file of at most [`WHOLE`] bytes.
pub(super) fn whole(bytes: &[u8]) -> Content {
    (!bytes.is_empty()).then(|| chunk(bytes)).into_iter().collect()
}

/// Whether the file begins with `expected`; every byte outside holes is hashed.
pub(crate) fn holds(file: &File, expected: &Content) -> io::Result<bool> {
    let mut holes = Holes::new(file, expected.size());
    let mut buffer = Vec::new();
    let mut offset = 0;
    for chunk in expected.chunks() {
        if *chunk == zeros() && holes.end(offset) >= offset + MOST as u64 {
            offset += MOST as u64;
            continue;
        }
        buffer.resize(chunk.length as usize, 0);
        match file.read_exact_at(&mut buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if Hash::of(&buffer) != chunk.hash {
            return Ok(false);
        }
        offset += u64::from(chunk.length);
    }
    Ok(true)
}

fn chunk(bytes: &[u8]) -> Chunk {
    Chunk { hash: Hash::of(bytes), length: bytes.len() as u32 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Bytes without a pattern, the same at every run.
    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cut_all(bytes: &[u8]) -> Content {
        cut(bytes, bytes.len() as u64).unwrap()
    }

    #[test]
    fn a_small_file_is_one_chunk_and_hashes_as_b3sum_says() {
        assert_eq!(cut_all(b""), Content::Empty);
        for length in [1, WHOLE as usize] {
            let bytes = noise(length);
            let content = cut_all(&bytes);
            assert_eq!((content.chunks().len(), content.hash()), (1, Hash::of(&bytes)));
        }
    }

    #[test]
    fn a_large_file_is_cut_within_the_bounds() {
        for length in [WHOLE as usize + 1, 3_000_000] {
            let bytes = noise(length);
            let content = cut_all(&bytes);
            assert_eq!(content.size(), length as u64);
            let (last, others) = content.chunks().split_last().unwrap();
            assert!(last.length as usize <= MOST);
            assert!(others.iter().all(|c| (LEAST..=MOST).contains(&(c.length as usize))));
            let mut at = 0;
            for chunk in content.chunks() {
                let end = at + chunk.length as usize;
                assert_eq!(Hash::of(&bytes[at..end]), chunk.hash);
                at = end;
            }
        }
    }

    /// Servers of different versions must cut alike: this changes only with the format.
    #[test]
    fn the_cut_is_part_of_the_format() {
        let lengths: Vec<u32> = cut_all(&noise(400_000)).chunks().iter().map(|c| c.length).collect();
        assert_eq!(lengths, [32_798, 100_912, 40_249, 68_411, 152_004, 5_626]);
    }

    #[test]
    fn a_line_inserted_in_the_middle_keeps_nearly_all_chunks() {
        let mut bytes = noise(4_000_000);
        let before: HashSet<Chunk> = cut_all(&bytes).chunks().iter().copied().collect();
        bytes.splice(2_000_000..2_000_000, *b"one more line\n");
        let after = cut_all(&bytes);
        let new = after.chunks().iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(after.chunks().len() > 40 && new <= 3, "{new} of {} are new", after.chunks().len());
    }

    #[test]
    fn what_a_file_is_thought_to_hold_is_hashed() {
        use std::io::Write;
        let mut bytes = noise(300_000);
        let expected = cut_all(&bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        assert!(holds(&file, &expected).unwrap());
        file.set_len(299_999).unwrap();
        assert!(!holds(&file, &expected).unwrap(), "one byte less");
        bytes[150_000] ^= 1;
        file.write_all_at(&bytes, 0).unwrap();
        assert!(!holds(&file, &expected).unwrap(), "one other byte");
    }

    type Data<'a> = &'a [(u64, &'a [u8])];

    /// A file of `size` bytes with these data; the rest are holes.
    fn sparse(size: u64, data: Data<'_>) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn holes_are_cut_as_the_zeros_that_they_are() {
        let noise = noise(700_000);
        let most = MOST as u64;
        let cases: [(u64, Data<'_>); 9] = [
            (most, &[]),
            (5 * most, &[]),
            (5 * most + 1, &[]),
            (20_000_003, &[]),
            (20_000_003, &[(0, b"begin"), (20_000_000, b"end")]),
            (20_000_000, &[(7_000_000, &noise)]),
            (20_000_000, &[(0, &noise), (3_000_000, &noise[..5_000]), (19_300_000, &noise)]),
            (3 * most, &[(most - 1, b"xx"), (2 * most, b"x")]),
            (100_000, &[(50_000, b"x")]),
        ];
        for (size, data) in cases {
            let file = sparse(size, data);
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let expected = cut_all(&bytes);
            assert_eq!(cut_sparse(&file, size).unwrap(), expected, "{size} {:?}", data.iter().map(|d| d.0));
            assert!(holds(&file, &expected).unwrap());
            assert!(data.is_empty() || super::data(&expected) > 0);
            file.write_all_at(b"y", size / 2 + 1).unwrap();
            assert!(!holds(&file, &expected).unwrap(), "{size}: another byte");
            file.set_len(size - 1).unwrap();
            assert!(!holds(&file, &expected).unwrap(), "{size}: one byte less");
        }
    }

    /// A hundred times more than a test could read.
    #[test]
    fn a_hole_is_not_read() {
        let size = 20 << 30;
        let file = sparse(size, &[(size - 3, b"end")]);
        let content = cut_sparse(&file, size).unwrap();
        assert_eq!((content.size(), content.chunks().len()), (size, size as usize / MOST));
        assert_eq!(data(&content), MOST as u64, "the last chunk");
        assert!(holds(&file, &content).unwrap());
    }

    #[test]
    fn a_file_that_has_grown_shows_it() {
        assert_eq!(cut(&b"longer"[..], 3).unwrap().size(), 4);
        let bytes = noise(100_000);
        assert_eq!(cut(&bytes[..], 90_000).unwrap().size(), 90_001);
        assert_eq!(cut(&b"short"[..], 9).unwrap().size(), 5);
    }
}
