//! A history as its directory holds it, for people. Nothing is created, removed or opened for writing, so the agent that
//! owns the history may go on meanwhile.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{hash::Hash, revision::RevisionId};

use super::{HistoryError, LeftOut, Stored, disk, indexed, reading};

/// What the directory holds.
#[derive(Debug)]
pub struct Examined {
    /// The packs whose trees can be had, oldest first.
    pub packs: Vec<Arc<Stored>>,
    /// The newest revision.
    pub head: Option<RevisionId>,
    /// What cannot be used.
    pub left_out: Vec<LeftOut>,
    /// What is being written, or was interrupted.
    pub interrupted: Vec<Interrupted>,
}

/// A pack that has not arrived whole.
#[derive(Debug)]
pub struct Interrupted {
    /// The file.
    pub path: PathBuf,
    /// The pack's identity, once its head is there.
    pub pack: Option<Hash>,
    /// Its bytes in whole frames.
    pub whole: u64,
}

/// Looks at the history in `directory`: at the frames' headers of every pack, at all bytes of what has not arrived whole.
///
/// # Errors
/// The system's.
pub fn examine(directory: &Path) -> Result<Examined, HistoryError> {
    let (index, left_out) = indexed(disk::packs(directory)?, reading::whole)?;
    let interrupted = disk::parts(directory)?.into_iter().filter_map(|path| interrupted(path).transpose());
    Ok(Examined {
        packs: index.all().cloned().collect(),
        head: index.head().map(|stored| stored.header.id()),
        left_out,
        interrupted: interrupted.collect::<Result<_, _>>()?,
    })
}

fn interrupted(path: PathBuf) -> Result<Option<Interrupted>, HistoryError> {
    match reading::partial(&path) {
        Ok(None) => Ok(Some(Interrupted { path, pack: None, whole: 0 })),
        Ok(Some(partial)) => Ok(Some(Interrupted { path, pack: Some(partial.pack), whole: partial.bytes })),
        // It has become a pack, or was removed, since it was listed.
        Err(HistoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
