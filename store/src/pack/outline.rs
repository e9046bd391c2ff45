//! Outlines: hashes of a chunk's blocks, counted from both ends, by which the manager describes the next chunk as a difference
//! when the bytes of the old chunk are gone.
//!
//! They are in a cache on disk, a table of slots in sets of four, which takes no memory and is never synced. The cache may be
//! lost or wrong, because the server that applies a patch checks the hash of the new chunk.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use bellwether_proto::hash::Hash;

use crate::tree::{Node, Tree};

/// The fewest bytes of a chunk that has an outline; smaller chunks are sent whole.
pub(super) const LEAST: usize = 2 << 10;
/// The most blocks from each end, and the fewest bytes of one.
const BLOCKS: usize = 24;
const BLOCK: usize = 256;

const MAGIC: u64 = u64::from_le_bytes(*b"bwoutln1");
/// Bytes of a slot: a key, the length, and the blocks' hashes.
const SLOT: usize = 16 + 8 + 16 * BLOCKS;
/// The number of slots for a chunk.
const WAYS: u64 = 4;

/// The hashes of a chunk's blocks, from its beginning and from its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    length: usize,
    blocks: Vec<(u64, u64)>,
}

fn block_of(length: usize) -> usize {
    (length / BLOCKS).max(BLOCK)
}

impl Outline {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let block = block_of(bytes.len());
        let blocks = (0..bytes.len() / block).take(BLOCKS).map(|n| (head(bytes, block, n), tail(bytes, block, n)));
        Self { length: bytes.len(), blocks: blocks.collect() }
    }

    /// The number of bytes that `new` has in common with the chunk, at the beginning and at the end.
    pub(super) fn common(&self, new: &[u8]) -> (usize, usize) {
        let block = block_of(self.length);
        let most = new.len().min(self.length) / block;
        let same = |mine: fn(&(u64, u64)) -> u64, theirs: fn(&[u8], usize, usize) -> u64| {
            let equal = |(n, pair): &(usize, &(u64, u64))| mine(pair) == theirs(new, block, *n);
            self.blocks.iter().enumerate().take(most).take_while(equal).count()
        };
        let (prefix, suffix) = (same(|pair| pair.0, head) * block, same(|pair| pair.1, tail) * block);
        // Bytes that are common to both ends count once.
        (prefix, suffix.min(new.len().min(self.length) - prefix))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let hashes = self.blocks.iter().flat_map(|(head, tail)| [*head, *tail]);
        std::iter::once(self.length as u64).chain(hashes).flat_map(u64::to_le_bytes).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut numbers = bytes.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().unwrap_or_default()));
        let length = numbers.next().unwrap_or_default() as usize;
        let numbers: Vec<u64> = numbers.collect();
        let count = (length / block_of(length)).min(BLOCKS);
        Self { length, blocks: numbers.chunks_exact(2).take(count).map(|pair| (pair[0], pair[1])).collect() }
    }
}

fn head(bytes: &[u8], block: usize, n: usize) -> u64 {
    fold(&bytes[n * block..][..block])
}

fn tail(bytes: &[u8], block: usize, n: usize) -> u64 {
    fold(&bytes[bytes.len() - (n + 1) * block..][..block])
}

/// A quick hash; the patched chunk is checked later.
fn fold(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        let wide = u128::from(hash ^ word) * 0x9e37_79b9_7f4a_7c15;
        (wide as u64) ^ ((wide >> 64) as u64)
    };
    let words = bytes.chunks(8).map(|part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    });
    words.fold(bytes.len() as u64 ^ 0x2545_f491_4f6c_dd1d, mix)
}

/// The cache of outlines.
#[derive(Debug)]
pub struct Outlines {
    file: File,
    sets: u64,
}

impl Outlines {
    /// Opens the cache at `path` for the chunks of `tree`; none if it cannot be used: packs are written whole then.
    pub fn of_tree(path: &Path, tree: &Tree) -> Option<Self> {
        let mut chunks = 0;
        tree.visit(&mut |_, _, node| {
            if let Node::File { content, .. } = node {
                chunks += content.chunks().iter().filter(|chunk| chunk.length as usize >= LEAST).count() as u64;
            }
        });
        let opened = Self::open(path, chunks);
        let warn = |error: &io::Error| {
            tracing::warn!(path = %path.display(), %error, "the cache of outlines cannot be used: changed chunks are sent whole");
        };
        opened.inspect_err(warn).ok()
    }

    /// Opens the cache at `path`. If there is none, or it is too small for `chunks`, a new one is made with room for twice as
    /// many.
    ///
    /// # Errors
    /// The system's; packs are written without outlines then.
    pub fn open(path: &Path, chunks: u64) -> io::Result<Self> {
        let needed = (chunks * 2 / WAYS).max(256).next_power_of_two();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut header = [0; 16];
        let sets = match file.read_exact_at(&mut header, 0) {
            Ok(()) if header[..8] == MAGIC.to_le_bytes() => {
                u64::from_le_bytes(header[8..].try_into().unwrap_or_default())
            }
            Ok(()) | Err(_) => 0,
        };
        if sets >= needed && sets.is_power_of_two() && sets <= 1 << 32 {
            return Ok(Self { file, sets });
        }
        file.set_len(0)?;
        file.write_all_at(&[MAGIC.to_le_bytes(), needed.to_le_bytes()].concat(), 0)?;
        Ok(Self { file, sets: needed })
    }

    fn place(&self, chunk: &Hash) -> ([u8; 16], u64) {
        let mut key = [0; 16];
        key.copy_from_slice(&chunk.as_bytes()[..16]);
        let number = u64::from_le_bytes(key[..8].try_into().unwrap_or_default());
        (key, 16 + number % self.sets * WAYS * SLOT as u64)
    }

    /// The slots of a chunk's set; slots behind the end of the file are empty.
    fn set(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut set = vec![0; WAYS as usize * SLOT];
        let mut read = 0;
        while read < set.len() {
            match self.file.read_at(&mut set[read..], at + read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        Ok(set)
    }

    pub(super) fn get(&self, chunk: &Hash) -> Option<Outline> {
        let (key, at) = self.place(chunk);
        let set = self.set(at).ok()?;
        set.chunks_exact(SLOT).find(|slot| slot[..16] == key).map(|slot| Outline::from_bytes(&slot[16..]))
    }

    /// Remembers a chunk, and may forget another one for that.
    pub(super) fn put(&self, chunk: &Hash, bytes: &[u8]) -> io::Result<()> {
        let (key, at) = self.place(chunk);
        let set = self.set(at)?;
        let free = |slot: &[u8]| slot[..16] == key || slot[..16] == [0; 16];
        let way = set.chunks_exact(SLOT).position(free).unwrap_or(usize::from(key[15]) % WAYS as usize);
        let mut slot = [&key[..], &Outline::of(bytes).to_bytes()].concat();
        slot.resize(SLOT, 0);
        self.file.write_all_at(&slot, at + (way * SLOT) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_line_is_found_within_two_blocks() {
        for length in [LEAST, 10_000, 100_000, 256 << 10] {
            let old = noise(length);
            let outline = Outline::of(&old);
            assert_eq!(outline.common(&old).0 + outline.common(&old).1, length, "all of it");
            let mut new = old.clone();
            new.splice(length / 2..length / 2 + 3, *b"another line");
            let (prefix, suffix) = outline.common(&new);
            assert!(new.len() - prefix - suffix <= 3 * block_of(length) + 12, "{prefix} and {suffix} of {length}");
        }
    }

    #[test]
    fn the_cache_remembers_and_survives_anything_in_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outlines");
        let chunk = noise(5_000);
        let outlines = Outlines::open(&path, 10).unwrap();
        assert_eq!(outlines.get(&Hash::of(&chunk)), None);
        outlines.put(&Hash::of(&chunk), &chunk).unwrap();
        assert_eq!(Outlines::open(&path, 10).unwrap().get(&Hash::of(&chunk)), Some(Outline::of(&chunk)));
        assert_eq!(Outlines::open(&path, 100_000).unwrap().get(&Hash::of(&chunk)), None, "a larger one begins anew");
        std::fs::write(&path, noise(100_000)).unwrap();
        assert_eq!(Outlines::open(&path, 10).unwrap().get(&Hash::of(&chunk)), None);
    }

    proptest! {
        #[test]
        fn what_is_common_is_common(
            old in proptest::collection::vec(0u8..3, 0..6_000), at in 0usize..6_000, cut in 0usize..50,
            line in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut new = old.clone();
            let at = at.min(new.len());
            new.splice(at..(at + cut).min(new.len()), line);
            let (prefix, suffix) = Outline::of(&old).common(&new);
            prop_assert!(prefix + suffix <= old.len().min(new.len()));
            prop_assert_eq!(&old[..prefix], &new[..prefix]);
            prop_assert_eq!(&old[old.len() - suffix..], &new[new.len() - suffix..]);
        }
    }
}
