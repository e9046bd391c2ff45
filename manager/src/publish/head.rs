//! The head revision, as every task sees it.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc, time::Instant};

use bellwether_proto::{limits, revision::RevisionId};
use bellwether_store::{history::Stored, tree::Tree};
use bytes::Bytes;

/// The head revision. It is durable in the history before a `Head` of it exists (invariant 3).
#[derive(Debug)]
pub(crate) struct Head {
    /// The revision in the history.
    pub(crate) stored: Arc<Stored>,
    /// Its tree, with the known stats of this server.
    pub(crate) tree: Arc<Tree>,
    /// The beginning of the publish that made it (or the time when this process opened it).
    pub(crate) published: Instant,
    /// The whole pack if it is small: read once for all lanes.
    small: Option<Bytes>,
}

impl Head {
    /// Reads the pack if it is small. Blocks.
    pub(crate) fn new(stored: Arc<Stored>, tree: Arc<Tree>, published: Instant) -> Self {
        let small = (stored.size <= limits::SLICE as u64).then(|| read(&stored).ok()).flatten();
        Self { stored, tree, published, small }
    }

    pub(crate) fn id(&self) -> RevisionId {
        self.stored.header.id()
    }

    /// The bytes of `pack` if it is this head's and small.
    pub(crate) fn bytes_of(&self, pack: &Stored) -> Option<Bytes> {
        self.small.clone().filter(|_| pack.pack == self.stored.pack)
    }
}

fn read(stored: &Stored) -> io::Result<Bytes> {
    let mut bytes = vec![0; stored.size as usize];
    File::open(&stored.path)?.read_exact_at(&mut bytes, stored.at)?;
    Ok(bytes.into())
}
