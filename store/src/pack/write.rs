//! Writes a pack. The frames are planned from the changes alone. After that they are read, checked and compressed in parallel,
//! and written in order.

use std::{collections::HashSet, io::Write, path::PathBuf};

use bellwether_proto::{
    entry::{Chunk, EntryPath, Kind},
    hash::Hash,
    limits,
    name::SetName,
    record::Codec,
    v1,
};
use prost::Message;
use rayon::prelude::*;

use super::{
    Contents, Counts, FrameKind, PackError, changes,
    files::{Piece, Reading, Roots},
    frame::{self, ITEMS, TARGET},
    malformed,
    patch::{FIXED, Patch},
    patching::{self, successors},
};
use crate::tree::{Change, Node, Tree};

/// The most frames that are built at once on a machine with many cores, which bounds the memory.
const BATCH: usize = 32;
/// The most raw bytes of an increment with patches: it is a person's edit, or a program's edit of one file in a hundred.
const PATCHED: u64 = 16 << 20;
/// The fewest raw bytes for which other threads are worth waking.
const SMALL: u64 = 128 << 10;

/// Writes the pack to `out`, compressing with all cores and a bounded number of frames in memory. Returns the pack's size.
///
/// Changes of sets that `rules` do not name are left out, because those sets were removed.
///
/// # Errors
/// A file changed, or the system's errors; the caller throws `out` away.
pub fn write(contents: &Contents<'_>, out: &mut (dyn Write + Send)) -> Result<u64, PackError> {
    let mut plan = Plan::new(contents)?;
    let roots = Roots::open(contents.sources, &plan.pieces)?;
    let patches = plan.patches(contents, &roots)?;
    let mut output = Output { out, buffer: Vec::new(), size: 0 };
    output.put(&plan.head(contents)?)?;
    plan.frames(&roots, contents, &mut output)?;
    for list in cut(&patches, |patch| FIXED + patch.middle.len()) {
        let mut raw = Vec::new();
        list.iter().for_each(|patch| patch.encode(&mut raw));
        output.put(&frame::encode(FrameKind::Patches, &raw, contents.codec))?;
    }
    output.put(&frame::encode(FrameKind::End, &plan.counts.encode(), Codec::None))?;
    output.finish()
}

/// The destination of a pack, which is written in large pieces, and a small pack in one piece.
struct Output<'a> {
    out: &'a mut (dyn Write + Send),
    buffer: Vec<u8>,
    size: u64,
}

impl Output<'_> {
    fn put(&mut self, frame: &[u8]) -> Result<(), PackError> {
        self.size += frame.len() as u64;
        self.buffer.extend_from_slice(frame);
        if self.buffer.len() >= TARGET { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), PackError> {
        let failed = |source| PackError::Io { action: "write", path: PathBuf::from("the new pack"), source };
        self.out.write_all(&self.buffer).map_err(failed)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<u64, PackError> {
        self.flush()?;
        Ok(self.size)
    }
}

/// One frame to be built.
enum Job<'p> {
    Changes(&'p [(u32, &'p Change)]),
    Chunks(&'p [Piece<'p>]),
}

/// The plan of a pack's frames.
struct Plan<'a> {
    changes: Vec<(u32, &'a Change)>,
    pieces: Vec<Piece<'a>>,
    counts: Counts,
}

impl<'a> Plan<'a> {
    fn new(contents: &Contents<'a>) -> Result<Self, PackError> {
        let mut changes = Vec::with_capacity(contents.changes.len());
        for change in contents.changes {
            match contents.rules.binary_search_by(|rules| rules.name.cmp(&change.set)) {
                Ok(set) => changes.push((set as u32, change)),
                Err(_) if change.entry.is_none() => {}
                Err(_) => return Err(malformed(format!("a change in set {}, which has no rules", change.set))),
            }
        }
        let pieces = pieces(&changes, chunks_of_parent(contents));
        let counts = Counts {
            changes: changes.len() as u64,
            chunks: pieces.len() as u64,
            chunk_bytes: pieces.iter().map(|piece| u64::from(piece.chunk.length)).sum(),
        };
        if counts.changes > limits::ENTRIES {
            return Err(malformed(format!("{} changes; the limit is {}", counts.changes, limits::ENTRIES)));
        }
        Ok(Self { changes, pieces, counts })
    }

    fn head(&self, contents: &Contents<'_>) -> Result<Vec<u8>, PackError> {
        let head = v1::PackHead {
            header: Some(contents.header.to_wire()),
            base: contents.base,
            sets: contents.rules.iter().map(|rules| rules.to_wire()).collect(),
            changes: self.counts.changes,
            chunks: self.counts.chunks,
            chunk_bytes: self.counts.chunk_bytes,
        };
        let raw = head.encode_to_vec();
        check_length("the sets' rules and the revision's header", raw.len())?;
        Ok(frame::encode(FrameKind::Head, &raw, contents.codec))
    }

    fn jobs(&self) -> Vec<Job<'_>> {
        let changes = cut(&self.changes, |(_, change)| changes::size(change)).map(Job::Changes);
        let chunks = cut(&self.pieces, |piece| 4 + piece.chunk.length as usize).map(Job::Chunks);
        changes.chain(chunks).collect()
    }

    /// Makes patches of the pieces for which the parent has an old chunk; those pieces are not packed as chunks.
    fn patches(&mut self, contents: &Contents<'_>, roots: &Roots<'_>) -> Result<Vec<Patch>, PackError> {
        let Some(outlines) = contents.outlines.filter(|_| !contents.base && self.counts.chunk_bytes <= PATCHED) else {
            return Ok(Vec::new());
        };
        let candidates = successors(&self.pieces, contents.parent);
        let patch = |(piece, old): &(Piece<'_>, Chunk)| patching::patch(piece, old, roots, outlines);
        let patches: Vec<Patch> = if self.counts.chunk_bytes < SMALL {
            candidates.iter().filter_map(|candidate| patch(candidate).transpose()).collect::<Result<_, _>>()?
        } else {
            candidates.par_iter().filter_map(|candidate| patch(candidate).transpose()).collect::<Result<_, _>>()?
        };
        let told: HashSet<Hash> = patches.iter().map(|patch| patch.chunk.hash).collect();
        self.pieces.retain(|piece| !told.contains(&piece.chunk.hash));
        Ok(patches)
    }

    fn frames(&self, roots: &Roots<'_>, contents: &Contents<'_>, output: &mut Output<'_>) -> Result<(), PackError> {
        let jobs = self.jobs();
        if self.counts.chunk_bytes < SMALL && jobs.len() <= 2 {
            return jobs.iter().try_for_each(|job| output.put(&job.build(roots, contents)?));
        }
        // While one batch is written, the next one is built.
        let mut ready: Vec<Vec<u8>> = Vec::new();
        for batch in jobs.chunks(rayon::current_num_threads().min(BATCH)) {
            let build = || batch.par_iter().map(|job| job.build(roots, contents)).collect::<Result<Vec<_>, _>>();
            let (written, built) = rayon::join(|| ready.iter().try_for_each(|frame| output.put(frame)), build);
            written?;
            ready = built?;
        }
        ready.iter().try_for_each(|frame| output.put(frame))
    }
}

impl Job<'_> {
    fn build(&self, roots: &Roots<'_>, contents: &Contents<'_>) -> Result<Vec<u8>, PackError> {
        let codec = contents.codec;
        match self {
            Self::Changes(list) => {
                let mut raw = Vec::new();
                list.iter().for_each(|(set, change)| changes::encode(*set, change, &mut raw));
                let (_, first) = list[0];
                check_length(&format!("{}:{} and its list of chunks", first.set, first.path), raw.len())?;
                Ok(frame::encode(FrameKind::Changes, &raw, codec))
            }
            Self::Chunks(pieces) => {
                let raw = Reading::new(roots, contents.outlines).payload(pieces, contents.history)?;
                Ok(frame::encode(FrameKind::Chunks, &raw, codec))
            }
        }
    }
}

fn check_length(what: &str, length: usize) -> Result<(), PackError> {
    if length <= limits::FRAME {
        return Ok(());
    }
    Err(malformed(format!("{what} take {length} bytes; a frame holds {}", limits::FRAME)))
}

/// Cuts `items` into runs of about [`TARGET`] bytes, at least one item each.
fn cut<T>(items: &[T], size: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(ITEMS).take_while(|item| {
            bytes += size(item);
            bytes <= TARGET
        });
        let count = fits.count().max(1);
        let (run, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(run)
    })
}

/// The chunks that `changes` use and the receiver does not have, each once, in the order of their first use.
fn pieces<'a>(changes: &[(u32, &'a Change)], mut known: HashSet<Hash>) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    for (_, change) in changes {
        let Some(Kind::File(content)) = change.entry.as_ref().map(|entry| &entry.kind) else { continue };
        let mut offset = 0;
        for &chunk in content.chunks() {
            if known.insert(chunk.hash) {
                pieces.push(Piece { change, offset, chunk });
            }
            offset += u64::from(chunk.length);
        }
    }
    pieces
}

/// The chunks of the parent's files that the changes replace or remove: every receiver of an increment has them.
fn chunks_of_parent(contents: &Contents<'_>) -> HashSet<Hash> {
    let mut known = HashSet::new();
    for Change { set, path, entry } in contents.changes {
        let stays = matches!(entry.as_ref().map(|entry| &entry.kind), Some(Kind::Directory));
        collect(contents.parent, set, path, stays, &mut known);
    }
    known
}

/// `stays`: whether the new entry is a directory, too: an old directory keeps its content then, which is not collected.
fn collect(parent: &Tree, set: &SetName, path: &EntryPath, stays: bool, known: &mut HashSet<Hash>) {
    let Some(node) = parent.get(set, path) else { return };
    if stays && node.directory().is_some() {
        return;
    }
    let mut nodes = vec![&node];
    while let Some(node) = nodes.pop() {
        match node {
            Node::File { content, .. } => known.extend(content.chunks().iter().map(|chunk| chunk.hash)),
            Node::Link { .. } => {}
            Node::Directory(dir) => nodes.extend(dir.children().iter().map(|child| &child.node)),
        }
    }
}
