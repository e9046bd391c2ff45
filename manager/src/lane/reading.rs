//! The bytes that a lane sends: of packs, in memory or from their files, and of requested chunks.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    io::IoSliceMut,
    os::unix::fs::FileExt,
    sync::Arc,
};

use bellwether_proto::{entry::Chunk, hash::Hash, record::Codec};
use bellwether_store::{history::Stored, pack};
use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

use crate::shared::Shared;

/// Bytes of chunks (before compression) in one `Supply`, unless a single one is larger.
const BATCH: usize = 2 << 20;
/// The most hashes to look for at once: the base of a chunk that is kept as a patch is held in memory.
const LOOK: usize = 128;

/// The place of a pack's bytes.
#[derive(Debug)]
pub(super) enum Source {
    Memory(Bytes),
    /// A file, and the pack's offset in it.
    File(Arc<File>, u64),
}

impl Source {
    /// Opens a pack; a small head is in memory.
    pub(super) async fn open(shared: &Shared, pack: Arc<Stored>) -> Result<Self, String> {
        let small = shared.head.borrow().bytes_of(&pack);
        if let Some(bytes) = small {
            return Ok(Self::Memory(bytes));
        }
        let begins = pack.at;
        let open = move || File::open(&pack.path).map_err(|e| format!("cannot read {}: {e}", pack.path.display()));
        blocking(open).await.map(|file| Self::File(Arc::new(file), begins))
    }

    pub(super) async fn read(&self, at: u64, length: u64) -> Result<Bytes, String> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(at as usize..(at + length) as usize)),
            Self::File(file, begins) => {
                let (at, mut bytes) = (begins + at, vec![0; length as usize]);
                // Most of the bytes are in the page cache: no thread is woken for those.
                let cached = preadv2(file, &mut [IoSliceMut::new(&mut bytes)], at, ReadWriteFlags::NOWAIT);
                if cached.is_ok_and(|count| count as u64 == length) {
                    return Ok(bytes.into());
                }
                let file = file.clone();
                let read = move || {
                    file.read_exact_at(&mut bytes, at)
                        .map_err(|e| format!("cannot read a pack in the history: {e}"))?;
                    Ok(bytes.into())
                };
                blocking(read).await
            }
        }
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

/// Some of the requested chunks.
pub(super) struct Supplied {
    pub(super) frames: Bytes,
    pub(super) missing: Vec<Hash>,
    pub(super) rest: VecDeque<Hash>,
    pub(super) look: usize,
}

/// Reads a batch of the `wanted` chunks. Only a few lanes do so at a time, so that many requests cannot fill the
/// manager's memory or occupy its disk.
pub(super) async fn supply(shared: &Shared, wanted: VecDeque<Hash>, look: usize) -> Result<Supplied, String> {
    let _turn = shared.reads.acquire().await.map_err(|e| e.to_string())?;
    let codec = shared.record.borrow().record().policy.codec;
    let history = shared.history.clone();
    blocking(move || {
        let history = history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        batch(wanted, look, codec, &mut |set, found| history.chunks(set, found).map_err(|e| e.to_string()))
    })
    .await
}

type Find<'a> = &'a mut dyn FnMut(&HashSet<Hash>, &mut dyn FnMut(Chunk, Bytes)) -> Result<(), String>;

/// Looks for the first `look` of the wanted chunks and keeps those that fit a batch; the others are read again later.
fn batch(mut wanted: VecDeque<Hash>, look: usize, codec: Codec, find: Find<'_>) -> Result<Supplied, String> {
    let asked: Vec<Hash> = wanted.drain(..look.min(wanted.len())).collect();
    let set: HashSet<Hash> = asked.iter().copied().collect();
    let mut kept: Vec<(Chunk, Bytes)> = Vec::new();
    let mut seen = HashSet::new();
    let mut size = 0;
    find(&set, &mut |chunk, bytes| {
        seen.insert(chunk.hash);
        if kept.is_empty() || size + bytes.len() <= BATCH {
            size += bytes.len();
            kept.push((chunk, bytes));
        }
    })?;
    let have: HashSet<Hash> = kept.iter().map(|(chunk, _)| chunk.hash).collect();
    let missing = set.iter().filter(|hash| !seen.contains(hash)).copied().collect();
    let again: Vec<Hash> = asked.iter().filter(|hash| seen.contains(hash) && !have.contains(hash)).copied().collect();
    let look = if again.is_empty() { (look * 2).min(LOOK) } else { kept.len().max(1) };
    for hash in again.into_iter().rev() {
        wanted.push_front(hash);
    }
    let frames = if kept.is_empty() { Bytes::new() } else { pack::chunk_frames(&kept, codec) };
    Ok(Supplied { frames, missing, rest: wanted, look })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Plays a whole request; returns the chunks of each message, and the missing ones.
    fn play(have: &[Vec<u8>], wanted: &[Hash], look: usize) -> (Vec<Vec<Hash>>, Vec<Hash>) {
        let have: HashMap<Hash, Bytes> = have.iter().map(|data| (Hash::of(data), data.clone().into())).collect();
        let (mut messages, mut missing) = (Vec::new(), Vec::new());
        let (mut rest, mut look) = (VecDeque::from(wanted.to_vec()), look);
        while !rest.is_empty() {
            let supplied = batch(rest, look, Codec::None, &mut |set, found| {
                for hash in set {
                    if let Some(bytes) = have.get(hash) {
                        found(Chunk { hash: *hash, length: bytes.len() as u32 }, bytes.clone());
                    }
                }
                Ok(())
            })
            .unwrap();
            let chunks = match supplied.frames.len() {
                0 => Vec::new(),
                _ => pack::read_chunks(&supplied.frames).unwrap(),
            };
            let bytes: usize = chunks.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(bytes <= BATCH || chunks.len() == 1, "{bytes} bytes in one message");
            messages.push(chunks.iter().map(|(chunk, _)| chunk.hash).collect());
            missing.extend(supplied.missing);
            (rest, look) = (supplied.rest, supplied.look);
        }
        (messages, missing)
    }

    #[test]
    fn all_that_is_wanted_comes_once_in_messages_of_bounded_size() {
        let have: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; 700_000]).collect();
        let wanted: Vec<Hash> = have.iter().map(|data| Hash::of(data)).collect();
        for look in [1, 3, 64] {
            let (messages, missing) = play(&have, &wanted, look);
            let mut came: Vec<Hash> = messages.into_iter().flatten().collect();
            came.sort();
            let mut expected = wanted.clone();
            expected.sort();
            assert_eq!(came, expected);
            assert_eq!(missing, []);
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let (messages, missing) = play(&[vec![1]], &[Hash::of(&[2]), Hash::of(&[1])], 64);
        assert_eq!(messages, [[Hash::of(&[1])]]);
        assert_eq!(missing, [Hash::of(&[2])]);
    }
}
