//! The handover at the manager (W18).
//!
//! The one signed record that names the new manager and the old one's new role must be durable before an answer. It
//! ends this server's role as manager.

use std::{sync::Arc, time::Duration};

use bellwether_group::{
    edits::By,
    roles::{Leave, RoleRefused, hand_over},
    rollout,
};
use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    clock::now_ms,
    name::ServerName,
    record::{SignedRecord, Version},
    revision::Number,
};
use bellwether_store::state::record::SaveError;
use tokio::sync::oneshot;

use crate::{
    Manager, failpoints,
    lane::reached::Missing,
    publish::{
        publisher::Command,
        round::{PublishError, Request, decide_rollout},
    },
    shared::Shared,
};

/// How often edits that come in between are published before the handover gives up.
const TRIES: usize = 5;

/// The role was not handed over: this server remains the manager.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// A rule refuses.
    #[error(transparent)]
    Refused(#[from] RoleRefused),
    /// Some edits would be left behind.
    #[error("{0} entries here differ from the head and are not published")]
    Unpublished(u64),
    /// The edits cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The head waits for a decision.
    #[error("{0}")]
    Held(rollout::Hold),
    /// An earlier command is handing the role over.
    #[error("the role is being handed over to {0} at this moment, by an earlier command")]
    UnderWay(ServerName),
    /// The new manager lacks something.
    #[error("{to} does not hold everything: {why}; {from} is still the manager")]
    Behind {
        /// The intended new manager.
        to: ServerName,
        /// This server.
        from: ServerName,
        /// The missing part.
        why: String,
    },
    /// The record cannot be signed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The record could not be made durable.
    #[error(transparent)]
    Save(#[from] SaveError),
}

impl Advise for HandOverError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Refused(refused) => refused.advice(),
            Self::Unpublished(_) => {
                Some(Advice::run("first, at the manager", "bellwether publish").or(&Advice::say("or undo the edits")))
            }
            Self::Publish(publish) => publish.advice(),
            Self::Held(hold) => Some(decide_rollout(*hold)),
            Self::UnderWay(_) => Some(Advice::run("wait for it; see", "bellwether status")),
            Self::Behind { .. } | Self::Malformed(_) | Self::Save(_) => None,
        }
    }
}

/// While it lives, nothing is published.
struct Hold(oneshot::Sender<()>);

impl Hold {
    /// Holds until the manager has stopped.
    fn stay(self) {
        // An error means that it has stopped.
        let _ = self.0.send(());
    }
}

/// The one handover under way, until it is dropped.
struct Turn(Arc<Shared>);

impl Turn {
    fn of(shared: &Arc<Shared>, to: &ServerName) -> Result<Self, HandOverError> {
        let mut handing = shared.handing();
        match handing.as_ref() {
            Some(first) => Err(HandOverError::UnderWay(first.clone())),
            None => {
                *handing = Some(to.clone());
                Ok(Self(shared.clone()))
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.handing() = None;
    }
}

impl Manager {
    /// Hands the role over: takes no more changes, waits until `to` has everything, and makes the record durable that
    /// names it (with this server's key, under the next epoch). When this returns, this server is no longer the
    /// manager; the caller stops it, and tells `to`. If this is dropped earlier, it goes on as the manager.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn hand_over(
        &self,
        to: &ServerName,
        leave: Leave,
        author: &str,
    ) -> Result<Arc<SignedRecord>, HandOverError> {
        let by = By::new(author, now_ms());
        let shared = self.inner.shared.clone();
        if hand_over(&self.record(), to, leave, &by)?.is_none() {
            return Ok(self.record());
        }
        if let Some(hold @ rollout::Hold::Unconfirmed(_)) = shared.held() {
            return Err(HandOverError::Held(hold));
        }
        let _turn = Turn::of(&shared, to)?;
        let hold = self.hold(author).await?;
        let editing = shared.editing.clone().lock_owned().await;
        failpoints::hit("handover.held");
        let held = self.record();
        let Some(next) = hand_over(&held, to, leave, &by)? else { return Ok(held) };
        self.wait_for(to, held.record().version).await?;
        // A server that froze since would have the role and not know it.
        self.answers(to).await.map_err(|why| self.behind(to, why))?;
        failpoints::hit("handover.waited");
        let next = Arc::new(SignedRecord::sign(next, &shared.key)?);
        // It must not be cancelled: from the save on there is no way back.
        let save = move || {
            failpoints::hit("handover.signed");
            shared.group.save_next(&held, &next)?;
            failpoints::hit("handover.saved");
            hold.stay();
            drop(editing);
            tracing::info!(record = %next.record().version, to = %next.record().manager().name, "the role is handed over");
            Ok(next)
        };
        tokio::task::spawn_blocking(save).await.map_err(|_| PublishError::Stopping)?
    }

    /// Publishes all edits, then holds the publisher.
    async fn hold(&self, author: &str) -> Result<Hold, HandOverError> {
        let automatic = || self.inner.shared.publishes_by_itself();
        let mut left = 0;
        for _ in 0..TRIES {
            if automatic() {
                self.publish(Request { author: author.to_owned(), ..Request::default() }).await?;
            }
            let (release, over) = oneshot::channel();
            let (answer, answered) = oneshot::channel();
            let sent = self.inner.commands.send(Command::Hold { answer, over }).await;
            sent.map_err(|_| PublishError::Stopping)?;
            let hold = Hold(release);
            left = answered.await.map_err(|_| PublishError::Stopping)??.changes.count;
            if left == 0 {
                return Ok(hold);
            }
            if !automatic() {
                break;
            }
        }
        Err(HandOverError::Unpublished(left))
    }

    /// Waits until `to` holds the head, and the record of that version.
    async fn wait_for(&self, to: &ServerName, version: Version) -> Result<(), HandOverError> {
        let shared = &self.inner.shared;
        let head = shared.head.borrow().stored.header.number();
        let mut reached = shared.reached.subscribe();
        let patience: Duration = shared.timings.hand_over;
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let why = match self.missing(to, head, version) {
                Ok(()) => return Ok(()),
                Err(Missing::Never(why)) => return Err(self.behind(to, why)),
                Err(Missing::Yet(why)) => why,
            };
            tokio::select! {
                changed = reached.changed() => changed.map_err(|_| PublishError::Stopping)?,
                () = tokio::time::sleep_until(deadline) => {
                    return Err(self.behind(to, format!("{why} (waited {} s)", patience.as_secs())));
                }
            }
        }
    }

    fn missing(&self, to: &ServerName, head: Number, version: Version) -> Result<(), Missing> {
        let shared = &self.inner.shared;
        let is_stopped = matches!(shared.held(), Some(rollout::Hold::Stopped(_)));
        let reached = shared.reached.borrow();
        reached.holds(to, head).map_err(|missing| match missing {
            Missing::Yet(why) if shared.rollouts.hold(to) && is_stopped => {
                Missing::Never(format!("{why}; the rollout is stopped: bellwether rollout show"))
            }
            Missing::Yet(why) if shared.rollouts.hold(to) => {
                Missing::Yet(format!("{why}; its wave has not begun: bellwether rollout show"))
            }
            missing => missing,
        })?;
        match reached.get(to) {
            Some(server) if server.record >= version => Ok(()),
            _ => Err(Missing::Yet(format!("it has not taken group record {version} yet"))),
        }
    }

    fn behind(&self, to: &ServerName, why: String) -> HandOverError {
        HandOverError::Behind { to: to.clone(), from: self.inner.shared.name.clone(), why }
    }
}
