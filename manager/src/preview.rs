//! The head's tree for a server that is about to join: a pack of all entries and no chunk, made for it and thrown away.

use std::{
    fs::File,
    io::{Read, Seek},
    sync::PoisonError,
};

use bellwether_proto::limits;
use bellwether_store::{
    pack::{self, Contents},
    tree::Tree,
};
use bytes::Bytes;

use crate::{publish::PublishError, shared::Shared};

/// A preview that is read piece by piece.
#[derive(Debug)]
pub struct Preview {
    file: File,
}

impl Preview {
    /// Writes it to a file that disappears with it. Blocks.
    pub(crate) fn new(shared: &Shared) -> Result<Self, PublishError> {
        let head = shared.head.borrow().clone();
        let rules: Vec<_> = head.tree.sets().iter().map(|set| set.rules.clone()).collect();
        let contents = Contents {
            header: &head.stored.header,
            base: true,
            // What the parent has is not packed: here every chunk.
            parent: &head.tree,
            rules: &rules,
            changes: &Tree::empty(rules.iter().cloned()).diff(&head.tree),
            sources: &shared.sources(),
            codec: shared.record.borrow().record().policy.codec,
            outlines: None,
        };
        let mut new = shared.history.read().unwrap_or_else(PoisonError::into_inner).create()?;
        pack::write(&contents, new.file())?;
        let reopened = new.file().try_clone().and_then(|mut file| file.rewind().map(|()| file));
        let path = shared.state.join("history");
        let file = reopened.map_err(|source| pack::PackError::Io { action: "read", path, source })?;
        Ok(Self { file })
    }

    /// The next piece, at most a slice; none at the end. Blocks for a read from the page cache.
    ///
    /// # Errors
    /// The system's.
    pub fn read_slice(&mut self) -> std::io::Result<Option<Bytes>> {
        let mut bytes = Vec::with_capacity(limits::SLICE);
        (&mut self.file).take(limits::SLICE as u64).read_to_end(&mut bytes)?;
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }
}
