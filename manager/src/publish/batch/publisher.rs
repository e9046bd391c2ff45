//! The publisher's part: it begins a batch, waits for its end, and publishes its edits or puts them back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    clock::now_ms,
    status::{Batch, BatchState, Event},
};
use bellwether_store::{scan::Look, state::file::StateFileError, tree::Tree};
use tokio::sync::oneshot;

use super::{
    BatchError, BatchSession, BeginBatch, Begun, Finish, Finished, Kept,
    put_back::{self, Before, PutBack},
};
use crate::{
    Published, failpoints,
    publish::{
        publisher::{PublishTask, Publisher},
        round::{Cause, PublishError, Request},
    },
    shared::Shared,
};

/// The batch whose command runs, if there is one.
#[derive(Default)]
pub(crate) struct Running(Option<Run>);

struct Run {
    finish: oneshot::Receiver<Finish>,
    late: oneshot::Sender<()>,
    deadline: Instant,
    /// The request for its revision.
    request: Request,
    before: Before,
}

/// How a batch comes to its end.
pub(crate) enum Ending {
    /// Its command ended.
    Finish(Finish),
    /// Nobody will tell its result.
    Gone,
    /// Its deadline has passed.
    Late,
}

impl Running {
    /// Returns when the batch is to be ended. It may be cancelled.
    pub(crate) async fn ending(&mut self) -> Ending {
        let Some(run) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            biased;
            finish = &mut run.finish => finish.map_or(Ending::Gone, Ending::Finish),
            () = tokio::time::sleep_until(run.deadline.into()) => Ending::Late,
        }
    }
}

impl Publisher {
    /// Begins a batch. The hold is durable before the answer.
    pub(crate) async fn begin_batch(&mut self, begin: BeginBatch) -> Result<Begun, BatchError> {
        self.shared.undisputed().map_err(BatchError::Disputed)?;
        self.shared.batch.refuse()?;
        if let Some(hold) = self.shared.held() {
            return Err(BatchError::Held(hold));
        }
        let BeginBatch { owner, command, pid, message, labels, deadline, dry_run } = begin;
        let began_ms = now_ms();
        let deadline_ms = began_ms.saturating_add(deadline.as_millis().try_into().unwrap_or(u64::MAX));
        if dry_run && self.shared.live.holds() {
            return Err(BatchError::Stale);
        }
        if dry_run {
            let before = self.edits().await.map_err(BatchError::Begin)?;
            return Ok(Begun { session: None, deadline_ms, unpublished: before.named() });
        }
        // Earlier edits are no part of the batch. Refused ones are told as such, and stay.
        self.dirty.take();
        self.round(PublishTask::Look(Look::Stats)).await;
        if self.shared.live.holds() {
            return Err(BatchError::Stale);
        }
        let request = Request { message, author: owner.clone(), labels, ..Request::default() };
        let state = BatchState::Running;
        let batch = Batch { owner, command, pid, began_ms, deadline_ms, state };
        self.hold(batch).await?;
        failpoints::hit("batch.begun");
        let before = match self.edits().await {
            Ok(before) => before,
            Err(error) => {
                self.lift_batch("its sets cannot be read").await;
                return Err(BatchError::Begin(error));
            }
        };
        let ((finish, ended), (late, told)) = (oneshot::channel(), oneshot::channel());
        let now = Instant::now();
        let deadline = now.checked_add(deadline).unwrap_or(now + Duration::from_secs(u32::MAX.into()));
        let unpublished = before.named();
        self.batch = Running(Some(Run { finish: ended, late, deadline, request, before }));
        Ok(Begun { session: Some(BatchSession { finish, late: told }), deadline_ms, unpublished })
    }

    /// Ends the batch whose command runs.
    pub(crate) async fn end_batch(&mut self, ending: Ending) {
        let Some(run) = self.batch.0.take() else { return };
        match ending {
            Ending::Gone => self.ended_without_result(BatchState::Gone).await,
            Ending::Late => {
                self.ended_without_result(BatchState::Late).await;
                // Otherwise the command is gone.
                let _ = run.late.send(());
            }
            Ending::Finish(Finish { succeeded, answer }) => {
                let done = match succeeded {
                    true => self.publish_batch(run.request).await.map(|done| Finished::Published(Box::new(done))),
                    false => self.put_batch_back(run.before).await,
                };
                let _ = answer.send(done);
            }
        }
    }

    /// Tells the monitor of the batch that the process before has left.
    pub(crate) fn tell_batch(&self) {
        self.shared.see(Event::Batch(self.shared.batch.now().map(Box::new)));
    }

    /// Ends a batch that holds publishing: its edits are published, dropped or put back.
    pub(crate) async fn lift_batch(&mut self, why: &str) {
        let Some(batch) = self.shared.batch.now() else { return };
        if let Err(error) = self.on_disk(|shared| shared.batch.clear()).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the batch is over, but its file is left: the next start looks at it again");
            return;
        }
        tracing::info!(batch = batch.command, owner = batch.owner, why, "the batch is over");
        self.tell_batch();
    }

    /// Publishes what the command left.
    async fn publish_batch(&mut self, request: Request) -> Result<Published, BatchError> {
        if let Some(hold) = self.shared.held() {
            self.lift_batch("its command succeeded while a rollout is stopped").await;
            self.round(PublishTask::Look(Look::Stats)).await;
            return Err(BatchError::HeldByRollout(hold));
        }
        self.dirty.take();
        let published = self.asked(PublishTask::Asked(Look::Stats, request)).await;
        failpoints::hit("batch.published");
        if !matches!(published, Err(PublishError::Stopping)) {
            self.lift_batch("its command succeeded").await;
        }
        published.map_err(BatchError::Publish)
    }

    /// Puts back what the command changed, and has the services take that.
    async fn put_batch_back(&mut self, before: Before) -> Result<Finished, BatchError> {
        let (shared, known) = (self.shared.clone(), self.known.clone());
        let work = move || put_back::put_back(&shared, &known, &before);
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| BatchError::Stopping)?;
        failpoints::hit("batch.put-back");
        let done = match done {
            Ok(PutBack { dropped, changes, left }) => {
                self.lift_batch("its command failed").await;
                // The command may have reloaded them.
                self.proving.put_back(&self.shared, &changes);
                Ok(Finished::PutBack { dropped, left })
            }
            Err(error) => {
                self.ended_without_result(BatchState::NotPutBack).await;
                Err(BatchError::PutBack(error))
            }
        };
        self.dirty.take();
        self.round(PublishTask::Look(Look::Stats)).await;
        done
    }

    /// Notes that nobody knows the result: a person decides.
    async fn ended_without_result(&mut self, state: BatchState) {
        let Some(batch) = self.shared.batch.now() else { return };
        let batch = Batch { state, ..batch };
        tracing::warn!("{}", batch.described());
        if let Err(error) = self.hold(batch).await {
            // After a restart it has ended without a result, too.
            tracing::error!(error = &error as &dyn std::error::Error, "the end of the batch is not noted");
        }
        self.round(PublishTask::Look(Look::Stats)).await;
    }

    /// Holds publishing durably, and tells the monitor.
    async fn hold(&mut self, batch: Batch) -> Result<(), StateFileError> {
        let (epoch, root) = {
            let head = self.shared.head.borrow();
            (head.stored.header.number().epoch, head.stored.header.header().root)
        };
        self.on_disk(move |shared| shared.batch.keep(Kept { batch, epoch, root })).await?;
        self.tell_batch();
        Ok(())
    }

    /// The entries that differ from the head, or cannot be read now.
    async fn edits(&self) -> Result<Before, PublishError> {
        // Every difference counts, even a refused one.
        let cause = Cause::Asked(Request { dry_run: true, accept: true, ..Request::default() });
        let live: Tree = self.prepare(Look::Stats, cause).await?.into_tree();
        let changes = self.shared.head.borrow().tree.diff(&live);
        Ok(Before::new(changes, self.waiting.places().cloned()))
    }

    async fn on_disk(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<(), StateFileError> + Send + 'static,
    ) -> Result<(), StateFileError> {
        let shared = self.shared.clone();
        // Only a panic ends the work early, and a panic ends the agent.
        tokio::task::spawn_blocking(move || work(&shared)).await.unwrap_or(Ok(()))
    }
}
