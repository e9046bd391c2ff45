//! Rebuilding the group (W13, W14): what this manager's directories hold becomes the truth, in a new epoch and with a new
//! history, whatever has become of the old one. Keys and servers stay.
//!
//! The order makes it one step, whenever it is interrupted: the new base beside the history, then the record, which decides;
//! then the halt ends, the old history is moved to the recovery points, and the new one takes its place. What is missing
//! after the record is done at the next start ([`finish`]), before this server leads; without the record nothing has
//! changed, and what was packed is removed.

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

/// What a group is rebuilt from. No manager's task runs on this state.
pub struct Rebuild<'a> {
    /// The newest record that is known; its manager is this server, or is refused.
    pub held: &'a SignedRecord,
    /// The records that made each manager, oldest first.
    pub chain: &'a [SignedRecord],
    /// The keys that are refused from now on; none: this server is the manager.
    pub refused: &'a [PublicKey],
    /// This server's key.
    pub key: &'a KeyPair,
    /// Where each set is here.
    pub sets: Vec<(SetName, PathBuf)>,
    /// The state directory.
    pub state: &'a Path,
    /// The highest epoch and sequence that any server is known to have seen.
    pub seen: Number,
    /// The revisions that are lost, as [`lost::line`] names them.
    pub lost: &'a [String],
    /// The incarnation that signs.
    pub incarnation: u64,
    /// Who asked, and when.
    pub by: By,
}

/// A group that was rebuilt.
#[derive(Debug)]
pub struct Rebuilt {
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

/// Why the group was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The sets cannot be read, packed or kept.
    #[error(transparent)]
    Form(#[from] FormError),
    /// A rule says no.
    #[error(transparent)]
    Role(#[from] RoleRefused),
    /// The keys are not refused.
    #[error(transparent)]
    Refusal(#[from] RefusalError),
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

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RebuildError {
    let path = path.to_owned();
    move |source| RebuildError::Io { action, path, source }
}

/// The epoch that counts of one that another server only tells, where this server's record is of epoch `held`. It uses up one
/// step of epochs at most. It is not ignored: an epoch in which another server has led must not be used again.
pub fn told(held: Epoch, told: Epoch) -> Epoch {
    told.min(Epoch(held.0.saturating_add(limits::EPOCH_STEP - 2)))
}

/// The record that rebuilds the group: an epoch that nobody has seen, by two, as a takeover does, so that a handover that
/// this server does not know of never stands in its way.
///
/// # Errors
/// No such epoch is left.
pub fn next_record(held: &SignedRecord, seen: Epoch, by: &By) -> Result<Record, RoleRefused> {
    let epoch = roles::raised(held, seen, roles::TAKEOVER)?;
    Ok(edits::next(held, by, roles::REBUILD.to_owned(), |record| {
        // What `next` adds is one.
        record.version = Version { epoch, version: 0 };
    }))
}

/// Rebuilds the group; `save` puts the record in force, durably. Blocks. When it returns, the new history and the record
/// survive a power loss, and the old history is kept.
///
/// # Errors
/// Why not. Before the record was saved, nothing was changed; after it, the rest is [`finish`]'s.
pub fn rebuild(
    rebuild: Rebuild<'_>,
    save: impl FnOnce(&SignedRecord) -> Result<(), SaveError>,
) -> Result<Rebuilt, RebuildError> {
    form::check_sets(&rebuild.sets)?;
    // Whatever a crash left: from here on the state is whole.
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

/// What the old history's head holds: what cannot be read now stays so. Nothing where that history is damaged or gone.
fn last_tree(state: &Path) -> Tree {
    let head = || {
        let history = History::open(&state.join(HISTORY)).ok()?;
        history.tree(history.head()?.header.id()).ok()
    };
    head().unwrap_or_default()
}

/// The only revision of the history of a group that is rebuilt by `record`: after everything that any server is known to
/// have seen (by its `number`), and a descendant of nothing.
pub fn first_header(record: &Record, number: Number, incarnation: u64, by: &By, root: Hash) -> Header {
    Header {
        group: record.group,
        number,
        parent: None,
        manager: record.manager().name.clone(),
        incarnation,
        time_ms: by.time_ms,
        author: by.author.clone(),
        message: "the group is rebuilt".to_owned(),
        labels: std::collections::BTreeMap::new(),
        root,
    }
}

/// Does what a crash left undone after the record was saved, and removes what it left before; `record` is the one in force.
/// Whether the group was rebuilt by this. Blocks; nothing else uses the state meanwhile. Safe to repeat.
///
/// # Errors
/// It cannot be done yet: this server must not lead, for it has no history or the old one's.
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

/// Whether `record` is the one that was made with the new history's only revision.
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

/// The record is in force: this manager stands still no more, and leads from the new history.
fn take_force(path: &Path, state: &fs::File, epoch: Epoch) -> Result<Option<PathBuf>, RebuildError> {
    // First: the new history's place says that all of it is done.
    super::halt::clear(path).map_err(failed("remove the halt from", path))?;
    durable::sync_directory(state.as_fd()).map_err(failed("sync", path))?;
    hit("rebuild.cleared");
    take_place(path, state, epoch)
}

/// Moves the history to the recovery point of that name; none: there is no history. Durable when it returns.
///
/// # Errors
/// The system's.
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
        durable::rename(from, into).map_err(failed("move to the recovery points", &old))?;
        durable::sync_directory(to.as_fd()).map_err(failed("sync", &point))?;
        let recovery = path.join(RECOVERY);
        let recovery = fs::File::open(&recovery).map_err(failed("open", &recovery))?;
        durable::sync_directory(recovery.as_fd()).map_err(failed("sync", path))?;
    }
    Ok(kept.then(|| point.join(HISTORY)))
}

/// Moves the old history to the recovery points and the new one to its place.
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

/// What the history here has, before the group is rebuilt.
#[derive(Debug, Default)]
pub struct Kept {
    /// The newest revision.
    pub newest: Option<SignedHeader>,
    known: Known,
}

impl Kept {
    /// What a history with these revisions has.
    pub fn of(headers: impl Iterator<Item = SignedHeader>) -> Self {
        let headers: Vec<_> = headers.collect();
        let newest = headers.iter().max_by_key(|header| header.number()).cloned();
        Self { newest, known: Known::of(headers) }
    }

    /// Whether that revision is not here; where nothing is left, none is.
    pub fn lacks(&self, header: &SignedHeader) -> bool {
        self.newest.is_none() || self.known.lacks(header)
    }
}

/// What the history in the state directory has, as far as it can be read; what is damaged is left out.
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
