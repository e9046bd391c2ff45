//! Changes of the group's members: each is durable before it is answered, and the lanes follow (W9, W16, W21).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bellwether_group::{
    edits::{self, GroupRefused, RecordEdit},
    tokens::{Grant, Tokens},
};
use bellwether_proto::{
    clock::now_ms,
    incarnation,
    name::ServerName,
    record::{Record, Role, Server, SignedRecord},
    status::{Event, Observation},
    token::Token,
};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::by;
use crate::{
    Manager,
    lane::{Control, lanes::ToLanes},
    members::entering::EnterError,
    shared::EditError,
};

/// The time to wait until the reached servers have taken a new record.
const SPREAD: Duration = Duration::from_secs(1);

/// The time that a server has to show that it is alive.
const PROBE: std::time::Duration = std::time::Duration::from_secs(3);
/// The time that a server has to answer before it is given a role.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);

impl Manager {
    /// Changes the group record; with `dry_run` only checks the change. A removed or disabled server is refused from
    /// its next call on, and its lane ends at once.
    ///
    /// # Errors
    /// The record is unchanged.
    pub async fn edit_record(
        &self,
        edit: &RecordEdit,
        author: &str,
        dry_run: bool,
    ) -> Result<Arc<SignedRecord>, EditError> {
        let (shared, by) = (&self.inner.shared, by(author));
        let rule = |held: &SignedRecord| {
            let next = edits::apply(held, edit, &shared.programs(), &by)?;
            Ok::<_, GroupRefused>(next.filter(|_| !dry_run))
        };
        // Held to the end: a server that enters at this moment has entered before, or is refused.
        let _tokens = match edit {
            RecordEdit::Remove(name) => Some(self.bar(name, &rule).await?),
            _ => None,
        };
        shared.edit(rule).await
    }

    /// If the rule removes a server, ends the tokens that would admit it again. This is durable before the removal: a
    /// crash in between leaves a member that needs another token to enter anew.
    async fn bar(
        &self,
        name: &ServerName,
        rule: &impl Fn(&SignedRecord) -> Result<Option<Record>, GroupRefused>,
    ) -> Result<OwnedMutexGuard<Tokens>, EditError> {
        let tokens = self.inner.tokens.clone().lock_owned().await;
        let held = self.record();
        let mut next = tokens.clone();
        if let Some(server) = rule(&held)?.and(held.record().server(name)) {
            next.remove(name, &server.key);
        }
        self.save_tokens(tokens, next).await.map_err(EditError::Tokens)
    }

    /// The tokens that a removed server of that name has used, and that admit further servers.
    pub async fn left_open_by(&self, name: &ServerName) -> Vec<String> {
        let record = self.record();
        let gone = record.record().removed.iter().rfind(|server| server.name == *name);
        let Some(gone) = gone else { return Vec::new() };
        self.inner.tokens.lock().await.left_open_by(&gone.key, now_ms())
    }

    /// Makes a token with which new hardware takes the place of a server, for `ttl_ms`; none with `dry_run`.
    ///
    /// # Errors
    /// The name is the manager's or unknown, or the token could not be saved.
    pub async fn replace_server(
        &self,
        name: &ServerName,
        ttl_ms: u64,
        dry_run: bool,
    ) -> Result<Option<Token>, EnterError> {
        edits::may_replace(&self.record(), name).map_err(EditError::from)?;
        if dry_run {
            return Ok(None);
        }
        // A name has no special characters of globs.
        let grant = Grant { uses: 1, ttl_ms, names: name.to_string(), replaces: true };
        self.create_token(grant).await.map(Some)
    }

    /// Shows that a server has left the group on its own machine; the record is an administrator's to change (W16).
    pub fn departed(&self, name: &ServerName) {
        self.inner.shared.see(Event::Server(name.clone(), Observation::Left));
    }

    /// Checks that a call with that `incarnation` may be the server's: not if a connected incarnation of it is alive
    /// (W14). `whence` is for the warning.
    ///
    /// # Errors
    /// It is a copy of that server, for people.
    pub async fn judge_caller(&self, name: &ServerName, incarnation: u64, whence: &str) -> Result<(), String> {
        let shared = &self.inner.shared;
        let mut reached = shared.reached.subscribe();
        let connected = reached.borrow_and_update().get(name).map(|server| server.incarnation);
        let Some(connected) = connected.filter(|connected| incarnation::is_copy(*connected, incarnation)) else {
            return Ok(());
        };
        let since = now_ms();
        self.probe(name);
        let told = reached.wait_for(|reached| match reached.get(name) {
            Some(now) => now.incarnation != connected || now.beat >= since,
            None => true,
        });
        let lives = match tokio::time::timeout(PROBE, told).await {
            Ok(Ok(reached)) => reached.get(name).is_some_and(|now| now.incarnation == connected),
            // No answer: the connection is gone, or will turn out to be.
            Ok(Err(_)) | Err(_) => false,
        };
        if !lives {
            return Ok(());
        }
        let copy = format!(
            "a copy of {name} at {whence}: it has the same key and says that it was started {} times, the one that is \
             connected and alive {} times",
            incarnation::opened(incarnation),
            incarnation::opened(connected)
        );
        shared.see(Event::Server(name.clone(), Observation::Knocked(format!("{copy}; it was refused"))));
        Err(copy)
    }

    /// Sends its next keepalive now.
    fn probe(&self, name: &ServerName) {
        let (answer, _) = oneshot::channel();
        let probe = ToLanes { servers: vec![name.clone()], control: Control::Probe, answer };
        // If the queue is full or gone, the next keepalive tells.
        let _ = self.inner.lanes.try_send(probe);
    }

    /// Asks a server now whether it is alive: an open connection does not show that.
    ///
    /// # Errors
    /// It does not answer, for people.
    pub async fn answers(&self, name: &ServerName) -> Result<(), String> {
        let mut reached = self.inner.shared.reached.subscribe();
        let since = now_ms();
        self.probe(name);
        let told = reached.wait_for(|reached| reached.get(name).is_some_and(|server| server.beat >= since));
        match tokio::time::timeout(ANSWER, told).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(format!("it was asked just now and has not answered for {} s", ANSWER.as_secs()))
            }
        }
    }

    /// The candidates that have the newest document of procedures.
    pub fn informed(&self) -> BTreeSet<ServerName> {
        let shared = &self.inner.shared;
        let newest = shared.procedure_store.version();
        let reached = shared.reached.borrow();
        let informed = reached.iter().filter(|(_, server)| server.procedures.is_some() && server.procedures == newest);
        informed.map(|(name, _)| name.clone()).collect()
    }

    /// The members that have not taken the record in force, after at most a second. Disabled servers do not count.
    pub async fn lacking(&self) -> Vec<ServerName> {
        let record = self.record();
        let version = record.record().version;
        let members = || record.record().servers.iter().filter(|server| server.role == Role::Member);
        let mut reached = self.inner.shared.reached.subscribe();
        let spread = reached.wait_for(|reached| reached.iter().all(|(_, server)| server.record >= version));
        // At a timeout some lack it, and are named.
        let _ = tokio::time::timeout(SPREAD, spread).await;
        let reached = self.inner.shared.reached.borrow();
        let lacks = |server: &&Server| reached.get(&server.name).is_none_or(|reached| reached.record < version);
        members().filter(lacks).map(|server| server.name.clone()).collect()
    }
}
