//! The handle of the running manager.

use std::sync::Arc;

use bellwether_group::{
    edits::{GroupRefused, RecordEdit},
    tokens::Tokens,
};
use bellwether_proto::{
    Malformed,
    entry::EntryPath,
    level::Level,
    limits,
    name::ServerName,
    record::{Role, SignedRecord},
    revision::{RevisionName, SignedHeader, check_labels, check_message},
    status::{Event, Observation},
    v1,
};
use bellwether_store::{log::Log, tree::Tree};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    Adopt, AdoptError, Adopted, ChangeError, Changed, Discard, DiscardError, Discarded, FileRead, PublishError,
    Published, ReadError, Request, Rollback, RollbackError, RolledBack,
    balancer::{Balancers, Locals},
    lane::{Control, lanes::ToLanes},
    publish::{
        preview::Previews,
        publisher::Command,
        read::{self, Wanted},
    },
    shared::Shared,
};

/// The running manager. Clones share it.
#[derive(Clone)]
pub struct Manager {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) lanes: mpsc::Sender<ToLanes>,
    pub(crate) balancers: Locals,
    pub(crate) previews: Arc<Previews>,
    pub(crate) tokens: Arc<Mutex<Tokens>>,
    pub(crate) tasks: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

impl Manager {
    /// Waits until every task has ended, after `shutdown` was given. A started publish is finished first.
    pub async fn stopped(&self) {
        for (name, task) in self.inner.tasks.lock().await.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(task = name, %error, "ended badly");
            }
        }
    }

    /// The record in force.
    pub fn record(&self) -> Arc<SignedRecord> {
        self.inner.shared.record.borrow().clone()
    }

    /// The head revision.
    pub fn head(&self) -> SignedHeader {
        self.inner.shared.head.borrow().stored.header.clone()
    }

    /// The newest `count` revisions, oldest first.
    pub fn newest(&self, count: usize) -> Vec<SignedHeader> {
        let history = self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all: Vec<_> = history.all().map(|stored| &stored.header).collect();
        all[all.len().saturating_sub(count)..].iter().map(|header| (*header).clone()).collect()
    }

    /// Whether the head descends from that revision, as far as the history goes back.
    pub fn leads_from(&self, at: bellwether_proto::revision::RevisionId) -> bool {
        self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner).leads_from(at)
    }

    /// Whether a server with the revision of that number comes to the head by increments in order.
    pub fn is_in_order(&self, at: bellwether_proto::revision::Number) -> bool {
        let history = self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = history.all().find(|stored| stored.header.number() == at).map(|stored| stored.header.id());
        held.is_some_and(|id| history.leads_from(id))
    }

    /// The log of the history.
    pub fn log(&self) -> Arc<Log> {
        self.inner.shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner).log().clone()
    }

    /// The head revision's tree.
    pub fn tree(&self) -> Arc<Tree> {
        self.inner.shared.head.borrow().tree.clone()
    }

    /// Publishes the differences from the head, now.
    ///
    /// # Errors
    /// Nothing was published; the reason is shown as unpublished edits, too.
    pub async fn publish(&self, request: Request) -> Result<Published, PublishError> {
        check_message(&request.message)?;
        check_labels(&request.labels)?;
        if let Some(ms) = request.confirm_within_ms {
            if !limits::CONFIRM_WITHIN.contains(&ms) {
                let what = format!("{} s for a confirmation; it may be 10 s to a day", ms / 1_000);
                return Err(Malformed::new(what).into());
            }
            let level = self.record().record().level;
            if level < Level(2) {
                return Err(PublishError::Level(level));
            }
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Publish(request, answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// Puts or removes one file by compare-and-swap and publishes it at once (W5).
    ///
    /// # Errors
    /// The error says what was left unchanged.
    pub async fn change(&self, request: v1::ChangeRequest) -> Result<Changed, ChangeError> {
        let asked = Box::new(request.try_into()?);
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Change(asked, answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// Makes a member's edits the manager's own and publishes them at once, all or none (W3).
    ///
    /// # Errors
    /// The error says what was left unchanged.
    pub async fn adopt(&self, adopt: Adopt) -> Result<Adopted, AdoptError> {
        check_message(&adopt.message)?;
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Adopt(Box::new(adopt), answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// Makes earlier content the manager's own again and publishes it at once. With `hold`, propagation is paused first, so
    /// that no edit that comes meanwhile is sent; the new revision is sent all the same
    /// ([`bellwether_group::rollout::holds_watching`]).
    ///
    /// # Errors
    /// The error says what was left unchanged.
    pub async fn rollback(&self, rollback: Rollback) -> Result<RolledBack, RollbackError> {
        check_message(&rollback.message)?;
        if !rollback.hold || rollback.dry_run {
            return self.roll_back(rollback).await;
        }
        let plan = self.roll_back(Rollback { dry_run: true, ..rollback.clone() }).await?;
        let rollback = Rollback { to: RevisionName::Number(plan.to), ..rollback };
        let (author, was_paused) = (rollback.author.clone(), self.record().record().policy.paused);
        self.edit_record(&RecordEdit::Paused(true), &author, false).await.map_err(RollbackError::Hold)?;
        let mut back = match self.roll_back(rollback).await {
            Ok(back) => back,
            Err(error) if was_paused => return Err(error),
            Err(error) => {
                self.edit_record(&RecordEdit::Paused(false), &author, false).await.map_err(RollbackError::Hold)?;
                return Err(error);
            }
        };
        back.held = self.inner.shared.holds_watching();
        if !back.held {
            back.notes.push("propagation is paused: no revision goes to a member until: bellwether resume".to_owned());
        }
        Ok(back)
    }

    /// Drops edits of the manager's sets that are not published.
    ///
    /// # Errors
    /// The error says what was left unchanged.
    pub async fn discard(&self, discard: Discard) -> Result<Discarded, DiscardError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Discard(discard, answer)).await;
        sent.map_err(|_| DiscardError::Stopping)?;
        answered.await.map_err(|_| DiscardError::Stopping)?
    }

    async fn roll_back(&self, rollback: Rollback) -> Result<RolledBack, RollbackError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Rollback(Box::new(rollback), answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// The manager's sets as they are now, with entries that cannot be read as in the head. Nothing is published.
    ///
    /// # Errors
    /// They cannot be scanned.
    pub async fn look(&self) -> Result<Tree, PublishError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.commands.send(Command::Look(answer)).await;
        sent.map_err(|_| PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// Reads one file of the head revision.
    ///
    /// # Errors
    /// No such file, or it cannot be read.
    pub async fn read(&self, request: v1::ReadRequest) -> Result<FileRead, ReadError> {
        let (set, path) = (request.set.parse()?, EntryPath::new(&request.path)?);
        let (shared, wanted) = (self.inner.shared.clone(), Wanted::of(&request));
        let read = move || read::read(&shared, set, path, wanted);
        tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Stopping)?
    }

    /// Reads one file of the revision of that name.
    ///
    /// # Errors
    /// No such revision or file, or it cannot be read.
    pub async fn read_at(&self, name: RevisionName, request: v1::ReadRequest) -> Result<FileRead, ReadError> {
        let (set, path, past) = (request.set.parse()?, EntryPath::new(&request.path)?, self.past());
        let wanted = Wanted::of(&request);
        let read = move || read::read_at(&past, &past.find(name)?, (set, path), wanted);
        tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Stopping)?
    }

    /// The group's balancers, as the record in force names them and this machine reaches them.
    pub fn balancers(&self) -> Balancers {
        Balancers::new(self.record().record(), &self.inner.balancers)
    }

    /// Asks members to come to the head whatever their state (W8), or only to verify it. This server itself, if it is named,
    /// runs its own commands again: its sets hold the head, but its services may not.
    ///
    /// # Errors
    /// No server of the group has one of the names; no server was asked.
    pub async fn sync(
        &self,
        servers: Vec<ServerName>,
        full: bool,
        verify_only: bool,
    ) -> Result<Vec<ServerName>, GroupRefused> {
        let record = self.record();
        if let Some(unknown) = servers.iter().find(|name| record.record().server(name).is_none()) {
            return Err(GroupRefused::Unknown(unknown.clone()));
        }
        let disabled = |name: &&ServerName| record.record().server(name).is_some_and(|s| s.role == Role::Disabled);
        if let Some(disabled) = servers.iter().find(disabled) {
            return Err(GroupRefused::Disabled(disabled.clone()));
        }
        if !verify_only && self.inner.shared.publishes_by_itself() {
            // Edits within the debounce interval are included (W6). Refused ones are shown, and the head is sent.
            if let Err(error) = self.publish(Request::default()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "not published before the sync");
            }
        }
        let shared = &self.inner.shared;
        let proves = servers.contains(&shared.name) && !shared.commands.is_empty();
        let control = if verify_only { Control::Verify { full } } else { Control::Sync { full } };
        let (answer, answered) = oneshot::channel();
        let _ = self.inner.lanes.send(ToLanes { servers, control, answer }).await;
        // Without an answer the manager stops, and no server was asked.
        let mut asked = answered.await.unwrap_or_default();
        if verify_only {
            return Ok(asked);
        }
        self.tell_syncing(&asked);
        if proves {
            let (answer, answered) = oneshot::channel();
            // Without an answer the manager stops.
            if self.inner.commands.send(Command::Prove(answer)).await.is_ok() && answered.await.is_ok() {
                asked.push(self.inner.shared.name.clone());
            }
        }
        Ok(asked)
    }

    /// Shows the sync at once: a caller that looks at the status next must not take the earlier state for its end.
    fn tell_syncing(&self, asked: &[ServerName]) {
        let shared = &self.inner.shared;
        let to = shared.head.borrow().stored.header.number();
        let is_reached = |server: &&ServerName| shared.reached.borrow().get(server).is_some();
        for server in asked.iter().filter(is_reached) {
            shared.see(Event::Server(server.clone(), Observation::Started { sync: true, to }));
        }
    }

    /// Dials a member that called, if it was out of reach.
    pub fn heard(&self, server: &ServerName) {
        let (answer, _) = oneshot::channel();
        // If the queue is full or gone, it is dialled again anyway, only later.
        let _ = self.inner.lanes.try_send(ToLanes { servers: vec![server.clone()], control: Control::Heard, answer });
    }

    /// The records that made each manager, oldest first, for a server that enters.
    pub fn chain(&self) -> Vec<v1::SignedRecord> {
        self.inner.shared.chain.clone()
    }
}
