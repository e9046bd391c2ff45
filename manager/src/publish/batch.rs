//! Batches: a person's command runs while publishing is held. Its edits are published once if it succeeds, and put back if it
//! fails. The hold is a state file, so it outlives this process. A batch whose end nobody told keeps holding until a person
//! decides by `publish` or `discard`. The publisher alone begins and ends batches (`publisher.rs` here); others ask
//! [`Batches`] whether one is there.

mod publisher;
mod put_back;

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether_group::rollout::Hold;
use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    hash::Hash,
    level::{Level, State},
    revision::{Epoch, SignedHeader, check_labels, check_message},
    status::{Batch, BatchState},
};
use bellwether_store::{
    durable,
    mutex::locked,
    state::{
        file::{self, StateFileError},
        layout::Layout,
        record::decide,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub(crate) use self::publisher::Running;
use crate::{
    Manager, Published,
    publish::{
        discard::{DiscardError, Discarded},
        publisher::Command,
        round::{PublishError, decide_rollout},
    },
};

/// A request to begin a batch.
#[derive(Debug, Clone)]
pub struct BeginBatch {
    /// The author, with the server.
    pub owner: String,
    /// The command line, for people.
    pub command: String,
    /// The process of the command `batch`.
    pub pid: u32,
    /// The reason, for the revision.
    pub message: String,
    /// The labels of the revision.
    pub labels: BTreeMap<String, String>,
    /// The longest time for the command.
    pub deadline: Duration,
    /// Whether to only check that a batch can begin.
    pub dry_run: bool,
}

/// A batch that was begun, or that could begin.
#[derive(Debug)]
pub struct Begun {
    /// The way to end it; none with `dry_run`.
    pub session: Option<BatchSession>,
    /// The deadline, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Entries with edits from before the batch that are not published, as `SET:PATH`.
    pub unpublished: Vec<String>,
}

/// A batch under way. If it is dropped, the batch ends without a result.
#[derive(Debug)]
pub struct BatchSession {
    finish: oneshot::Sender<Finish>,
    late: oneshot::Receiver<()>,
}

/// The result of the command of a batch.
#[derive(Debug)]
pub(crate) struct Finish {
    succeeded: bool,
    answer: oneshot::Sender<Result<Finished, BatchError>>,
}

/// The end of a batch.
#[derive(Debug)]
pub enum Finished {
    /// The command succeeded: its edits are a revision.
    Published(Box<Published>),
    /// The command failed: its edits were put back.
    PutBack {
        /// The entries that are as in the head again, and the kept copies of what was dropped.
        dropped: Discarded,
        /// Entries with edits from before the batch, which stay as they are, as `SET:PATH`.
        left: Vec<String>,
    },
}

/// A batch holds publishing: nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.described())]
pub struct InBatch(pub Batch);

impl Advise for InBatch {
    fn advice(&self) -> Option<Advice> {
        Some(match self.0.is_running() {
            true => Advice::run("wait for its end; see", "bellwether status"),
            false => Advice::run("to publish its edits, at the manager", "bellwether publish")
                .or(&Advice::run("or, to drop them", "bellwether discard")),
        })
    }
}

/// A batch does not begin, or its end is not what the command's status asks for.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(Arc<str>),
    /// The message or a label is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is a batch already.
    #[error(transparent)]
    InBatch(#[from] InBatch),
    /// The rollout of the head is stopped, or waits for a confirmation: no batch begins.
    #[error("{0}")]
    Held(Hold),
    /// The directories in which the sets are edited may be older than the head.
    #[error("the source of the sets differs from the head, and may be older")]
    Stale,
    /// The hold could not be made durable.
    #[error("the batch could not be saved, and does not begin")]
    Save(#[from] StateFileError),
    /// The sets cannot be read, so no batch begins.
    #[error("the batch does not begin")]
    Begin(#[source] PublishError),
    /// The command succeeded, and its edits stay in the sets.
    #[error("the command succeeded, but its edits are not published")]
    Publish(#[source] PublishError),
    /// The command succeeded, but the rollout of the head holds publishing back: its edits stay in the sets.
    #[error("the command succeeded, but its edits are not published: {0}")]
    HeldByRollout(Hold),
    /// The command failed, and its edits stay in the sets: the batch has ended without a result.
    #[error("the edits of the batch could not be put back")]
    PutBack(#[source] DiscardError),
    /// The batch ended without a result before its command ended.
    #[error("the batch ended before its command did; its edits are not published")]
    Over,
    /// The manager stops.
    #[error("the manager is stopping; the batch ends without a result")]
    Stopping,
}

impl Advise for BatchError {
    fn advice(&self) -> Option<Advice> {
        let drop = Advice::run("or, to drop the edits, at the manager", "bellwether discard");
        match self {
            Self::Disputed(_) => Some(decide()),
            Self::InBatch(batch) => batch.advice(),
            Self::Held(hold) => Some(decide_rollout(*hold)),
            Self::Begin(publish) => publish.advice(),
            Self::Publish(PublishError::Rejected(rejection)) => Some(rejection.advice()),
            Self::Publish(publish) => Some(publish.advice().map_or(drop.clone(), |advice| advice.or(&drop))),
            Self::HeldByRollout(_) => {
                Some(Advice::run("to publish them all the same, in waves", "bellwether publish").or(&drop))
            }
            Self::Stale => Some(Advice::run("first, to publish it", "bellwether publish").or(&drop)),
            Self::PutBack(_) | Self::Over | Self::Stopping => {
                Some(Advice::run("to publish the edits that are there", "bellwether publish").or(&drop))
            }
            Self::Malformed(_) | Self::Save(_) => None,
        }
    }
}

/// The batch on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    batch: Batch,
    /// The epoch in which it was begun.
    epoch: Epoch,
    /// The root of the head at its beginning.
    root: Hash,
}

impl State for Kept {
    fn level(&self) -> Level {
        Level(2)
    }
}

/// What a batch on the disk means to a manager that begins.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It holds publishing.
    Holds,
    /// Its edits are in the head, or another manager has led since.
    Over(&'static str),
}

impl Kept {
    /// Judges a batch that the process before has left, with the head at the start.
    fn judge(&self, head: &SignedHeader) -> Found {
        if self.epoch != head.number().epoch {
            Found::Over("the group has had another manager, or was rebuilt, since it began")
        } else if self.root != head.header().root {
            // Only its own end publishes during a batch, or the person that decided on it.
            Found::Over("its edits were published")
        } else {
            Found::Holds
        }
    }
}

/// The batch, shared by the manager's tasks. Only the publisher changes it.
#[derive(Debug)]
pub(crate) struct Batches {
    path: PathBuf,
    kept: Mutex<Option<Kept>>,
}

impl Batches {
    /// Opens the state in the state directory. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(crate) fn open(state: &Path) -> Result<Self, StateFileError> {
        let path = Layout::new(state.to_owned()).batch();
        let kept = file::load(&path)?;
        Ok(Self { path, kept: Mutex::new(kept) })
    }

    /// Settles a batch that the process before has left, before any task runs: nobody tells its result any more. Blocks.
    ///
    /// # Errors
    /// The state cannot be written.
    pub(crate) fn begin(&self, head: &SignedHeader) -> Result<(), StateFileError> {
        let Some(mut kept) = locked(&self.kept).clone() else { return Ok(()) };
        match kept.judge(head) {
            Found::Over(why) => {
                tracing::warn!(batch = kept.batch.command, owner = kept.batch.owner, why, "a batch is over");
                self.clear()
            }
            Found::Holds if kept.batch.is_running() => {
                kept.batch.state = BatchState::Restarted;
                tracing::warn!("{}", kept.batch.described());
                self.keep(kept)
            }
            Found::Holds => Ok(()),
        }
    }

    /// The batch that holds publishing.
    pub(crate) fn now(&self) -> Option<Batch> {
        locked(&self.kept).as_ref().map(|kept| kept.batch.clone())
    }

    /// Whether a batch holds publishing.
    pub(crate) fn holds(&self) -> bool {
        locked(&self.kept).is_some()
    }

    /// Checks that no batch holds publishing.
    ///
    /// # Errors
    /// The batch.
    pub(crate) fn refuse(&self) -> Result<(), InBatch> {
        self.now().map_or(Ok(()), |batch| Err(InBatch(batch)))
    }

    /// Checks that no batch runs: a person decides on one that has ended.
    ///
    /// # Errors
    /// The batch.
    pub(crate) fn refuse_running(&self) -> Result<(), InBatch> {
        self.now().filter(Batch::is_running).map_or(Ok(()), |batch| Err(InBatch(batch)))
    }

    /// Holds durably. Blocks.
    fn keep(&self, kept: Kept) -> Result<(), StateFileError> {
        file::save(&self.path, &kept)?;
        *locked(&self.kept) = Some(kept);
        Ok(())
    }

    /// Ends the hold, durably. Blocks.
    fn clear(&self) -> Result<(), StateFileError> {
        let removed = || {
            let directory = std::fs::File::open(self.path.parent().unwrap_or(Path::new("/")))?;
            let name = self.path.file_name().map(std::os::unix::ffi::OsStrExt::as_bytes).unwrap_or_default();
            durable::remove_all(directory.as_fd(), name)?;
            durable::sync_directory(directory.as_fd())
        };
        let failed = |source| StateFileError::Io { action: "remove", path: self.path.clone(), source };
        removed().map_err(failed)?;
        *locked(&self.kept) = None;
        Ok(())
    }
}

impl BatchSession {
    /// Tells the command's result: its edits are published, or put back.
    ///
    /// # Errors
    /// The error says what became of the edits.
    pub async fn finish(self, succeeded: bool) -> Result<Finished, BatchError> {
        let (answer, answered) = oneshot::channel();
        self.finish.send(Finish { succeeded, answer }).map_err(|_| BatchError::Over)?;
        answered.await.map_err(|_| BatchError::Stopping)?
    }

    /// Returns when the deadline has passed: the batch has ended without a result.
    pub async fn late(&mut self) {
        // A sender that is gone tells nothing.
        if (&mut self.late).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Manager {
    /// Begins a batch: durably, nothing is published until its end. Earlier edits are published first, where edits become
    /// revisions by themselves.
    ///
    /// # Errors
    /// Nothing is held.
    pub async fn begin_batch(&self, begin: BeginBatch) -> Result<Begun, BatchError> {
        check_message(&begin.message)?;
        check_labels(&begin.labels)?;
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Batch(Box::new(begin), answer)).await;
        sent.map_err(|_| BatchError::Stopping)?;
        answered.await.map_err(|_| BatchError::Stopping)?
    }
}

#[cfg(test)]
mod tests;
