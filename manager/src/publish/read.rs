//! Reads one file of the head revision: from the live file if it still matches the head, otherwise from the history.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    sync::PoisonError,
};

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    entry::{Content, EntryPath},
    hash::Hash,
    limits,
    name::SetName,
    revision::Number,
    v1,
};
use bellwether_store::{
    beneath::Root,
    history::{HistoryError, Packs},
    tree::Node,
};
use bytes::Bytes;

use crate::{
    past::{FindError, Past, Revision, secrets},
    publish::head::Head,
    shared::Shared,
};

/// A file of the head revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead {
    /// Its bytes; none if only the hash was asked for.
    pub data: Bytes,
    /// The BLAKE3 of the file's bytes.
    pub hash: Hash,
    /// Its mode, the lower twelve bits.
    pub mode: u16,
    /// The revision.
    pub revision: Number,
}

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The request is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The head has no such file.
    #[error("revision {revision} has no file {set}:{path}")]
    NoFile {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// The head.
        revision: Number,
    },
    /// The file is too large for one answer.
    #[error("{set}:{path} has {size} bytes; at most {} are read this way", limits::PUT)]
    Large {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// Its bytes.
        size: u64,
    },
    /// The history cannot be read.
    #[error("cannot read {set}:{path} from the history")]
    History {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// The cause.
        source: HistoryError,
    },
    /// Neither the live file nor the history has its bytes.
    #[error(
        "{set}:{path} no longer matches revision {revision}, and the history lacks its bytes; publish, then read again"
    )]
    Lost {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// The head.
        revision: Number,
    },
    /// The file is secret.
    #[error("{set}:{path} is secret, and its content is not shown")]
    Secret {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
    },
    /// The file of an earlier revision is secret.
    #[error("{set}:{path} is secret, and the content of earlier revisions is not shown")]
    SecretBefore {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// The revision.
        revision: Number,
    },
    /// The history lacks its bytes.
    #[error("the history lacks the content that {set}:{path} had in revision {revision}")]
    Gone {
        /// The set.
        set: SetName,
        /// The file.
        path: EntryPath,
        /// The revision.
        revision: Number,
    },
    /// There is no such revision.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The manager stops.
    #[error("the manager is stopping")]
    Stopping,
}

impl Advise for ReadError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::NoFile { revision, .. } => Some(Advice::run("see", format!("bellwether tree --at {revision}"))),
            Self::Find(find) => find.advice(),
            Self::Secret { set, path } => {
                Some(Advice::run("to print it", format!("bellwether get --reveal {set}:{path}")))
            }
            Self::SecretBefore { set, path, revision } => Some(Advice::run(
                "to publish this content again",
                format!("bellwether rollback {revision} {set}:{path}"),
            )),
            Self::Malformed(_)
            | Self::Large { .. }
            | Self::History { .. }
            | Self::Lost { .. }
            | Self::Gone { .. }
            | Self::Stopping => None,
        }
    }
}

/// What a person asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Its content, unless the file is secret.
    Content,
    /// Its content, although the file may be secret.
    Reveal,
    /// Only its hash.
    Hash,
}

impl Wanted {
    pub(crate) fn of(request: &v1::ReadRequest) -> Self {
        match request {
            v1::ReadRequest { hash_only: true, .. } => Self::Hash,
            v1::ReadRequest { reveal: true, .. } => Self::Reveal,
            v1::ReadRequest { .. } => Self::Content,
        }
    }

    /// The answer, of `data`.
    fn read(self, data: Bytes, mode: u16, revision: Number) -> FileRead {
        let hash = Hash::of(&data);
        let data = if self == Self::Hash { Bytes::new() } else { data };
        FileRead { data, hash, mode, revision }
    }
}

/// Reads a file of the head. Blocks.
pub(crate) fn read(shared: &Shared, set: SetName, path: EntryPath, wanted: Wanted) -> Result<FileRead, ReadError> {
    if wanted == Wanted::Content && secrets(shared).covers(&set, &path) {
        return Err(ReadError::Secret { set, path });
    }
    let head = shared.head.borrow().clone();
    let revision = head.stored.header.number();
    let Some(Node::File { meta, content, .. }) = head.tree.get(&set, &path) else {
        return Err(ReadError::NoFile { set, path, revision });
    };
    let size = content.size();
    if size > limits::PUT as u64 {
        return Err(ReadError::Large { set, path, size });
    }
    let data = match live(shared, &head, &set, &path, &content) {
        Some(data) => data,
        None => stored(&shared.history.read().unwrap_or_else(PoisonError::into_inner).packs(), &content)
            .map_err(|source| ReadError::History { set: set.clone(), path: path.clone(), source })?
            .ok_or(ReadError::Lost { set, path, revision })?,
    };
    Ok(wanted.read(data, meta.mode, revision))
}

/// Reads a file of `revision`, of `past`. Blocks.
///
/// # Errors
/// No such file, or it cannot be read.
pub(crate) fn read_at(
    past: &Past,
    revision: &Revision,
    (set, path): (SetName, EntryPath),
    wanted: Wanted,
) -> Result<FileRead, ReadError> {
    let number = revision.header().number();
    if wanted != Wanted::Hash && past.secrets().covers(&set, &path) {
        return Err(ReadError::SecretBefore { set, path, revision: number });
    }
    let failed = |source| ReadError::History { set: set.clone(), path: path.clone(), source };
    let Some(Node::File { meta, content, .. }) = revision.tree().map_err(failed)?.get(&set, &path) else {
        return Err(ReadError::NoFile { set, path, revision: number });
    };
    let size = content.size();
    if size > limits::PUT as u64 {
        return Err(ReadError::Large { set, path, size });
    }
    match stored(past.packs(), &content).map_err(failed)? {
        Some(data) => Ok(wanted.read(data, meta.mode, number)),
        None => Err(ReadError::Gone { set, path, revision: number }),
    }
}

/// The live file's bytes, if they match `content`.
fn live(shared: &Shared, head: &Head, set: &SetName, path: &EntryPath, content: &Content) -> Option<Bytes> {
    let root = head.tree.set(set)?;
    let source = shared.sources().into_iter().find(|source| source.rules.name == root.rules.name)?;
    let file = Root::open(&source.path).ok()?.file(path).ok()?;
    file.metadata().ok().filter(|stat| stat.is_file() && stat.len() == content.size())?;
    let mut data = Vec::new();
    file.take(content.size()).read_to_end(&mut data).ok()?;
    let mut rest = data.as_slice();
    for chunk in content.chunks() {
        let (bytes, more) = rest.split_at_checked(chunk.length as usize)?;
        if Hash::of(bytes) != chunk.hash {
            return None;
        }
        rest = more;
    }
    Some(data.into())
}

/// The content's bytes from the history; none if it lacks some.
fn stored(packs: &Packs, content: &Content) -> Result<Option<Bytes>, HistoryError> {
    let wanted: HashSet<Hash> = content.chunks().iter().map(|chunk| chunk.hash).collect();
    let mut found = HashMap::new();
    packs.chunks(&wanted, &mut |chunk, bytes| {
        found.insert(chunk.hash, bytes);
    })?;
    let mut data = Vec::new();
    for chunk in content.chunks() {
        let Some(bytes) = found.get(&chunk.hash) else { return Ok(None) };
        data.extend_from_slice(bytes);
    }
    Ok(Some(data.into()))
}
