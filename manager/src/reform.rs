//! Forming the group anew (W13, W14): what this manager's directories hold becomes the truth, in a new epoch and with a new
//! history, whatever has become of the old one. Keys and servers stay.
//!
//! The order makes it safe to repeat after a crash: the new base beside the history, then the record, then the new history
//! takes the old one's place, which is moved to the recovery points. Between the last two a history that is sound is led
//! from in the new epoch, and one that is not is refused as before.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use bellwether_proto::{
    Malformed,
    key::KeyPair,
    name::SetName,
    record::{Record, SignedRecord, Version},
    revision::{Epoch, Header, Number, SignedHeader},
};
use bellwether_store::{
    durable::{self, Name},
    history::{History, HistoryError},
    scan::Notice,
};

use crate::{
    form::{self, Base, FormError},
    group::{self, By},
    halt,
    shared::SaveError,
};

/// The new history, until it takes the old one's place.
const NEW: &str = "history.new";
const HISTORY: &str = "history";
const RECOVERY: &str = "recovery";

/// What a group is formed anew from. No manager's task runs on this state.
pub struct Reform<'a> {
    /// The newest record that is known; its manager is this server.
    pub held: &'a SignedRecord,
    /// This server's key.
    pub key: &'a KeyPair,
    /// Where each set is here.
    pub sets: Vec<(SetName, PathBuf)>,
    /// The state directory.
    pub state: &'a Path,
    /// The highest epoch and sequence that any server is known to have seen.
    pub seen: Number,
    /// The incarnation that signs.
    pub incarnation: u64,
    /// Who asked, and when.
    pub by: By,
}

/// A group that was formed anew.
#[derive(Debug)]
pub struct Reformed {
    /// The record in force.
    pub record: SignedRecord,
    /// The only revision of the new history.
    pub header: SignedHeader,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Where the history before is kept; none: there was none.
    pub kept: Option<PathBuf>,
    /// What was left out, and why.
    pub notices: Vec<Notice>,
}

/// Why the group was not formed anew.
#[derive(Debug, thiserror::Error)]
pub enum ReformError {
    /// The sets cannot be read, packed or kept.
    #[error(transparent)]
    Form(#[from] FormError),
    /// A record that cannot be signed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The record could not be put in force.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The state directory.
    #[error("cannot {action} {path}; run it again when that is mended")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReformError {
    let path = path.to_owned();
    move |source| ReformError::Io { action, path, source }
}

/// The record that forms the group anew: an epoch that nobody has seen, by two, as a takeover does, so that a handover that
/// this server does not know of never stands in its way.
pub fn next_record(held: &SignedRecord, seen: Epoch, by: &By) -> Record {
    let epoch = Epoch(held.record().version.epoch.max(seen).0 + 2);
    group::next(held, by, "group reform".to_owned(), |record| {
        // What `next` adds is one.
        record.version = Version { epoch, version: 0 };
    })
}

/// Forms the group anew; `save` puts the record in force, durably. Blocks. When it returns, the new history and the record
/// survive a power loss, and the old history is kept.
///
/// # Errors
/// Why not. Before the record was saved, nothing was changed; after it, it is to be run again.
pub fn reform(
    reform: Reform<'_>,
    save: impl FnOnce(&SignedRecord) -> Result<(), SaveError>,
) -> Result<Reformed, ReformError> {
    form::check_sets(&reform.sets)?;
    let record = next_record(reform.held, reform.seen.epoch, &reform.by);
    let state = fs::File::open(reform.state).map_err(failed("open", reform.state))?;
    // One that a crash left is not believed.
    durable::remove_all(state.as_fd(), NEW.as_bytes()).map_err(failed("remove", &reform.state.join(NEW)))?;
    let mut history = History::open(&reform.state.join(NEW)).map_err(FormError::from)?;
    let header = |root| header(&reform, &record, root);
    let Base { stored, tree, notices } = form::pack_base(&mut history, &record, &reform.sets, reform.state, header)?;
    let (entries, bytes) = form::measure(&tree);
    let record = SignedRecord::sign(record, reform.key)?;
    save(&record)?;
    let kept = take_place(reform.state, &state, record.record().version.epoch)?;
    form::save_index(reform.state, &tree);
    halt::clear(reform.state).map_err(failed("remove", reform.state))?;
    Ok(Reformed { record, header: stored.header.clone(), entries, bytes, kept, notices })
}

fn header(reform: &Reform<'_>, record: &Record, root: bellwether_proto::hash::Hash) -> SignedHeader {
    let header = Header {
        group: record.group,
        number: Number { epoch: record.version.epoch, sequence: reform.seen.sequence + 1 },
        parent: None,
        manager: record.manager().name.clone(),
        incarnation: reform.incarnation,
        time_ms: reform.by.time_ms,
        author: reform.by.author.clone(),
        message: "the group is formed anew".to_owned(),
        labels: std::collections::BTreeMap::new(),
        root,
    };
    SignedHeader::sign(header, reform.key)
}

/// Moves the old history to the recovery points and the new one to its place.
fn take_place(path: &Path, state: &fs::File, epoch: Epoch) -> Result<Option<PathBuf>, ReformError> {
    let old = path.join(HISTORY);
    let name = format!("before-epoch-{epoch}");
    let point = path.join(RECOVERY).join(&name);
    let kept = old.symlink_metadata().is_ok();
    if kept {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&point).map_err(failed("create", &point))?;
        let to = fs::File::open(&point).map_err(failed("open", &point))?;
        let (from, into) = (
            Name { directory: state.as_fd(), name: HISTORY.as_bytes() },
            Name { directory: to.as_fd(), name: HISTORY.as_bytes() },
        );
        durable::rename(from, into).map_err(failed("move to the recovery points", &old))?;
        durable::sync_directory(to.as_fd()).map_err(failed("sync", &point))?;
        let recovery = path.join(RECOVERY);
        let recovery = fs::File::open(&recovery).map_err(failed("open", &recovery))?;
        durable::sync_directory(recovery.as_fd()).map_err(failed("sync", path))?;
    }
    let (from, into) = (
        Name { directory: state.as_fd(), name: NEW.as_bytes() },
        Name { directory: state.as_fd(), name: HISTORY.as_bytes() },
    );
    durable::rename(from, into).map_err(failed("put in its place", &path.join(NEW)))?;
    durable::sync_directory(state.as_fd()).map_err(failed("sync", path))?;
    Ok(kept.then(|| point.join(HISTORY)))
}

/// The newest revision of the history in the state directory, as far as it can be read: its number, and what was left out
/// as damaged.
///
/// # Errors
/// It cannot be opened.
pub fn newest(state: &Path) -> Result<Option<SignedHeader>, HistoryError> {
    let path = state.join(HISTORY);
    if !path.exists() {
        return Ok(None);
    }
    Ok(History::open(&path)?.head().map(|stored| stored.header.clone()))
}
