//! Cutting a file into chunks: the same bytes give the same chunks on every server, so this is part of the format.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use bellwether_proto::{
    entry::{Chunk, Content},
    hash::Hash,
};
use fastcdc::v2020::StreamCDC;

/// Bytes up to which a file is one chunk.
pub const WHOLE: u64 = 64 << 10;
/// The least bytes of a chunk of a larger file, its last one excepted.
pub const LEAST: usize = 16 << 10;
/// What a chunk of a larger file tends to have (FastCDC 2020, normalization level 1, seed 0).
pub const AVERAGE: usize = 64 << 10;
/// The most bytes of a chunk.
pub const MOST: usize = 256 << 10;

/// Reads `size` bytes, or what there is of them, and cuts them; `MOST` bytes are held at a time. One byte more is asked
/// for, so that the content of a file that has grown is longer than `size`.
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

/// The content of a file of at most [`WHOLE`] bytes.
pub(super) fn whole(bytes: &[u8]) -> Content {
    (!bytes.is_empty()).then(|| chunk(bytes)).into_iter().collect()
}

/// Whether the file holds `expected`, every byte of it hashed; what follows is not looked at.
///
/// # Errors
/// The system's.
pub(super) fn holds(file: &File, expected: &Content) -> io::Result<bool> {
    let mut buffer = Vec::new();
    let mut offset = 0;
    for chunk in expected.chunks() {
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

    #[test]
    fn a_file_that_has_grown_shows_it() {
        assert_eq!(cut(&b"longer"[..], 3).unwrap().size(), 4);
        let bytes = noise(100_000);
        assert_eq!(cut(&bytes[..], 90_000).unwrap().size(), 90_001);
        assert_eq!(cut(&b"short"[..], 9).unwrap().size(), 5);
    }
}
