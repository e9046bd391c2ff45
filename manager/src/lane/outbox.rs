//! What is to be sent to one member, and in which order. It holds no more than one message of each small kind, and of
//! the large ones only where to read: a stalled reader costs its lane a few messages of memory, whatever is published.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    io::IoSliceMut,
    os::unix::fs::FileExt,
    sync::Arc,
};

use bellwether_proto::{entry::Chunk, hash::Hash, limits, record::Codec, v1};
use bellwether_store::{history::Stored, pack};
use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

use super::view::InFlight;
use crate::shared::Shared;

/// Bytes of chunks (before compression) in one `Supply`, unless a single one is larger.
const BATCH: usize = 2 << 20;
/// Hashes that are looked for at once, at most: of a chunk that is kept as a patch, what it is made from is held.
const LOOK: usize = 128;
/// Bytes of a pack in one message: less than what the allocator keeps apart, of which many lanes would leave holes.
const PIECE: u64 = 32 << 10;
/// Requests that one member may have open.
const OPEN: usize = 64;

/// Where a pack's bytes are.
#[derive(Debug, Clone)]
enum Source {
    Memory(Bytes),
    /// A file, and where in it the pack begins.
    File(Arc<File>, u64),
}

#[derive(Debug)]
enum Work {
    Slices { source: Source, at: u64, to: u64 },
    Chunks { wanted: VecDeque<Hash>, look: usize },
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) fence: Option<v1::Fence>,
    pub(crate) record: Option<v1::SignedRecord>,
    pub(crate) head: Option<v1::SignedHeader>,
    pub(crate) sync: Option<v1::Sync>,
    pub(crate) verify: Option<v1::Verify>,
    pub(crate) keepalive: Option<v1::Keepalive>,
    pub(crate) procedures: Option<v1::SignedProcedures>,
    offer: Option<v1::Offer>,
    /// The offer's first bytes have not gone.
    fresh: bool,
    source: Option<Source>,
    work: VecDeque<Work>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { fence, record, head, sync, verify, keepalive, procedures, offer, fresh: _, source: _, work } = self;
        fence.is_none()
            && record.is_none()
            && head.is_none()
            && sync.is_none()
            && verify.is_none()
            && keepalive.is_none()
            && procedures.is_none()
            && offer.is_none()
            && work.is_empty()
    }

    /// Offers `pack` and sends its bytes from `from` to `to`; `forked`: the member keeps what that replaces.
    pub(crate) async fn offer(
        &mut self,
        shared: &Shared,
        pack: &Arc<Stored>,
        from: u64,
        to: u64,
        forked: bool,
    ) -> Result<(), String> {
        let small = shared.head.borrow().bytes_of(pack);
        let source = match small {
            Some(bytes) => Source::Memory(bytes),
            None => Source::File(open(pack.clone()).await?, pack.at),
        };
        self.offer = Some(v1::Offer {
            pack: pack.pack.into(),
            header: Some(pack.header.to_wire()),
            base: pack.base,
            size: pack.size,
            from,
            to,
            forked,
        });
        self.work.clear();
        self.source = Some(source.clone());
        self.work.push_back(Work::Slices { source, at: from, to });
        self.fresh = true;
        Ok(())
    }

    /// More bytes of the pack that was offered, which has `size` of them.
    pub(crate) fn want_range(&mut self, range: &v1::Range, size: u64) -> Result<(), String> {
        let source = self.source.clone().filter(|_| range.from <= range.to && range.to <= size);
        let Some(source) = source else {
            return Err(format!("it asked for bytes {} to {} of a pack of {size}", range.from, range.to));
        };
        self.open_request()?;
        self.work.push_back(Work::Slices { source, at: range.from, to: range.to });
        Ok(())
    }

    /// Chunks by hash.
    pub(crate) fn want_chunks(&mut self, hashes: v1::Hashes) -> Result<(), String> {
        self.open_request()?;
        let count = hashes.hashes.len();
        if count > limits::WANT {
            return Err(format!("it asked for {count} chunks at once; the limit is {}", limits::WANT));
        }
        let waiting: usize = self.work.iter().map(Work::hashes).sum();
        if waiting + count > 2 * limits::WANT {
            return Err(format!("it asked for more than {} chunks at once", 2 * limits::WANT));
        }
        let wanted = hashes.hashes.iter().map(|hash| Hash::try_from(hash.as_ref())).collect::<Result<_, _>>();
        self.work.push_back(Work::Chunks { wanted: wanted.map_err(|e| format!("it asked for {e}"))?, look: 64 });
        Ok(())
    }

    /// What is to be sent of the pack that was offered, which has `size` bytes.
    pub(crate) fn in_flight(&self, size: u64) -> InFlight {
        let unsent = |work: &Work| match work {
            Work::Slices { at, to, .. } => to.saturating_sub(*at),
            Work::Chunks { .. } => 0,
        };
        let unsent_chunks = self.work.iter().map(Work::hashes).sum();
        InFlight { size, unsent_bytes: self.work.iter().map(unsent).sum(), unsent_chunks }
    }

    fn open_request(&self) -> Result<(), String> {
        if self.work.len() < OPEN {
            return Ok(());
        }
        Err(format!("it has more than {OPEN} requests open"))
    }

    /// Drops what belongs to the offer: it has ended.
    pub(crate) fn end_offer(&mut self) {
        self.offer = None;
        self.fresh = false;
        self.source = None;
        self.work.clear();
    }

    /// The next message; the small ones first. Not to be cancelled: what it took would be lost.
    pub(crate) async fn next(&mut self, shared: &Shared) -> Result<Option<v1::down::Message>, String> {
        use v1::down::Message;
        if let Some(fence) = self.fence.take() {
            return Ok(Some(Message::Fence(fence)));
        }
        if let Some(record) = self.record.take() {
            return Ok(Some(Message::Record(record)));
        }
        if let Some(procedures) = self.procedures.take() {
            return Ok(Some(Message::Procedures(procedures)));
        }
        if let Some(keepalive) = self.keepalive.take() {
            return Ok(Some(Message::Keepalive(keepalive)));
        }
        // A sync that is to look at every byte finds them looked at.
        if let Some(verify) = self.verify.take() {
            return Ok(Some(Message::Verify(verify)));
        }
        if let Some(sync) = self.sync.take() {
            return Ok(Some(Message::Sync(sync)));
        }
        if let Some(offer) = self.offer.take() {
            return Ok(Some(Message::Offer(offer)));
        }
        // A small pack goes in one piece with its offer; what it makes the head is said after that.
        if std::mem::take(&mut self.fresh)
            && let Some(first) = self.next_work(shared).await?
        {
            return Ok(Some(first));
        }
        if let Some(head) = self.head.take() {
            return Ok(Some(Message::Head(head)));
        }
        self.next_work(shared).await
    }

    async fn next_work(&mut self, shared: &Shared) -> Result<Option<v1::down::Message>, String> {
        // An offer of no bytes: the member asks for those it wants.
        while matches!(self.work.front(), Some(Work::Slices { at, to, .. }) if at >= to) {
            self.work.pop_front();
        }
        let Some(work) = self.work.front_mut() else { return Ok(None) };
        let (message, last) = match work {
            Work::Slices { source, at, to } => {
                let offset = *at;
                let data = read(source, offset, (*to - offset).min(PIECE)).await?;
                *at += data.len() as u64;
                (v1::down::Message::Slice(v1::Slice { offset, data }), *at >= *to)
            }
            Work::Chunks { wanted, look } => {
                let supply = supply(shared, std::mem::take(wanted), *look).await?;
                let last = supply.rest.is_empty();
                *wanted = supply.rest;
                *look = supply.look;
                let missing = supply.missing.into_iter().map(Bytes::from).collect();
                (v1::down::Message::Supply(v1::Supply { frames: supply.frames, last, missing }), last)
            }
        };
        if last {
            self.work.pop_front();
        }
        Ok(Some(message))
    }
}

impl Work {
    fn hashes(&self) -> usize {
        match self {
            Self::Slices { .. } => 0,
            Self::Chunks { wanted, .. } => wanted.len(),
        }
    }
}

async fn open(pack: Arc<Stored>) -> Result<Arc<File>, String> {
    let open = move || File::open(&pack.path).map_err(|e| format!("cannot read {}: {e}", pack.path.display()));
    blocking(open).await.map(Arc::new)
}

async fn read(source: &Source, at: u64, length: u64) -> Result<Bytes, String> {
    match source {
        Source::Memory(bytes) => Ok(bytes.slice(at as usize..(at + length) as usize)),
        Source::File(file, begins) => {
            let (at, mut bytes) = (begins + at, vec![0; length as usize]);
            // Most of what members want is in the page cache: no thread is woken for that.
            let cached = preadv2(file, &mut [IoSliceMut::new(&mut bytes)], at, ReadWriteFlags::NOWAIT);
            if cached.is_ok_and(|count| count as u64 == length) {
                return Ok(bytes.into());
            }
            let file = file.clone();
            let read = move || {
                file.read_exact_at(&mut bytes, at).map_err(|e| format!("cannot read a pack in the history: {e}"))?;
                Ok(bytes.into())
            };
            blocking(read).await
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

struct Supplied {
    frames: Bytes,
    missing: Vec<Hash>,
    rest: VecDeque<Hash>,
    look: usize,
}

/// Reads a batch of the chunks that are `wanted`. A few lanes do so at a time, so that many that ask cannot fill the
/// manager's memory or keep its disk to themselves.
async fn supply(shared: &Shared, wanted: VecDeque<Hash>, look: usize) -> Result<Supplied, String> {
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

/// Looks for the first `look` of those wanted and keeps what fits a batch; the others that were found are read again in
/// the next one.
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

    /// Plays a whole request; returns what came in each message, and what was missing.
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
