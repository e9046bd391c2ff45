//! The rules across a pack's frames: order, counts, sizes, and the limits of the sets' rules.

use std::{collections::HashSet, sync::Arc};

use bellwether_proto::{
    entry::{Chunk, Entry, EntryPath, Kind},
    record::SetRules,
};

use super::{Decoded, Frame, Head, PackError, Patch, RawChange, changes::check_order, malformed};
use crate::tree::Change;

/// The counts of a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes.
    pub changes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Their bytes before compression.
    pub chunk_bytes: u64,
}

impl Counts {
    /// Bytes of an end frame's payload.
    pub(super) const SIZE: usize = 24;

    /// An end frame's payload.
    pub(super) fn encode(&self) -> [u8; Self::SIZE] {
        let mut raw = [0; Self::SIZE];
        for (at, count) in [self.changes, self.chunks, self.chunk_bytes].into_iter().enumerate() {
            raw[at * 8..][..8].copy_from_slice(&count.to_le_bytes());
        }
        raw
    }

    /// Reads an end frame's payload.
    pub(super) fn decode(raw: &[u8]) -> Result<Self, PackError> {
        let raw: &[u8; Self::SIZE] =
            raw.try_into().map_err(|_| malformed(format!("an end frame of {} bytes", raw.len())))?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&raw[at * 8..][..8]);
            u64::from_le_bytes(bytes)
        };
        Ok(Self { changes: number(0), chunks: number(1), chunk_bytes: number(2) })
    }

    fn add_chunk(&mut self, chunk: &Chunk) {
        self.chunks += 1;
        self.chunk_bytes = self.chunk_bytes.saturating_add(chunk.length.into());
    }
}

impl From<&Head> for Counts {
    fn from(head: &Head) -> Self {
        Self { changes: head.changes, chunks: head.chunks, chunk_bytes: head.chunk_bytes }
    }
}

/// Takes a pack's decoded frames in order, and checks each against the earlier frames.
///
/// It remembers sixteen bytes of every chunk's hash, to refuse a chunk that comes twice; nothing else grows.
#[derive(Debug, Default)]
pub struct Order(Stage);

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Start,
    Body(Box<Body>),
    Ended,
}

#[derive(Debug)]
struct Body {
    rules: Vec<Arc<SetRules>>,
    base: bool,
    promised: Counts,
    got: Counts,
    last: Option<(u32, EntryPath)>,
    /// The chunks that the changes use, repetitions included; the pack cannot have more.
    used: Counts,
    seen: HashSet<u128>,
    /// Whether a frame of patches has come, after which no chunks may come.
    patched: bool,
}

impl Order {
    /// Checks the next frame.
    ///
    /// # Errors
    /// The frame breaks a rule, and no further frame is accepted.
    pub fn check(&mut self, frame: Decoded) -> Result<Frame, PackError> {
        match (&mut self.0, frame) {
            (Stage::Start, Decoded::Head(head)) => {
                self.0 = Stage::Body(Box::new(Body::new(&head)));
                Ok(Frame::Head(head))
            }
            (Stage::Start, Decoded::Changes(_) | Decoded::Chunks(_) | Decoded::Patches(_) | Decoded::End(_)) => {
                Err(malformed("a pack that does not begin with its head"))
            }
            (Stage::Body(_), Decoded::Head(_)) => Err(malformed("a second head in one pack")),
            (Stage::Body(body), Decoded::Changes(list)) => body.changes(list).map(Frame::Changes),
            (Stage::Body(body), Decoded::Chunks(list)) => body.chunks(list).map(Frame::Chunks),
            (Stage::Body(body), Decoded::Patches(list)) => body.patches(list).map(Frame::Patches),
            (Stage::Body(body), Decoded::End(counts)) => {
                body.end(counts)?;
                self.0 = Stage::Ended;
                Ok(Frame::End)
            }
            (Stage::Ended, _) => Err(malformed("a frame after the end of the pack")),
        }
    }

    /// Whether the end frame has come.
    pub fn ended(&self) -> bool {
        matches!(self.0, Stage::Ended)
    }
}

impl Body {
    fn new(head: &Head) -> Self {
        Self {
            rules: head.rules.clone(),
            base: head.base,
            promised: Counts::from(head),
            got: Counts::default(),
            last: None,
            used: Counts::default(),
            seen: HashSet::new(),
            patched: false,
        }
    }

    fn changes(&mut self, list: Vec<RawChange>) -> Result<Vec<Change>, PackError> {
        if self.got.chunks > 0 {
            return Err(malformed("changes after chunks"));
        }
        if self.got.changes + list.len() as u64 > self.promised.changes {
            return Err(malformed(format!("more changes than the {} in its head", self.promised.changes)));
        }
        if let (Some((set, path)), Some(next)) = (&self.last, list.first()) {
            check_order((*set, path), (next.set, &next.path))?;
        }
        self.last = list.last().map(|last| (last.set, last.path.clone())).or(self.last.take());
        self.got.changes += list.len() as u64;
        list.into_iter().map(|change| self.change(change)).collect()
    }

    fn change(&mut self, RawChange { set, path, entry }: RawChange) -> Result<Change, PackError> {
        let Some(rules) = self.rules.get(set as usize) else {
            return Err(malformed(format!("a change in set number {set} of {}", self.rules.len())));
        };
        let name = rules.name.clone();
        match &entry {
            None if self.base => return Err(malformed(format!("a base that removes {name}:{path}"))),
            None => {}
            Some(entry) => {
                check_entry(entry, &path, rules).map_err(|what| malformed(format!("{name}:{path} {what}")))?;
                if let Kind::File(content) = &entry.kind {
                    content.chunks().iter().for_each(|chunk| self.used.add_chunk(chunk));
                }
            }
        }
        Ok(Change { set: name, path, entry })
    }

    fn chunks(&mut self, list: Vec<(Chunk, bytes::Bytes)>) -> Result<Vec<(Chunk, bytes::Bytes)>, PackError> {
        if self.patched {
            return Err(malformed("chunks after patches"));
        }
        self.count(list.iter().map(|(chunk, _)| chunk))?;
        Ok(list)
    }

    fn patches(&mut self, list: Vec<Patch>) -> Result<Vec<Patch>, PackError> {
        if self.base {
            return Err(malformed("a base with patches"));
        }
        self.patched = true;
        self.count(list.iter().map(|patch| &patch.chunk))?;
        Ok(list)
    }

    fn count<'c>(&mut self, chunks: impl Iterator<Item = &'c Chunk>) -> Result<(), PackError> {
        self.changes_done()?;
        for chunk in chunks {
            self.got.add_chunk(chunk);
            let mut prefix = [0; 16];
            prefix.copy_from_slice(&chunk.hash.as_bytes()[..16]);
            if !self.seen.insert(u128::from_ne_bytes(prefix)) {
                return Err(malformed(format!("chunk {} twice", chunk.hash.short())));
            }
        }
        if self.got.chunks > self.promised.chunks || self.got.chunk_bytes > self.promised.chunk_bytes {
            let Counts { chunks, chunk_bytes, .. } = self.promised;
            return Err(malformed(format!("more than the {chunks} chunks of {chunk_bytes} bytes in its head")));
        }
        Ok(())
    }

    fn changes_done(&self) -> Result<(), PackError> {
        let (got, promised) = (self.got.changes, self.promised.changes);
        if got != promised {
            return Err(malformed(format!("{got} changes; its head says {promised}")));
        }
        if self.promised.chunks > self.used.chunks || self.promised.chunk_bytes > self.used.chunk_bytes {
            return Err(malformed("more chunks than its changes use"));
        }
        Ok(())
    }

    fn end(&self, counts: Counts) -> Result<(), PackError> {
        self.changes_done()?;
        if self.got != self.promised {
            return Err(malformed(format!(
                "{} chunks of {} bytes; its head says {} of {}",
                self.got.chunks, self.got.chunk_bytes, self.promised.chunks, self.promised.chunk_bytes
            )));
        }
        if counts != self.promised {
            return Err(malformed("an end frame whose counts differ from its head's"));
        }
        Ok(())
    }
}

fn check_entry(entry: &Entry, path: &EntryPath, rules: &SetRules) -> Result<(), &'static str> {
    let meta = &entry.meta;
    match &entry.kind {
        Kind::File(_) | Kind::Link(_) if path.is_root() => return Err("is the set's root and not a directory"),
        Kind::Link(_) if meta.mode != 0o777 => return Err("is a link with a mode"),
        Kind::File(_) if meta.mode & 0o6000 != 0 && !rules.allow_setuid => {
            return Err("is setuid or setgid, which the set's rules do not allow");
        }
        Kind::Directory | Kind::File(_) | Kind::Link(_) => {}
    }
    let mut names = meta.xattrs.iter().flat_map(|list| list.iter()).map(|(name, _)| name.as_ref());
    if !rules.allow_capabilities && names.any(|name| name == b"security.capability") {
        return Err("has capabilities, which the set's rules do not allow");
    }
    Ok(())
}
