//! Patches: chunks of an increment, described by the difference from a chunk of the parent.

use bellwether_proto::{entry::Chunk, hash::Hash, limits};
use bytes::Bytes;

use super::{PackError, frame::ITEMS, malformed};

/// Bytes of a patch without its middle.
pub(super) const FIXED: usize = 32 + 32 + 4 + 4 + 4;

/// A chunk with the same beginning and end as an old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The old chunk.
    pub old: Hash,
    /// The new chunk.
    pub chunk: Chunk,
    /// Bytes at the beginning that are the same.
    pub prefix: u32,
    /// Bytes at the end that are the same.
    pub suffix: u32,
    /// The new bytes between them.
    pub middle: Bytes,
}

impl Patch {
    /// The new chunk's bytes.
    ///
    /// # Errors
    /// `old` is not the old chunk, or the result does not have the new chunk's hash.
    pub fn apply(&self, old: &[u8]) -> Result<Bytes, PackError> {
        let stays = |count: u32, from: usize| old.len().checked_sub(from).is_some_and(|left| count as usize <= left);
        if !stays(self.prefix, 0) || !stays(self.suffix, self.prefix as usize) {
            return Err(malformed("a patch that keeps more bytes than its old chunk has"));
        }
        let mut new = Vec::with_capacity(self.chunk.length as usize);
        new.extend_from_slice(&old[..self.prefix as usize]);
        new.extend_from_slice(&self.middle);
        new.extend_from_slice(&old[old.len() - self.suffix as usize..]);
        if Hash::of(&new) == self.chunk.hash { Ok(new.into()) } else { Err(malformed("a patch that does not fit")) }
    }

    pub(super) fn encode(&self, raw: &mut Vec<u8>) {
        raw.extend_from_slice(self.old.as_bytes());
        raw.extend_from_slice(self.chunk.hash.as_bytes());
        for number in [self.prefix, self.suffix, self.middle.len() as u32] {
            raw.extend_from_slice(&number.to_le_bytes());
        }
        raw.extend_from_slice(&self.middle);
    }
}

/// Reads the payload of a frame of patches.
pub(super) fn decode(raw: &Bytes) -> Result<Vec<Patch>, PackError> {
    let mut patches = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        if patches.len() == ITEMS {
            return Err(malformed(format!("a frame of more than {ITEMS} patches")));
        }
        let Some(fixed) = raw[at..].first_chunk::<FIXED>() else {
            return Err(malformed("a patch that is cut short"));
        };
        let hash = |at: usize| Hash::try_from(&fixed[at..at + 32]).map_err(PackError::from);
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (prefix, suffix, middle) = (number(64), number(68), number(72));
        let length = u64::from(prefix) + u64::from(suffix) + u64::from(middle);
        if prefix == 0 && suffix == 0 || length > limits::CHUNK as u64 {
            return Err(malformed(format!("a patch that makes {length} bytes; the limit is {}", limits::CHUNK)));
        }
        let end = at + FIXED + middle as usize;
        if end > raw.len() {
            return Err(malformed(format!("a patch of {middle} bytes that its frame does not hold")));
        }
        let chunk = Chunk { hash: hash(32)?, length: length as u32 };
        let middle = raw.slice(at + FIXED..end);
        patches.push(Patch { old: hash(0)?, chunk, prefix, suffix, middle });
        at = end;
    }
    Ok(patches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch() -> (Vec<u8>, Patch) {
        let (old, new) = (b"one two three".to_vec(), b"one 2 three");
        let chunk = Chunk { hash: Hash::of(new), length: new.len() as u32 };
        let patch = Patch { old: Hash::of(&old), chunk, prefix: 4, suffix: 6, middle: Bytes::from_static(b"2") };
        (old, patch)
    }

    #[test]
    fn a_patch_makes_the_new_chunk_of_the_old_one_and_of_no_other() {
        let (old, patch) = patch();
        assert_eq!(patch.apply(&old).unwrap(), &b"one 2 three"[..]);
        for other in [&b"one 2 tree"[..], b"ONE two three", b"", b"short"] {
            assert!(patch.apply(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn patches_survive_their_bytes() {
        let (_, patch) = patch();
        let mut raw = Vec::new();
        (0..3).for_each(|_| patch.encode(&mut raw));
        assert_eq!(decode(&raw.clone().into()).unwrap(), vec![patch; 3]);
        for cut in 1..raw.len() {
            let cut = Bytes::copy_from_slice(&raw[..cut]);
            assert!(decode(&cut).is_err() || cut.len().is_multiple_of(raw.len() / 3));
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let (_, patch) = patch();
        for (prefix, suffix) in [(0, 0), (u32::MAX, u32::MAX), (limits::CHUNK as u32, 0)] {
            let mut raw = Vec::new();
            Patch { prefix, suffix, ..patch.clone() }.encode(&mut raw);
            assert!(decode(&raw.into()).is_err());
        }
        let mut raw = Vec::new();
        patch.encode(&mut raw);
        raw[72..76].copy_from_slice(&1000u32.to_le_bytes());
        assert!(decode(&raw.into()).unwrap_err().to_string().contains("does not hold"));
    }
}
