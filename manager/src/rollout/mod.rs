//! The rollout of the head in waves. One task keeps the machine of the group's rules ([`Rollout`]) up to date with the head and the
//! record; the lanes' reports reach the machine as they are told to the monitor. The plan goes to the lanes and to the publisher
//! over a watch, after the state is durable. Without a policy for waves, the plan never changes, and no lane waits for this task.

mod task;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use bellwether_group::rollout::{Kept, NotDecided, Plan, Rollout};
use bellwether_proto::{
    advice::{Advice, Advise},
    name::ServerName,
    record::Record,
    revision::{Number, SignedHeader},
    status::{Observation, RolloutState},
};
use bellwether_store::{
    mutex::locked,
    state::{
        file::{self, StateFileError},
        layout::Layout,
        record::decide,
    },
};
use tokio::sync::{Notify, watch};

pub(crate) use self::task::run;
use crate::{Manager, shared::Shared};

/// The rollout, shared by the manager's tasks.
pub(crate) struct Rollouts {
    machine: Mutex<Rollout>,
    /// Notified of reports and decisions.
    heard: Notify,
    plan: watch::Sender<Arc<Plan>>,
    path: PathBuf,
    /// The state on the disk. It is held while the state is saved.
    saved: tokio::sync::Mutex<Kept>,
    /// The beginning of the machine's clock.
    began: Instant,
}

/// A person's decision on the rollout of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It goes to no further member.
    Stop,
    /// It goes on, and the failures up to now count no more.
    Continue,
}

/// The decision is not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(Arc<str>),
    /// There is nothing to decide.
    #[error("{0}; nothing was changed")]
    NotDecided(#[from] NotDecided),
    /// It could not be made durable.
    #[error("the decision could not be saved; nothing was changed")]
    Save(#[source] StateFileError),
    /// The manager stops.
    #[error("the manager is stopping; nothing was changed")]
    Stopping,
}

impl Advise for DecideError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Disputed(_) => Some(decide()),
            Self::NotDecided(NotDecided::AtOnce) => {
                Some(Advice::run("to have waves, at the manager", "bellwether group set --canary 1 --batch 25%"))
            }
            Self::NotDecided(NotDecided::Over(_)) => Some(Advice::run("for earlier content", "bellwether rollback")),
            Self::Save(_) | Self::Stopping => None,
        }
    }
}

impl Rollouts {
    /// Opens the state in the state directory.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(crate) fn open(state: &Path) -> Result<Self, StateFileError> {
        let path = Layout::new(state.to_owned()).rollout();
        let kept: Kept = file::load(&path)?.unwrap_or_default();
        Ok(Self {
            machine: Mutex::new(Rollout::resume(kept.clone())),
            heard: Notify::new(),
            plan: watch::Sender::default(),
            path,
            saved: tokio::sync::Mutex::new(kept),
            began: Instant::now(),
        })
    }

    /// Makes the plan by the saved state, before any task runs: a rollout that was stopped is stopped from the beginning.
    pub(crate) fn begin(&self, record: &Record, head: &SignedHeader) {
        self.plan.send_replace(Arc::new(self.look(record, head)));
    }

    /// Takes a report of a member's lane.
    pub(crate) fn observe(&self, server: &ServerName, observation: &Observation) {
        if locked(&self.machine).observe(server, observation) {
            self.heard.notify_one();
        }
    }

    /// The plan, now and at every change.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Plan>> {
        self.plan.subscribe()
    }

    /// The stopped revision, if it is `head`: nothing is published then without a person.
    pub(crate) fn stopped(&self, head: &SignedHeader) -> Option<Number> {
        self.plan.borrow().stopped(head.id()).map(|status| status.revision)
    }

    /// The head, if its rollout is not over.
    pub(crate) fn under_way(&self) -> Option<Number> {
        let plan = self.plan.borrow();
        let is_open = |state| matches!(state, RolloutState::Running | RolloutState::Soaking | RolloutState::Stopped);
        plan.status.as_ref().filter(|status| is_open(status.state)).map(|status| status.revision)
    }

    /// Whether that member waits for its wave.
    pub(crate) fn hold(&self, server: &ServerName) -> bool {
        let plan = self.plan.borrow();
        plan.status.is_some() && plan.released_to(server).is_none()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&self, record: &Record, head: &SignedHeader) -> Plan {
        locked(&self.machine).look(record, head, self.now_ms())
    }

    /// Makes the state durable, if it differs from the saved one.
    async fn save(&self) -> Result<(), StateFileError> {
        let mut saved = self.saved.lock().await;
        let kept = locked(&self.machine).kept().clone();
        if *saved == kept {
            return Ok(());
        }
        let (path, next) = (self.path.clone(), kept.clone());
        // Only a panic ends the save early, and a panic ends the agent.
        if let Ok(done) = tokio::task::spawn_blocking(move || file::save(&path, &next)).await {
            done?;
            *saved = kept;
        }
        Ok(())
    }

    async fn decide(
        &self,
        shared: &Shared,
        decision: Decision,
        author: &str,
        dry_run: bool,
    ) -> Result<bool, DecideError> {
        shared.undisputed().map_err(DecideError::Disputed)?;
        let (record, head) = (shared.record.borrow().clone(), shared.head.borrow().stored.header.clone());
        self.look(record.record(), &head);
        let before = locked(&self.machine).clone();
        let mut after = before.clone();
        let changes = match decision {
            Decision::Stop => after.stop(record.record(), author)?,
            Decision::Continue => after.go_on(record.record())?,
        };
        if dry_run || !changes {
            return Ok(changes);
        }
        *locked(&self.machine) = after;
        if let Err(error) = self.save().await {
            *locked(&self.machine) = before;
            return Err(DecideError::Save(error));
        }
        tracing::info!(?decision, author, revision = %head.number(), "a person decided on the rollout");
        self.heard.notify_one();
        Ok(true)
    }
}

impl Manager {
    /// Stops or continues the rollout of the head, durably; with `dry_run` only checks that. Returns whether that changes
    /// anything.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn decide_rollout(&self, decision: Decision, author: &str, dry_run: bool) -> Result<bool, DecideError> {
        let shared = &self.inner.shared;
        shared.rollouts.decide(shared, decision, author, dry_run).await
    }
}
