//! The content of edited files for the manager: chunks, each as it was scanned.

use std::{fs::File, os::unix::fs::FileExt};

use bellwether_proto::{
    advice::{Advice, Advise},
    entry::{Chunk, Content, Kind},
    hash::Hash,
    limits,
    record::Codec,
};
use bellwether_store::{
    beneath::Root,
    pack,
    scan::Source,
    tree::{Change, Node, Tree},
};
use bytes::Bytes;

/// Bytes of chunks in one message, unless a single one is larger.
const BATCH: usize = 1 << 20;

/// The content is not sent. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error(
        "{count} entries with {bytes} bytes of content were edited; at most {} and {} become a revision at once", limits::KEEP.0, limits::KEEP.1
    )]
    TooMuch { count: usize, bytes: u64 },
    #[error("{set}:{path} changed while it was read")]
    Changed { set: bellwether_proto::name::SetName, path: bellwether_proto::entry::EntryPath },
}

impl Advise for ContentError {
    fn advice(&self) -> Option<Advice> {
        Some(match self {
            Self::TooMuch { .. } => Advice::say("name some of the paths, or copy the files to the manager"),
            Self::Changed { .. } => Advice::say("try again"),
        })
    }
}

/// The content to read, for each edit that brings some.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    sources: &'a [Source],
    pieces: Vec<(&'a Change, &'a Content)>,
}

impl<'a> Contents<'a> {
    /// Selects the contents that `edits` bring and that `tree` does not have at the same path.
    ///
    /// # Errors
    /// Too much for one revision.
    pub(crate) fn new(tree: &Tree, edits: &'a [Change], sources: &'a [Source]) -> Result<Self, ContentError> {
        let known = |edit: &Change, content: &Content| matches!(tree.get(&edit.set, &edit.path), Some(Node::File { content: known, .. }) if known == *content);
        let piece = |edit: &'a Change| match edit.entry.as_ref().map(|entry| &entry.kind) {
            Some(Kind::File(content)) if !known(edit, content) => Some((edit, content)),
            _ => None,
        };
        let pieces: Vec<_> = edits.iter().filter_map(piece).collect();
        let bytes = pieces.iter().map(|(_, content)| content.size()).sum();
        if edits.len() > limits::KEEP.0 || bytes > limits::KEEP.1 as u64 {
            return Err(ContentError::TooMuch { count: edits.len(), bytes });
        }
        Ok(Self { sources, pieces })
    }

    /// Reads everything in frames of about a mebibyte and passes each to `send`, which returns false to stop. Blocks.
    ///
    /// # Errors
    /// A file differs from its scan.
    pub(crate) fn read(&self, send: &mut dyn FnMut(Bytes) -> bool) -> Result<(), ContentError> {
        let (mut batch, mut size) = (Vec::new(), 0);
        for (edit, content) in &self.pieces {
            let changed = || ContentError::Changed { set: edit.set.clone(), path: edit.path.clone() };
            let file = self.open(edit).ok_or_else(changed)?;
            let mut offset = 0;
            for chunk in content.chunks() {
                let bytes = at(&file, offset, *chunk).ok_or_else(changed)?;
                offset += u64::from(chunk.length);
                if size + bytes.len() > BATCH && !batch.is_empty() {
                    size = 0;
                    if !send(pack::chunk_frames(&std::mem::take(&mut batch), Codec::default())) {
                        return Ok(());
                    }
                }
                size += bytes.len();
                batch.push((*chunk, bytes));
            }
        }
        if !batch.is_empty() {
            send(pack::chunk_frames(&batch, Codec::default()));
        }
        Ok(())
    }

    fn open(&self, edit: &Change) -> Option<File> {
        let source = self.sources.iter().find(|source| source.rules.name == edit.set)?;
        let file = Root::open(&source.path).ok()?.file(&edit.path).ok()?;
        file.metadata().ok().filter(|stat| stat.is_file())?;
        Some(file)
    }
}

fn at(file: &File, offset: u64, chunk: Chunk) -> Option<Bytes> {
    let mut bytes = vec![0; chunk.length as usize];
    file.read_exact_at(&mut bytes, offset).ok()?;
    (Hash::of(&bytes) == chunk.hash).then(|| bytes.into())
}
