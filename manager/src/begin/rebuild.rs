//! Rebuilding the group (W13, W14): the content of this manager's directories becomes the truth, in a new epoch and
//! with a new history, whatever the state of the old one. Keys and servers stay.
//!
//! The order makes it one step, even if it is interrupted. The new base is packed beside the history, and then the
//! record is saved, which decides. Then the halt ends, the old history is moved to the kept copies, and the new one
//! takes its place. After the record, the next start completes the rest ([`finish`]) before this server leads. Without
//! the record nothing has changed, and the new base is removed.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use bellwether_group::{
    edits::{self, By},
    key_refusal::{self, RefusalError},
    lost::{self, Known},
    roles::{self, RoleRefused},
};
use bellwether_proto::{
    Malformed,
    hash::Hash,
    key::{KeyPair, PublicKey},
    limits,
    name::SetName,
    record::{Record, SignedRecord, Version},
    revision::{Epoch, Header, Number, SignedHeader},
};
use bellwether_store::{
    durable::{self, Name},
    history::{History, HistoryError},
    scan::Notice,
    state::record::SaveError,
    tree::Tree,
};

use crate::{
    begin::form::{self, Base, FormError},
    failpoints::hit,
};

/// The new history, until it takes the old one's place.
const NEW: &str = "history.new";
const HISTORY: &str = "history";
const RECOVERY: &str = "recovery";

/// The input for a rebuild. No manager's task runs on this state.
pub struct Rebuild<'a> {
    /// The newest known record; its manager is this server, or is refused.
    pub held: &'a SignedRecord,
    /// The records that made each manager, oldest first.
    pub chain: &'a [SignedRecord],
    /// The keys that are refused from now on; if there are none, this server is the manager.
    pub refused: &'a [PublicKey],
    /// This server's key.
    pub key: &'a KeyPair,
    /// The path of each set on this server.
    pub sets: Vec<(SetName, PathBuf)>,
    /// The state directory.
    pub state: &'a Path,
    /// The highest epoch and sequence that any server is known to have seen.
    pub seen: Number,
    /// The lost revisions, as [`lost::line`] names them.
    pub lost: &'a [String],
    /// The incarnation that signs.
    pub incarnation: u64,
    /// The author and the time.
    pub by: By,
}

/// A rebuilt group.
#[derive(Debug)]
pub struct Rebuilt {
    /// The record in force.
    pub record: SignedRecord,
    /// The only revision of the new history.
    pub header: SignedHeader,
    /// The number of its entries.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// The path of the old history; none if there was none.
    pub kept: Option<PathBuf>,
    /// Left-out entries, with the reason.
    pub notices: Vec<Notice>,
}

/// The group was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The sets cannot be read, packed or kept.
    #[error(transparent)]
    Form(#[from] FormError),
    /// A rule refuses.
    #[error(transparent)]
    Role(#[from] RoleRefused),
    /// The keys cannot be refused.
    #[error(transparent)]
    Refusal(#[from] RefusalError),
    /// The record cannot be signed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The record could not be put in force.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The state directory fails.
    #[error("cannot {action} {path}; fix that, then run the command again")]
    Io {
        /// The action.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RebuildError {
    let path = path.to_owned();
    move |source| RebuildError::Io { action, path, source }
}

/// The epoch to assume for one that another server only reports, at a record of epoch `held`. It uses up at most one
/// step of epochs. It is not ignored: an epoch in which another server has led must not be used again.
pub fn told(held: Epoch, told: Epoch) -> Epoch {
    told.min(Epoch(held.0.saturating_add(limits::EPOCH_STEP - 2)))
}

/// The record that rebuilds the group, in an unseen epoch. It is raised by two, so an unknown handover never blocks it.
///
/// # Errors
/// No such epoch is left.
pub fn next_record(held: &SignedRecord, seen: Epoch, by: &By) -> Result<Record, RoleRefused> {
    let epoch = roles::raised(held, seen, roles::TAKEOVER)?;
    Ok(edits::next(held, by, roles::REBUILD.to_owned(), |record| {
        // `next` adds one.
        record.version = Version { epoch, version: 0 };
    }))
}

/// Rebuilds the group; `save` puts the record in force, durably. Blocks. When it returns, the new history and the
/// record survive a power loss, and the old history is kept.
///
/// # Errors
/// Before the record was saved, nothing was changed; after that, [`finish`] does the rest.
pub fn rebuild(
    rebuild: Rebuild<'_>,
    save: impl FnOnce(&SignedRecord) -> Result<(), SaveError>,
) -> Result<Rebuilt, RebuildError> {
    form::check_sets(&rebuild.sets)?;
    // Completes the work that a crash left.
    finish(rebuild.state, rebuild.held)?;
    let Rebuild { held, chain, refused, by, .. } = &rebuild;
    let mut record = match refused.is_empty() {
        true => next_record(held, rebuild.seen.epoch, by)?,
        false => key_refusal::next_record(held, chain, refused, &rebuild.key.public(), rebuild.seen.epoch, by)?,
    };
    lost::enter(&mut record, rebuild.lost, &rebuild.by);
    let state = fs::File::open(rebuild.state).map_err(failed("open", rebuild.state))?;
    hit("rebuild.begun");
    let mut history = History::open(&rebuild.state.join(NEW)).map_err(FormError::from)?;
    let number = rebuild.seen.next(record.version.epoch)?;
    let header = |root| {
        let header = first_header(&record, number, rebuild.incarnation, &rebuild.by, root);
        SignedHeader::sign(header, rebuild.key)
    };
    let last = last_tree(rebuild.state);
    let from = form::From { sets: &rebuild.sets, last: &last, state: rebuild.state };
    let Base { stored, tree, notices } = form::pack_base(&mut history, &record, from, header)?;
    hit("rebuild.packed");
    let (entries, bytes) = form::measure(&tree);
    let record = SignedRecord::sign(record, rebuild.key)?;
    save(&record)?;
    hit("rebuild.saved");
    let kept = take_force(rebuild.state, &state, record.record().version.epoch)?;
    form::save_index(rebuild.state, &tree);
    Ok(Rebuilt { record, header: stored.header.clone(), entries, bytes, kept, notices })
}

/// The tree of the old history's head, which replaces unreadable entries. Empty if that history is damaged or gone.
fn last_tree(state: &Path) -> Tree {
    let head = || {
        let history = History::open(&state.join(HISTORY)).ok()?;
        history.tree(history.head()?.header.id()).ok()
    };
    head().unwrap_or_default()
}

/// The only revision of the history of a group that `record` rebuilds. Its `number` is higher than any that a server is
/// known to have seen, and it has no parent.
pub fn first_header(record: &Record, number: Number, incarnation: u64, by: &By, root: Hash) -> Header {
    Header {
        group: record.group,
        number,
        parent: None,
        manager: record.manager().name.clone(),
        incarnation,
        time_ms: by.time_ms,
        author: format!("{} at {}", by.author, record.manager().name),
        message: "the group is rebuilt".to_owned(),
        labels: std::collections::BTreeMap::new(),
        root,
    }
}

/// Completes a rebuild that a crash interrupted after `record`, the one in force, was saved, or removes its rest.
/// Returns whether this rebuilt the group. Blocks; nothing else uses the state meanwhile. Safe to repeat.
///
/// # Errors
/// It cannot be done yet. This server must not lead: it has no history or the old one.
pub fn finish(path: &Path, record: &SignedRecord) -> Result<bool, RebuildError> {
    let new = path.join(NEW);
    if new.symlink_metadata().is_err() {
        return Ok(false);
    }
    let state = fs::File::open(path).map_err(failed("open", path))?;
    let history = History::open(&new).map_err(FormError::from)?;
    let decided = history.head().is_some_and(|head| is_decided(&head.header, record));
    drop(history);
    if !decided {
        remove_new(path, &state)?;
        return Ok(false);
    }
    take_force(path, &state, record.record().version.epoch)?;
    tracing::warn!(record = %record.record().version, "rebuilding the group was interrupted, and is completed");
    Ok(true)
}

/// Whether `record` was made with the new history's only revision.
fn is_decided(header: &SignedHeader, record: &SignedRecord) -> bool {
    let record = record.record();
    let made = |edit: &bellwether_proto::record::Edit| {
        edit.what.starts_with(roles::REBUILD) && edit.time_ms == header.header().time_ms
    };
    header.number().epoch == record.version.epoch
        && header.signed_by(&record.manager().key)
        && record.log.iter().any(made)
}

fn remove_new(path: &Path, state: &fs::File) -> Result<(), RebuildError> {
    durable::remove_all(state.as_fd(), NEW.as_bytes()).map_err(failed("remove", &path.join(NEW)))
}

/// Completes the rebuild after the record is in force: ends the halt, and puts the new history in place.
fn take_force(path: &Path, state: &fs::File, epoch: Epoch) -> Result<Option<PathBuf>, RebuildError> {
    // This comes first: the new history's place marks the end of all steps.
    super::halt::clear(path).map_err(failed("remove the halt from", path))?;
    durable::sync_directory(state.as_fd()).map_err(failed("sync", path))?;
    hit("rebuild.cleared");
    take_place(path, state, epoch)
}

/// Moves the history to the kept copy of that name; none if there is no history. Durable when it returns.
///
/// # Errors
/// The system fails.
pub fn keep_history(path: &Path, name: &str) -> Result<Option<PathBuf>, RebuildError> {
    let state = fs::File::open(path).map_err(failed("open", path))?;
    let kept = move_history(path, &state, name)?;
    durable::sync_directory(state.as_fd()).map_err(failed("sync", path))?;
    Ok(kept)
}

fn move_history(path: &Path, state: &fs::File, name: &str) -> Result<Option<PathBuf>, RebuildError> {
    let old = path.join(HISTORY);
    let point = path.join(RECOVERY).join(name);
    let kept = old.symlink_metadata().is_ok();
    if kept {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&point).map_err(failed("create", &point))?;
        let to = fs::File::open(&point).map_err(failed("open", &point))?;
        let (from, into) = (
            Name { directory: state.as_fd(), name: HISTORY.as_bytes() },
            Name { directory: to.as_fd(), name: HISTORY.as_bytes() },
        );
        durable::rename(from, into).map_err(failed("move to the kept copies", &old))?;
        durable::sync_directory(to.as_fd()).map_err(failed("sync", &point))?;
        let recovery = path.join(RECOVERY);
        let recovery = fs::File::open(&recovery).map_err(failed("open", &recovery))?;
        durable::sync_directory(recovery.as_fd()).map_err(failed("sync", path))?;
    }
    Ok(kept.then(|| point.join(HISTORY)))
}

/// Moves the old history to the kept copies and the new one to its place.
fn take_place(path: &Path, state: &fs::File, epoch: Epoch) -> Result<Option<PathBuf>, RebuildError> {
    let kept = move_history(path, state, &format!("before-epoch-{epoch}"))?;
    if kept.is_some() {
        hit("rebuild.kept");
    }
    let (from, into) = (
        Name { directory: state.as_fd(), name: NEW.as_bytes() },
        Name { directory: state.as_fd(), name: HISTORY.as_bytes() },
    );
    durable::rename(from, into).map_err(failed("put in its place", &path.join(NEW)))?;
    durable::sync_directory(state.as_fd()).map_err(failed("sync", path))?;
    hit("rebuild.placed");
    Ok(kept)
}

/// The content of the history here, before a rebuild.
#[derive(Debug, Default)]
pub struct Kept {
    /// The newest revision.
    pub newest: Option<SignedHeader>,
    known: Known,
}

impl Kept {
    /// For a history with these revisions.
    pub fn of(headers: impl Iterator<Item = SignedHeader>) -> Self {
        let headers: Vec<_> = headers.collect();
        let newest = headers.iter().max_by_key(|header| header.number()).cloned();
        Self { newest, known: Known::of(headers) }
    }

    /// Whether that revision is missing here; true if nothing is left.
    pub fn lacks(&self, header: &SignedHeader) -> bool {
        self.newest.is_none() || self.known.lacks(header)
    }
}

/// The readable part of the history in the state directory.
///
/// # Errors
/// It cannot be opened.
pub fn kept(state: &Path) -> Result<Kept, HistoryError> {
    let path = state.join(HISTORY);
    if !path.exists() {
        return Ok(Kept::default());
    }
    Ok(Kept::of(History::open(&path)?.all().map(|stored| stored.header.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u64, incarnation: u64) -> SignedHeader {
        let header = Header {
            group: [7; 16].into(),
            number: Number { epoch: Epoch(1), sequence },
            parent: None,
            manager: "m".parse().unwrap(),
            incarnation,
            time_ms: 0,
            author: String::new(),
            message: String::new(),
            labels: Default::default(),
            root: Hash::of(b"root"),
        };
        SignedHeader::sign(header, &KeyPair::generate())
    }

    #[test]
    fn w14_a_revision_is_lost_though_another_one_of_its_number_was_made_here_since() {
        let here: Vec<SignedHeader> = (3..=6).map(|sequence| header(sequence, 2)).collect();
        let kept = Kept::of(here.iter().cloned());
        assert_eq!(kept.newest.as_ref(), here.last());
        assert!(!here.iter().any(|header| kept.lacks(header)));
        assert!(kept.lacks(&header(5, 1)) && kept.lacks(&header(7, 1)));
        assert!(!kept.lacks(&header(2, 1)), "retention");
        assert!(Kept::default().lacks(&header(1, 1)), "nothing is left here");
    }
}
