//! Applying a revision on a member: stage, verify, journalled switch, read back; recovery after a crash.

//!
//! [`Plan`] looks at the disk and stages, [`Staged`] switches, [`Switched`] commits or takes back; each is dropped safely.
//! What is on the disk at any moment is finished by [`recover()`].

use std::{path::PathBuf, sync::Arc};

use bellwether_proto::{
    entry::{Chunk, EntryPath, Owner},
    hash::Hash,
    key::PublicKey,
    name::SetName,
    revision::RevisionId,
};

use self::{
    journal::Phase,
    work::{Unswitched, Ways, Work},
};
use crate::{
    failpoint,
    log::Log,
    scan::{ScanError, Source},
    secret::{SecretContents, SecretPaths},
    tree::{Change, Tree},
};

mod carry;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod journal;
mod keep;
mod local;
mod look;
mod obstacle;
mod place;
mod plan;
mod probe;
mod recover;
mod secret;
mod space;
mod sparse;
mod stage;
mod switch;
mod verify;
pub mod view;
mod work;

pub use keep::Manifest;
pub use obstacle::Obstacle;
pub use place::Idle;

/// Where an apply happens: the sets on this server, the agent's state directory (kept copies) and the log (journal).
#[derive(Debug, Clone)]
pub struct Site {
    /// The sets under the rules of the revision to be applied. For a recovery, all places where a set may have been switched.
    pub sources: Vec<Source>,
    /// The state directory.
    pub state: PathBuf,
    /// The log of the history.
    pub log: Arc<Log>,
    /// Staging places from one apply to the next.
    pub idle: Arc<Idle>,
    /// This server's key, which tells its staging directories from those of other agents on this machine.
    pub server: PublicKey,
}

/// What to apply.
#[derive(Debug)]
pub struct Job<'a> {
    /// The revision that the sets hold afterwards.
    pub revision: RevisionId,
    /// Its number, for the names of kept copies.
    pub label: String,
    /// The sets as last scanned here, drift included.
    pub live: &'a Tree,
    /// What they should hold by the revision they are at; an empty tree when they are at none. What differs from it and
    /// is replaced is saved as a kept copy (invariant 4).
    pub expected: &'a Tree,
    /// The tree of the revision to apply.
    pub target: &'a Tree,
    /// What to bring to `target`: for an update the revision's changes; for a sync `live.diff(target)`.
    pub changes: Vec<Change>,
}

/// Refused before the switch: nothing live was touched.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// An owner is missing on this server.
    #[error("{set}:{path} belongs to {kind} '{name}', which this server does not have")]
    Owner {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// user or group.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The whole owner.
        owner: Owner,
    },
    /// Not enough space (W4).
    #[error(
        "{mount} has {free} bytes free; {needed} are needed (staged {staged}, replaced {replaced}, history {history})"
    )]
    Space {
        /// The file system's place.
        mount: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
        /// Of these for staged files.
        staged: u64,
        /// Of these for what is replaced.
        replaced: u64,
        /// Of these for the history.
        history: u64,
        /// Files, links and directories that are made.
        entries: u64,
    },
    /// Not enough inodes (W4).
    #[error("{mount} has room for {free} more files; {needed} are needed")]
    Entries {
        /// The file system's place.
        mount: PathBuf,
        /// Files that may be made there.
        free: u64,
        /// Files needed.
        needed: u64,
    },
    /// A mount point, a symbolic link or another device inside a set: held, not followed.
    #[error("{set}:{path} is {what} on this server; it is not followed")]
    Held {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// "a mount point", "a symbolic link", …
        what: String,
        /// The set's root, where the disk here is the reason and not the revision.
        here: Option<PathBuf>,
    },
    /// chattr(1) protects it.
    #[error("{set}:{path} cannot be replaced: {at} is {flag} on this server (chattr +{letter})")]
    Flag {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// The one that has the flag: the entry, its directory, or one that it holds.
        at: PathBuf,
        /// "immutable" or "append-only".
        flag: &'static str,
        /// The flag's letter.
        letter: char,
    },
    /// The file system here cannot hold an attribute that matters.
    #[error(
        "{set}:{path} has {what}, which cannot be held there: {why}; take that away at the manager, or give the set a file \
         system that holds it"
    )]
    Attribute {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
        /// "the ACL", "the owner a:b", "the mode 0640" …
        what: String,
        /// The system's words, or what is shown instead.
        why: String,
    },
    /// Chunks that neither the pack nor this server's disk had.
    #[error("{0} chunks are missing")]
    Missing(usize),
    /// The system's error while staging.
    #[error("cannot {action} {path}")]
    Io {
        /// stage, create …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Refused {
    /// What stands in the way here and may pass; none where the revision itself is what this server cannot take.
    pub fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self::Owner { owner, .. } => Some(Obstacle::Account { owner: owner.clone() }),
            Self::Space { mount, needed, entries, .. } => {
                Some(Obstacle::Space { at: mount.clone(), bytes: *needed, entries: *entries })
            }
            Self::Entries { mount, needed, .. } => {
                Some(Obstacle::Space { at: mount.clone(), bytes: 0, entries: *needed })
            }
            Self::Held { here: Some(root), path, .. } => {
                Some(Obstacle::InTheWay { root: root.clone(), path: path.clone() })
            }
            Self::Flag { at, .. } => Some(Obstacle::Flag { at: at.clone() }),
            Self::Io { path, source, .. } => Some(Obstacle::of_io(path, source)),
            Self::Held { here: None, .. } | Self::Attribute { .. } | Self::Missing(_) => None,
        }
    }
}

/// The switch, or its way back, failed: the server is in error (W8). What is on disk is named.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// An operation failed and everything was taken back: the sets hold what they held.
    #[error("{what}; everything was taken back")]
    TakenBack {
        /// Which operation, and why.
        what: String,
    },
    /// Taking back failed too; the journal is kept, and recovery goes on at the next start or sync.
    #[error("{what}; taking it back failed too: {back}")]
    Stuck {
        /// Which operation, and why.
        what: String,
        /// Why it could not be taken back.
        back: String,
    },
}

/// The way to `target`, with files being staged. Dropped, it removes what was staged.
#[derive(Debug)]
pub struct Plan(Unswitched);

impl Plan {
    /// Plans the job, checks owners, space and holds, makes the staging directories and stages what is here already: links,
    /// directories, what the files hold that are to be replaced.
    ///
    /// # Errors
    /// Refused; nothing live was touched.
    pub fn new(site: &Site, job: &Job<'_>) -> Result<Self, Refused> {
        Self::with(site, job, Ways::default())
    }

    fn with(site: &Site, job: &Job<'_>, ways: Ways) -> Result<Self, Refused> {
        recover::finish_done(site)?;
        let mut plan = Self(Unswitched(Some(Work::plan(site, job, ways)?)));
        failpoint::check("apply.begun").map_err(|source| plan.work().io(source))?;
        local::fill_in_place(plan.work(), job.live)?;
        Ok(plan)
    }

    fn work(&mut self) -> &mut Work {
        self.0.work()
    }

    /// Takes what is still needed from any file of `live`, the sets as last scanned: worth its walk where little else brings
    /// it (a file that was renamed, a first sync over an old copy).
    ///
    /// # Errors
    /// As [`Self::supply`].
    pub fn look_elsewhere(&mut self, live: &Tree) -> Result<(), Refused> {
        local::fill_from_all(self.work(), live)
    }

    /// The chunks that are still needed.
    pub fn missing(&self) -> Vec<Chunk> {
        self.0.0.as_ref().map(|work| work.staging.missing()).unwrap_or_default()
    }

    /// Takes a chunk (its hash was computed from its bytes) and writes it wherever it is needed; one that is not needed
    /// is ignored.
    ///
    /// # Errors
    /// The disk's.
    pub fn supply(&mut self, hash: &Hash, bytes: &[u8]) -> Result<(), Refused> {
        self.work().supply(hash, bytes)
    }

    /// Files staged whole so far, and all that are to be staged.
    pub fn progress(&self) -> (u64, u64) {
        self.0.0.as_ref().map(|work| work.staging.progress()).unwrap_or_default()
    }

    /// Closes staging: everything is there and verified. It is not durable before [`Staged::begin`].
    ///
    /// # Errors
    /// Refused; staging is removed, nothing live was touched.
    pub fn staged(mut self) -> Result<Staged, Refused> {
        let work = self.work();
        let missing = work.staging.missing().len();
        if missing > 0 {
            return Err(Refused::Missing(missing));
        }
        failpoint::check("apply.unsynced").map_err(|source| work.io(source))?;
        let finished = work.staging.finish(&work.areas);
        finished.map_err(|failure| work.refused(failure))?;
        failpoint::check("apply.staged").map_err(|source| work.io(source))?;
        Ok(Staged(self.0))
    }
}

/// Everything staged: validation has its place here. Dropped, it removes what was staged.
#[derive(Debug)]
pub struct Staged(Unswitched);

impl Staged {
    /// The sets that the switch changes something in.
    pub fn sets(&self) -> Vec<SetName> {
        let work = self.0.0.as_ref();
        work.map(|work| work.journal.sets.iter().map(|set| set.name.clone()).collect()).unwrap_or_default()
    }

    /// Writes what [`view::enter`] needs to show the new tree at the sets' own paths; the file's path.
    ///
    /// # Errors
    /// It cannot be shown before the switch: a set is not there yet, or too much changes.
    pub fn view(&self) -> std::io::Result<PathBuf> {
        self.0.0.as_ref().map_or_else(|| Err(std::io::ErrorKind::NotFound.into()), view::write)
    }

    /// Adds the content of secret files that is staged.
    pub fn secrets(&self, paths: &SecretPaths, contents: &mut SecretContents) {
        if let Some(work) = &self.0.0 {
            secret::read(work, paths, contents);
        }
    }

    /// Looks once more at what is to be replaced, and makes what is staged and the journal survive a power loss, with the `pack`
    /// that this switches to, where the log is to have it.
    ///
    /// # Errors
    /// Refused; staging is removed, nothing live was touched.
    pub fn begin(mut self, pack: Option<&[u8]>) -> Result<Begun, Refused> {
        let pack_at = self.0.work().begin(pack)?;
        Ok(Begun { work: self.0.take(), pack_at })
    }

    /// Begins and switches.
    #[cfg(test)]
    fn switch(self) -> Result<Switched, Failed> {
        let refused = |error| Failed::TakenBack { what: format!("cannot begin: {}", work::with_source(&error)) };
        self.begin(None).map_err(refused)?.switch()
    }
}

/// A switch whose journal is on the disk. Dropped, it leaves it there, as a crash would.
#[derive(Debug)]
pub struct Begun {
    work: Work,
    pack_at: Option<u64>,
}

impl Begun {
    /// Where in the log the pack is.
    pub fn pack_at(&self) -> Option<u64> {
        self.pack_at
    }

    /// Switches: the exchanges, fsync, and the read-back of every changed entry from the disk.
    ///
    /// # Errors
    /// Failed; see there for what the sets hold.
    pub fn switch(self) -> Result<Switched, Failed> {
        let mut work = self.work;
        match work.carry_out() {
            Ok((live, kept)) => Ok(Switched { live, kept, work }),
            Err(what) => match work.take_back() {
                Ok(()) => Err(Failed::TakenBack { what }),
                Err(back) => Err(Failed::Stuck { what, back }),
            },
        }
    }
}

/// Switched and read back, not yet committed: reload and check have their place here. Dropped, it leaves the journal, as
/// a crash would.
#[derive(Debug)]
pub struct Switched {
    /// The sets as they are now, read back.
    pub live: Tree,
    /// Kept copies that will be kept, as paths.
    pub kept: Vec<String>,
    work: Work,
}

impl Switched {
    /// The caller has durably noted the new revision. What follows, follows when [`Committed`] is dropped, but for what has to be
    /// kept of what was replaced: that is kept when this returns.
    pub fn release(self) -> Committed {
        let mut committed = Committed { work: Some(self.work), durably: false };
        if !self.kept.is_empty() {
            committed.settle();
        }
        committed
    }

    /// As [`Switched::release`], of a switch that nobody notes anywhere else: its end is durable when this returns.
    pub fn finish(self) {
        Committed { work: Some(self.work), durably: true }.settle();
    }

    /// Commits, and removes all that is left.
    #[cfg(test)]
    fn commit(self) {
        drop(self.release());
    }

    /// Puts back what was replaced.
    ///
    /// # Errors
    /// As [`Failed::Stuck`].
    pub fn take_back(mut self) -> Result<(), Failed> {
        self.work.take_back().map_err(|back| Failed::Stuck { what: "the revision was not kept".to_owned(), back })
    }
}

/// A switch that stands. When this is dropped what somebody wrote meanwhile to a file that was replaced is kept, the end of the
/// switch is noted, and what it replaced is removed: nobody has to wait for that.
#[derive(Debug)]
pub struct Committed {
    work: Option<Work>,
    /// The end is synced, too.
    durably: bool,
}

impl Committed {
    fn settle(&mut self) {
        let Some(mut work) = self.work.take() else { return };
        if let Err(error) = work.settle(self.durably) {
            // The switch stands. The next apply or start tries again to keep what was replaced.
            tracing::error!(%error, "cannot finish the switch; what was replaced stays in staging");
            if let Err(error) = work.note_phase(Phase::Done) {
                tracing::error!(%error, "cannot note that the switch is committed");
            }
        }
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        self.settle();
    }
}

/// What recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// No switch was under way.
    Clean,
    /// The switch to this revision was completed and read back; the caller notes it durably, then calls [`forget`].
    Forward(RevisionId),
    /// A switch was taken back; the sets hold what they held before.
    Back,
}

/// Finishes what a crash interrupted, before anything else is done with the sets. Looks at every entry, assumes no order.
/// `at`: the revision noted durably.
///
/// # Errors
/// Neither completed nor taken back; the journal is kept, and the error names every entry that is in the way.
pub fn recover(site: &Site, at: Option<RevisionId>) -> Result<Recovered, Failed> {
    recover_known(site, at, &|_| true)
}

/// As [`recover`], where a switch to a revision that is not `known` here (its pack did not survive) is taken back.
///
/// # Errors
/// As [`recover`].
pub fn recover_known(
    site: &Site,
    at: Option<RevisionId>,
    known: &dyn Fn(RevisionId) -> bool,
) -> Result<Recovered, Failed> {
    recover::recover(site, at, known)
}

/// Removes the journal and what was replaced, after [`Recovered::Forward`] was noted.
///
/// # Errors
/// The system's.
pub fn forget(site: &Site) -> Result<(), ScanError> {
    recover::forget(site)
}

#[cfg(test)]
mod tests;
