//! Writing files with holes where there are only zeros: they take no space, and read the same.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use crate::{durable, scan::content::Holes};

/// What a hole is made of at the least.
const BLOCK: usize = 4096;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The runs of `bytes`, which are at `offset` of a file, that have to be written: all but whole blocks of zeros.
fn runs(bytes: &[u8], offset: u64) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(next) = zero_block(bytes, offset, at) {
            at = next;
        }
        let start = at;
        while at < bytes.len() && zero_block(bytes, offset, at).is_none() {
            at = end_of_block(bytes, offset, at);
        }
        (start < at).then_some(start..at)
    })
}

fn end_of_block(bytes: &[u8], offset: u64, at: usize) -> usize {
    let into = ((offset + at as u64) % BLOCK as u64) as usize;
    (at + BLOCK - into).min(bytes.len())
}

/// Where the block that begins at `at` ends, if it is a whole one of zeros.
fn zero_block(bytes: &[u8], offset: u64, at: usize) -> Option<usize> {
    let block = &bytes[at..end_of_block(bytes, offset, at)];
    (*block == ZEROS).then_some(at + BLOCK)
}

/// Writes `bytes` at `offset` of a file that has nothing there yet. One past the last byte that was written: what is zero
/// after it is there when the file has its length.
pub(super) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<u64> {
    let mut end = 0;
    for run in runs(bytes, offset) {
        durable::write_at(file, &bytes[run.clone()], offset + run.start as u64)?;
        end = offset + run.end as u64;
    }
    Ok(end)
}

/// Copies all bytes of a file to a new one.
pub(super) fn copy(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    let (mut holes, mut buffer) = (Holes::new(from, size), vec![0; 1 << 18]);
    let (mut at, mut end) = (0, 0);
    loop {
        if at < size {
            at = holes.end(at);
        }
        // What was appended since is copied, too.
        let length = from.read_at(&mut buffer, at)?;
        if length == 0 {
            break;
        }
        end = end.max(write(to, &buffer[..length], at)?);
        at += length as u64;
    }
    if end < at { durable::set_length(to, at) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// As pairs of where each begins and ends.
    fn all(bytes: &[u8], offset: u64) -> Vec<(usize, usize)> {
        runs(bytes, offset).map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn only_whole_blocks_of_zeros_are_left_out() {
        let block = BLOCK;
        assert!(all(b"", 0).is_empty());
        assert_eq!(all(b"text", 0), [(0, 4)]);
        assert_eq!(all(&[0; 100], 0), [(0, 100)], "less than a block");
        assert!(all(&[0; BLOCK], 0).is_empty());
        assert_eq!(all(&[0; BLOCK], 1), [(0, block)], "two halves of blocks");
        assert_eq!(all(&[0; 3 * BLOCK], 1), [(0, block - 1), (3 * block - 1, 3 * block)]);
        let mut bytes = vec![0; 5 * BLOCK];
        bytes[2 * BLOCK] = 1;
        assert_eq!(all(&bytes, 0), [(2 * block, 3 * block)]);
        bytes[4 * BLOCK] = 1;
        bytes.push(0);
        assert_eq!(all(&bytes, 8 * BLOCK as u64), [(2 * block, 3 * block), (4 * block, 5 * block + 1)]);
    }

    #[test]
    fn a_copy_has_the_holes_and_the_bytes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(50_000_000).unwrap();
        for at in [0, 7_000_001, 30_000_000] {
            from.write_all_at(b"some data", at).unwrap();
        }
        copy(&from, &to).unwrap();
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "{} blocks", to.metadata().unwrap().blocks());
        let read = |file: &File| {
            let mut bytes = vec![0; 50_000_001];
            let length = file.read_at(&mut bytes, 0).unwrap();
            (length, bytes)
        };
        assert!(read(&from) == read(&to), "other bytes");
    }
}
