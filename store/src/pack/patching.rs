//! Finds the successors of chunks, and makes patches from an old chunk's outline, since the old bytes are gone.

use std::collections::{HashMap, HashSet};

use bellwether_proto::{
    entry::{Chunk, EntryPath, Kind},
    hash::Hash,
    name::SetName,
};
use bytes::Bytes;

use super::{
    PackError,
    files::{Piece, Reading, Roots},
    outline::{self, Outlines},
    patch::{FIXED, Patch},
};
use crate::tree::{Node, Tree};

/// Each piece that replaces a chunk of the same file, with the old chunk.
pub(super) fn successors<'a>(pieces: &[Piece<'a>], parent: &Tree) -> Vec<(Piece<'a>, Chunk)> {
    let mut files: HashMap<(&SetName, &EntryPath), std::vec::IntoIter<Chunk>> = HashMap::new();
    let follows = |piece: &Piece<'a>| {
        if (piece.chunk.length as usize) < outline::LEAST {
            return None;
        }
        let change = piece.change;
        let olds = files.entry((&change.set, &change.path)).or_insert_with(|| replaced(piece, parent).into_iter());
        // If one chunk was replaced by two, the second one follows the next old chunk.
        let old = olds.next()?;
        (old.length as usize >= outline::LEAST).then_some((*piece, old))
    };
    pieces.iter().filter_map(follows).collect()
}

/// The chunks of the parent's file at the piece's path that the new file does not have, in order.
fn replaced(piece: &Piece<'_>, parent: &Tree) -> Vec<Chunk> {
    let Some(Node::File { content: old, .. }) = parent.get(&piece.change.set, &piece.change.path) else {
        return Vec::new();
    };
    let Some(Kind::File(new)) = piece.change.entry.as_ref().map(|entry| &entry.kind) else { return Vec::new() };
    let stay: HashSet<Hash> = new.chunks().iter().map(|chunk| chunk.hash).collect();
    old.chunks().iter().filter(|chunk| !stay.contains(&chunk.hash)).copied().collect()
}

/// The patch from the chunk `old` to the piece; none if it saves less than half.
pub(super) fn patch(
    piece: &Piece<'_>,
    old: &Chunk,
    roots: &Roots<'_>,
    outlines: &Outlines,
) -> Result<Option<Patch>, PackError> {
    let Some(outline) = outlines.get(&old.hash) else { return Ok(None) };
    let mut bytes = Vec::new();
    Reading::new(roots, Some(outlines)).read(piece, None, &mut bytes)?;
    let (prefix, suffix) = outline.common(&bytes);
    if FIXED + bytes.len() - prefix - suffix > bytes.len() / 2 {
        return Ok(None);
    }
    let middle = Bytes::copy_from_slice(&bytes[prefix..bytes.len() - suffix]);
    let (prefix, suffix) = (prefix as u32, suffix as u32);
    Ok(Some(Patch { old: old.hash, chunk: piece.chunk, prefix, suffix, middle }))
}
