//! The head's tree for servers that are about to join: a pack of all entries and no chunk, shared by those that ask at
//! about the same time, and then deleted.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bellwether_proto::{limits, revision::RevisionId};
use bellwether_store::{
    mutex::locked,
    pack::{self, Contents},
    tree::Tree,
};
use bytes::Bytes;

use crate::{
    publish::{head::Head, round::PublishError},
    shared::Shared,
};

/// A preview that is read piece by piece.
#[derive(Debug)]
pub struct Preview {
    file: Arc<File>,
    at: u64,
}

/// The newest preview, while it is read: it costs memory once, however many servers join at once.
#[derive(Debug, Default)]
pub(crate) struct Previews(Mutex<Option<(RevisionId, Weak<File>)>>);

impl Previews {
    /// The head's preview. Blocks, also while another one is written.
    pub(crate) fn of_head(&self, shared: &Shared) -> Result<Preview, PublishError> {
        let mut newest = locked(&self.0);
        let head = shared.head.borrow().clone();
        let written = newest.as_ref().filter(|(of, _)| *of == head.id()).and_then(|(_, file)| file.upgrade());
        let file = match written {
            Some(file) => file,
            None => Arc::new(Preview::write(shared, &head)?),
        };
        *newest = Some((head.id(), Arc::downgrade(&file)));
        Ok(Preview { file, at: 0 })
    }
}

impl Preview {
    /// Writes it to a file that disappears with its last reader.
    fn write(shared: &Shared, head: &Head) -> Result<File, PublishError> {
        let rules: Vec<_> = head.tree.sets().iter().map(|set| set.rules.clone()).collect();
        let contents = Contents {
            header: &head.stored.header,
            base: true,
            // The parent's chunks are not packed; with the head as parent, none is.
            parent: &head.tree,
            rules: &rules,
            changes: &Tree::empty(rules.iter().cloned()).diff(&head.tree),
            sources: &shared.sources(),
            history: None,
            codec: shared.record.borrow().record().policy.codec,
            outlines: None,
        };
        let mut new = shared.history.read().unwrap_or_else(PoisonError::into_inner).create();
        pack::write(&contents, &mut new)?;
        let path = shared.state.join("history");
        Ok(new.into_file().map_err(|source| pack::PackError::Io { action: "write in", path, source })?)
    }

    /// The next piece, at most a slice; none at the end. Blocks for a read from the page cache.
    ///
    /// # Errors
    /// The system fails.
    pub fn read_slice(&mut self) -> std::io::Result<Option<Bytes>> {
        let mut bytes = vec![0; limits::SLICE];
        let count = self.file.read_at(&mut bytes, self.at)?;
        bytes.truncate(count);
        self.at += count as u64;
        Ok((count > 0).then(|| bytes.into()))
    }
}
