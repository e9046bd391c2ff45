//! The task that looks at the rollout whenever something may have changed it, and has a stopped revision taken back.

use std::{sync::Arc, time::Duration};

use bellwether_group::rollout::{Plan, TakeBack};
use bellwether_proto::{
    clock::now_ms,
    error::chain,
    revision::{Number, RevisionName},
    status::{Event, RolloutState, RolloutStatus},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Rollback, RollbackError, RolledBack,
    publish::{publisher::Command, round::PublishError},
    shared::Shared,
    tasks::stopped,
};

/// The pause before a failed save, or a failed way back, is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(3_600);

struct Task {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// The last status that the monitor was told.
    told: Option<RolloutStatus>,
    /// Why a stopped revision is not taken back yet.
    obstacle: Option<(Number, String)>,
}

/// Runs until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, commands: mpsc::Sender<Command>, mut shutdown: watch::Receiver<bool>) {
    let (mut head, mut record) = (shared.head.subscribe(), shared.record.clone());
    let mut task = Task { shared: shared.clone(), commands, told: None, obstacle: None };
    loop {
        head.mark_unchanged();
        record.mark_unchanged();
        let pause = task.look().await;
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = shared.rollouts.heard.notified() => {}
            changed = head.changed() => if changed.is_err() { return },
            changed = record.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Task {
    /// Looks, saves, tells the lanes and the monitor. Returns the longest pause before the next look.
    async fn look(&mut self) -> Duration {
        let shared = self.shared.clone();
        let (record, head) = (shared.record.borrow().clone(), shared.head.borrow().stored.header.clone());
        let plan = shared.rollouts.look(record.record(), &head);
        // No lane acts by a state that a restart would forget.
        if (plan.status.is_some() || plan.gated || shared.rollouts.validates_differ())
            && let Err(error) = shared.rollouts.save().await
        {
            tracing::error!(error = chain(&error), "the rollout cannot be saved, and does not go on");
            return RETRY;
        }
        self.show(&plan);
        let (back, next_ms) = (plan.take_back.clone(), plan.next_ms);
        shared.rollouts.plan.send_if_modified(|held| {
            let changed = **held != plan;
            *held = Arc::new(plan);
            changed
        });
        if let Some(back) = back
            && shared.undisputed().is_ok()
        {
            self.take_back(&back).await;
            return RETRY;
        }
        next_ms.map_or(LOOK, |next| Duration::from_millis(next.saturating_sub(shared.rollouts.now_ms())))
    }

    /// Tells the monitor of a change.
    fn show(&mut self, plan: &Plan) {
        let mut status = plan.status.clone();
        if let Some(status) = &mut status {
            let same = |told: &&RolloutStatus| {
                (told.revision, told.wave, told.state) == (status.revision, status.wave, RolloutState::Soaking)
            };
            let until = |next: u64| now_ms() + next.saturating_sub(self.shared.rollouts.now_ms());
            let told = self.told.as_ref().filter(same).and_then(|told| told.until_ms);
            status.until_ms = plan.next_ms.map(|next| told.unwrap_or_else(|| until(next)));
            let obstacle = self.obstacle.as_ref().filter(|(of, _)| *of == status.revision);
            if let (Some((_, why)), Some(_)) = (obstacle, &plan.take_back) {
                status.next =
                    Some(format!("bellwether rollout continue, or: bellwether rollback (not taken back: {why})"));
            }
        }
        if self.told != status {
            if let Some(status) = &status {
                let RolloutStatus { revision, state, wave, waves, reason, .. } = status;
                tracing::info!(%revision, state = state.word(), wave, waves, reason, "rollout");
            }
            self.told.clone_from(&status);
            self.shared.see(Event::Rollout(status.map(Box::new)));
        }
    }

    /// Publishes the content from before the stopped revision. Without success it is tried again after [`RETRY`].
    async fn take_back(&mut self, back: &TakeBack) {
        let to = back.to.map_or(RevisionName::Head(1), RevisionName::Number);
        let done = match self.roll_back(back, to).await {
            // Retention has dropped it.
            Err(RollbackError::Find(_)) => self.roll_back(back, RevisionName::Head(1)).await,
            done => done,
        };
        let why = match done {
            Ok(RolledBack { revision: Some(header), .. }) => {
                tracing::warn!(of = %back.revision, revision = %header.number(), "the stopped revision is taken back");
                return;
            }
            Ok(RolledBack { to, revision: None, .. }) => format!("the content of {to} is the same"),
            Err(error) => chain(&error),
        };
        let obstacle = Some((back.revision, why));
        if self.obstacle != obstacle {
            let why = obstacle.as_ref().map(|(_, why)| why);
            tracing::error!(why, of = %back.revision, "the stopped revision is not taken back, and is tried again");
            self.obstacle = obstacle;
            // The obstacle is shown by the next look.
            self.shared.rollouts.heard.notify_one();
        }
    }

    async fn roll_back(&self, back: &TakeBack, to: RevisionName) -> Result<RolledBack, RollbackError> {
        let TakeBack { revision, reason, .. } = back;
        let rollback = Rollback {
            to,
            places: Vec::new(),
            author: format!("rollout at {}", self.shared.name),
            message: format!("taken back: {revision}: {reason}"),
            dry_run: false,
            accept: true,
            hold: false,
            takes_back: Some(*revision),
        };
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(Command::Rollback(Box::new(rollback), answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }
}
