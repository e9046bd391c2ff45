//! A history as its directory holds it, for people. Nothing is created, removed or opened for writing, so the agent that
//! owns the history may go on meanwhile.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{hash::Hash, revision::RevisionId};

use super::{Found, HistoryError, LeftOut, Stored, disk, found, reading};

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

/// A pack that has not arrived whole, or an append that was interrupted or is under way.
#[derive(Debug)]
pub struct Interrupted {
    /// The file.
    pub path: PathBuf,
    /// Where in it the pack begins.
    pub at: u64,
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
    let Found { index, left_out, torn, .. } = found(disk::packs(directory)?)?;
    let parts = disk::parts(directory)?.into_iter().map(|path| (path, 0));
    let interrupted = torn.into_iter().chain(parts).filter_map(|(path, at)| interrupted(path, at).transpose());
    Ok(Examined {
        packs: index.all().cloned().collect(),
        head: index.head().map(|stored| stored.header.id()),
        left_out,
        interrupted: interrupted.collect::<Result<_, _>>()?,
    })
}

fn interrupted(path: PathBuf, at: u64) -> Result<Option<Interrupted>, HistoryError> {
    match reading::partial(&path, at) {
        Ok(None) => Ok(Some(Interrupted { path, at, pack: None, whole: 0 })),
        Ok(Some(partial)) => Ok(Some(Interrupted { path, at, pack: Some(partial.pack), whole: partial.bytes })),
        // It has become a pack, or was removed, since it was listed.
        Err(HistoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
