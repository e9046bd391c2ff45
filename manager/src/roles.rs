//! Who is the manager, and how that changes: the rules that make the record of a new epoch, and the handover at the manager
//! (W18). The takeover by a candidate (W24) has its rule here, too; the survey before it is the agent's.
//!
//! What must be durable before an answer: the one signed record that names the new manager and what the old one becomes.
//! Until then this server is the manager, from then on it is not.

use std::{sync::Arc, time::Duration};

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    key::PublicKey,
    limits,
    name::ServerName,
    record::{Publish, Record, Role, Server, SignedRecord, Version},
    revision::{Epoch, Number, after},
};
use bellwether_store::clock::now_ms;
use tokio::sync::oneshot;

use crate::{
    Manager, failpoints, group,
    publish::{PublishError, Request},
    publisher::Command,
    reached::Missing,
    shared::{SaveError, Shared},
};

pub use crate::group::By;

/// How often edits that come in between are published before the handover gives up.
const TRIES: usize = 5;

/// What the old manager becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It follows the new one.
    Member,
    /// It is known, and sent nothing: for its maintenance, or because it is lost.
    Disabled,
    /// It is not of the group any more.
    Removed,
}

/// Why the role does not change. The record stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleRefused {
    /// Never heard of.
    #[error("there is no server {0} in this group")]
    Unknown(ServerName),
    /// It is sent nothing.
    #[error("{0} is disabled, so it does not have what the manager has")]
    Disabled(ServerName),
    /// It may not become manager.
    #[error("{0} is not a candidate: it may not become manager")]
    NoCandidate(ServerName),
    /// No epoch that is free can be reached in one step.
    #[error(
        "epoch {seen} is in use, and from {held} one record leads to epoch {most} at most",
        most = held.0 + limits::EPOCH_STEP
    )]
    Epochs {
        /// The highest that is known anywhere.
        seen: Epoch,
        /// That of the record held here.
        held: Epoch,
    },
    /// A number that cannot be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Its key is not in the record.
    #[error("this server is not in the group record that it holds; let it join again")]
    Stranger,
}

impl Advise for RoleRefused {
    fn advice(&self) -> Option<Advice> {
        Some(match self {
            Self::Unknown(_) => Advice::run("see", "bellwether server list"),
            Self::Disabled(name) => Advice::run("first", format!("bellwether server enable {name}")),
            Self::NoCandidate(name) => {
                Advice::run("first, at the manager", format!("bellwether server set {name} --candidate yes"))
            }
            Self::Stranger => Advice::say("let it join again, with a token"),
            Self::Epochs { .. } => Advice::run(
                "if a server that cannot be trusted made that epoch, here",
                "bellwether group rebuild --refuse KEY",
            ),
            Self::Malformed(_) => return None,
        })
    }
}

/// The record with which the manager hands over to `to`, by one epoch; none: that one is the manager.
///
/// # Errors
/// `to` cannot become manager.
pub fn hand_over(held: &SignedRecord, to: &ServerName, leave: Leave, by: &By) -> Result<Option<Record>, RoleRefused> {
    let server = held.record().server(to).ok_or_else(|| RoleRefused::Unknown(to.clone()))?;
    if server.role == Role::Manager {
        return Ok(None);
    }
    eligible(server)?;
    let epoch = raised(held, Epoch(0), 1)?;
    let what = format!("promote {to}{}", told(leave));
    Ok(Some(turned(held, epoch, &server.key.clone(), leave, by, what)))
}

/// By how many epochs a server takes over.
pub(crate) const TAKEOVER: u64 = 2;

/// The epoch that is `by` above that of `held` and above `seen`, the highest that is known anywhere: what others have used
/// is skipped, as far as one step leads.
///
/// # Errors
/// It does not lead so far.
pub(crate) fn raised(held: &SignedRecord, seen: Epoch, by: u64) -> Result<Epoch, RoleRefused> {
    let own = held.record().version.epoch;
    let epoch = Epoch(after(own.max(seen).0, by, "epoch")?);
    if epoch.0 - own.0 > limits::EPOCH_STEP {
        return Err(RoleRefused::Epochs { seen, held: own });
    }
    Ok(epoch)
}

/// The record with which the server of key `own` takes over, by two epochs: a handover to it that nobody has heard of
/// never stands in its way. `seen` is the highest epoch that is known anywhere. A manager raises its own epoch.
///
/// # Errors
/// It cannot become manager.
pub fn take_over(
    held: &SignedRecord,
    own: &PublicKey,
    leave: Leave,
    seen: Epoch,
    by: &By,
) -> Result<Record, RoleRefused> {
    let server = held.record().by_key(own).ok_or(RoleRefused::Stranger)?;
    if server.role != Role::Manager {
        eligible(server)?;
    }
    let epoch = raised(held, seen, TAKEOVER)?;
    let lost = &held.record().manager().name;
    let what = if server.role == Role::Manager {
        format!("promote --self --force at {}", server.name)
    } else {
        format!("promote --self at {}, without {lost}{}", server.name, told(leave))
    };
    Ok(turned(held, epoch, own, leave, by, what))
}

pub(crate) fn eligible(server: &Server) -> Result<(), RoleRefused> {
    match server.role {
        Role::Disabled => Err(RoleRefused::Disabled(server.name.clone())),
        Role::Member if !server.candidate => Err(RoleRefused::NoCandidate(server.name.clone())),
        Role::Member | Role::Manager => Ok(()),
    }
}

fn told(leave: Leave) -> &'static str {
    match leave {
        Leave::Member => "",
        Leave::Disabled => ", the old manager disabled",
        Leave::Removed => ", the old manager removed",
    }
}

/// The record after `held` in which the server of `key` is the manager of `epoch`.
fn turned(held: &SignedRecord, epoch: Epoch, key: &PublicKey, leave: Leave, by: &By, what: String) -> Record {
    let old = held.record().manager().clone();
    group::next(held, by, what, |record| {
        if old.key != *key {
            match leave {
                Leave::Member => set_role(record, &old.key, Role::Member),
                Leave::Disabled => set_role(record, &old.key, Role::Disabled),
                Leave::Removed => group::remove_from(record, &old.name),
            }
            set_role(record, key, Role::Manager);
        }
        // What `next` adds is one.
        record.version = Version { epoch, version: 0 };
    })
}

pub(crate) fn set_role(record: &mut Record, key: &PublicKey, role: Role) {
    record.servers.iter_mut().filter(|server| server.key == *key).for_each(|server| server.role = role);
}

/// Why the role was not handed over: this server is the manager still, and goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// A rule says no.
    #[error(transparent)]
    Refused(#[from] RoleRefused),
    /// There are edits that would be left behind.
    #[error("{0} entries here differ from the head and are not published")]
    Unpublished(u64),
    /// What was edited cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Another command has the role handed over at this moment.
    #[error("the role is being handed over to {0} at this moment, by an earlier command")]
    UnderWay(ServerName),
    /// The new manager does not have what this one has.
    #[error("{to} does not have everything: {why}; {from} is the manager still and goes on")]
    Behind {
        /// The new manager to be.
        to: ServerName,
        /// This server.
        from: ServerName,
        /// What is missing.
        why: String,
    },
    /// A record that cannot be signed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It could not be made durable.
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
            Self::UnderWay(_) => Some(Advice::run("wait for it; see", "bellwether status")),
            Self::Behind { .. } | Self::Malformed(_) | Self::Save(_) => None,
        }
    }
}

/// While it lives, nothing is published.
struct Hold(oneshot::Sender<()>);

impl Hold {
    /// Until the manager has stopped.
    fn stay(self) {
        // Nobody there: it has stopped.
        let _ = self.0.send(());
    }
}

/// The one handover that is under way, until it is dropped.
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
    /// names it (with this server's key, under the next epoch). When this returns, this server is not the manager any
    /// more; whoever runs it stops it, and tells `to`. Given up (dropped) before that, it goes on as the manager.
    ///
    /// # Errors
    /// Why not; nothing was changed.
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
        let _turn = Turn::of(&shared, to)?;
        let hold = self.hold(author).await?;
        let editing = shared.editing.clone().lock_owned().await;
        failpoints::hit("handover.held");
        let held = self.record();
        let Some(next) = hand_over(&held, to, leave, &by)? else { return Ok(held) };
        self.wait_for(to, held.record().version).await?;
        // One that was frozen since would have the role and not know it.
        self.answers(to).await.map_err(|why| self.behind(to, why))?;
        failpoints::hit("handover.waited");
        let next = Arc::new(SignedRecord::sign(next, &shared.key)?);
        // Not to be cancelled: from the save on there is no way back.
        let save = move || {
            failpoints::hit("handover.signed");
            (shared.save_record)(&next)?;
            failpoints::hit("handover.saved");
            hold.stay();
            drop(editing);
            tracing::info!(record = %next.record().version, to = %next.record().manager().name, "the role is handed over");
            Ok(next)
        };
        tokio::task::spawn_blocking(save).await.map_err(|_| PublishError::Stopping)?
    }

    /// Publishes what was edited, then holds the publisher.
    async fn hold(&self, author: &str) -> Result<Hold, HandOverError> {
        let automatic = || self.record().record().policy.publish == Publish::Auto;
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
        let reached = shared.reached.borrow();
        reached.holds(to, head)?;
        match reached.get(to) {
            Some(server) if server.record >= version => Ok(()),
            _ => Err(Missing::Yet(format!("it has not taken group record {version} yet"))),
        }
    }

    fn behind(&self, to: &ServerName, why: String) -> HandOverError {
        HandOverError::Behind { to: to.clone(), from: self.inner.shared.name.clone(), why }
    }
}

#[cfg(test)]
mod tests;
