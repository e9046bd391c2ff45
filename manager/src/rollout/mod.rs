//! The rollout of the head in waves. One task keeps the machine of the group's rules ([`Rollout`]) up to date with the head and the
//! record; the lanes' reports reach the machine as they are told to the monitor. The plan goes to the lanes and to the publisher
//! over a watch, after the state is durable. Without a policy for waves, the plan never changes, and no lane waits for this task.

mod task;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use bellwether_group::{
    edits::RecordEdit,
    rollout::{Hold, Kept, NotDecided, Now, Plan, Rollout},
};
use bellwether_proto::{
    advice::{Advice, Advise},
    clock::now_ms,
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
use crate::{EditError, Manager, shared::Shared};

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
            Self::NotDecided(NotDecided::Unconfirmed(_)) | Self::Save(_) | Self::Stopping => None,
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
        if locked(&self.machine).observe(server, observation, self.now_ms()) {
            self.heard.notify_one();
        }
    }

    /// Takes the end of the manager's own commands; none: they succeeded.
    pub(crate) fn observe_own(&self, manager: &ServerName, revision: Number, failure: Option<&str>) {
        locked(&self.machine).observe_own(manager, revision, failure);
        self.heard.notify_one();
    }

    /// The plan, now and at every change.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Plan>> {
        self.plan.subscribe()
    }

    /// That revision, the head, if it is stopped or not confirmed: the next one takes its place.
    pub(crate) fn replaceable(&self, head: &SignedHeader) -> Option<Number> {
        self.plan.borrow().replaceable(head.id()).map(|status| status.revision)
    }

    /// The newest revision before the head that went to all members, if that is known.
    pub(crate) fn good(&self) -> Option<Number> {
        locked(&self.machine).kept().good
    }

    /// What holds publishing back, if `head` is the head.
    pub(crate) fn holds(&self, head: &SignedHeader) -> Option<Hold> {
        self.plan.borrow().holds(head.id())
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
        plan.status.is_some() && plan.release(server).taken.is_none()
    }

    /// Whether other members than the saved ones validate.
    fn validates_differ(&self) -> bool {
        // While it is held, the state is being saved.
        self.saved.try_lock().is_ok_and(|saved| saved.validates != locked(&self.machine).kept().validates)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look(&self, record: &Record, head: &SignedHeader) -> Plan {
        locked(&self.machine).look(record, head, Now { at_ms: self.now_ms(), wall_ms: now_ms() })
    }

    /// Makes the state durable, if it differs from the saved one.
    async fn save(&self) -> Result<(), StateFileError> {
        let mut saved = self.saved.lock().await;
        let (kept, has_news) = {
            let machine = locked(&self.machine);
            (machine.kept().clone(), machine.has_news(&saved))
        };
        if !has_news {
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

    /// Confirms the head, or the revision of that number if it is the head: no server takes it back any more. With `dry_run` only
    /// checks that. Returns the revision, and whether that changes anything.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn confirm(
        &self,
        named: Option<Number>,
        author: &str,
        dry_run: bool,
    ) -> Result<(Number, bool), ConfirmError> {
        let shared = &self.inner.shared;
        let head = shared.head.borrow().stored.header.clone();
        let number = head.number();
        if let Some(named) = named.filter(|named| *named != number) {
            return Err(ConfirmError::NotTheHead { named, head: number });
        }
        let record = shared.record.borrow().clone();
        match (head.confirm_within(), record.record().policy.unconfirmed(&head)) {
            (None, _) => return Err(ConfirmError::Nothing(number)),
            (Some(_), None) => return Ok((number, false)),
            (Some(_), Some(_)) => {}
        }
        if matches!(shared.rollouts.holds(&head), Some(Hold::Stopped(_))) {
            return Err(ConfirmError::Late(number));
        }
        // From here on the time does not run out.
        if !dry_run && !locked(&shared.rollouts.machine).begin_confirmation() {
            return Err(ConfirmError::Late(number));
        }
        let edited = self.edit_record(&RecordEdit::Confirmed(head.id()), author, dry_run).await;
        locked(&shared.rollouts.machine).end_confirmation();
        shared.rollouts.heard.notify_one();
        edited?;
        Ok((number, true))
    }
}

/// The revision is not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// It needs no confirmation.
    #[error("revision {0}, the newest one, was not published with --confirm-within; nothing was changed")]
    Nothing(Number),
    /// Another revision was named.
    #[error("the newest revision is {head}, not {named}; nothing was changed")]
    NotTheHead {
        /// The named one.
        named: Number,
        /// The head.
        head: Number,
    },
    /// Its time is over, or its rollout is stopped.
    #[error("revision {0} is stopped, or was not confirmed in time: it is not confirmed any more; nothing was changed")]
    Late(Number),
    /// The record could not be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
}

impl Advise for ConfirmError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Nothing(_) => None,
            Self::NotTheHead { .. } => Some(Advice::run("see", "bellwether log")),
            Self::Late(number) => {
                Some(Advice::run("publish its content again", format!("bellwether rollback {number}")))
            }
            Self::Edit(error) => error.advice(),
        }
    }
}
