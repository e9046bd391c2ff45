//! Lists the content of a history's directory for people. Nothing is created, removed or opened for writing, so the agent that
//! owns the history may go on meanwhile.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{hash::Hash, revision::RevisionId};

use super::{Found, HistoryError, LeftOut, Stored, disk, found, reading};

/// The content of the directory.
#[derive(Debug)]
pub struct Examined {
    /// The packs whose trees can be read, oldest first.
    pub packs: Vec<Arc<Stored>>,
    /// The newest revision.
    pub head: Option<RevisionId>,
    /// The parts of files that cannot be used.
    pub left_out: Vec<LeftOut>,
    /// The packs that are being written or were interrupted.
    pub interrupted: Vec<Interrupted>,
}

/// A pack that has not arrived whole, or an append that was interrupted or is under way.
#[derive(Debug)]
pub struct Interrupted {
    /// The file.
    pub path: PathBuf,
    /// The byte of the file at which the pack begins.
    pub at: u64,
    /// The pack's identity, if its head is complete.
    pub pack: Option<Hash>,
    /// The size of its whole frames.
    pub whole: u64,
}

/// Reads the history in `directory`: the frames' headers of every pack, and all bytes of each pack that is not whole.
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
        // The file has become a pack or was removed since the listing.
        Err(HistoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
