//! Who belongs to the group, as the manager is asked for it: each change is durable before it is answered, the lanes
//! follow the record (W9, W16, W21).

use std::sync::Arc;

use bellwether_proto::{
    key::PublicKey,
    name::ServerName,
    record::{Record, Role, Server, SignedRecord},
    start,
    status::{Event, Observation},
    token::Token,
    v1,
};

use tokio::sync::oneshot;

use crate::{
    EnterError, Manager, SPREAD, by,
    group::{self, By, GroupRefused, ServerChange},
    lane::Control,
    lanes::ToLanes,
    sessions,
    shared::{EditError, now_ms},
    tokens::{Grant, Presented},
};

/// How long a server may take to show that it lives.
const PROBE: std::time::Duration = std::time::Duration::from_secs(3);

impl Manager {
    /// Adds a server again that was removed or disabled.
    ///
    /// # Errors
    /// The record is as it was.
    pub async fn add_server(
        &self,
        name: &ServerName,
        author: &str,
        dry_run: bool,
    ) -> Result<Arc<SignedRecord>, EditError> {
        self.edit_servers(|held| group::add_again(held, name, &by(author)), dry_run).await
    }

    /// Removes a server: its lane ends at once, and it is refused from its next call on.
    ///
    /// # Errors
    /// The record is as it was.
    pub async fn remove_server(
        &self,
        name: &ServerName,
        author: &str,
        dry_run: bool,
    ) -> Result<Arc<SignedRecord>, EditError> {
        self.edit_servers(|held| group::remove(held, name, &by(author)), dry_run).await
    }

    /// Disables a server: its lane ends at once, it is sent nothing more and its calls are refused.
    ///
    /// # Errors
    /// The record is as it was.
    pub async fn disable_server(
        &self,
        name: &ServerName,
        author: &str,
        dry_run: bool,
    ) -> Result<Arc<SignedRecord>, EditError> {
        self.edit_servers(|held| group::disable(held, name, &by(author)), dry_run).await
    }

    /// Enables a server that was disabled: its lane begins with a sync.
    ///
    /// # Errors
    /// The record is as it was.
    pub async fn enable_server(
        &self,
        name: &ServerName,
        author: &str,
        dry_run: bool,
    ) -> Result<Arc<SignedRecord>, EditError> {
        self.edit_servers(|held| group::enable(held, name, &by(author)), dry_run).await
    }

    /// Changes a server's address, candidacy or places at balancers.
    ///
    /// # Errors
    /// The record is as it was.
    pub async fn set_server(
        &self,
        name: &ServerName,
        change: &ServerChange,
        author: &str,
        dry_run: bool,
    ) -> Result<Arc<SignedRecord>, EditError> {
        self.edit_servers(|held| group::set_server(held, name, change, &by(author)), dry_run).await
    }

    /// Makes a token with which new hardware takes the place of a server, for so many milliseconds; none with `dry_run`.
    ///
    /// # Errors
    /// The name is the manager's or nobody's, or the token could not be saved.
    pub async fn replace_server(
        &self,
        name: &ServerName,
        ttl_ms: u64,
        dry_run: bool,
    ) -> Result<Option<Token>, EnterError> {
        group::may_replace(&self.record(), name).map_err(EditError::from)?;
        if dry_run {
            return Ok(None);
        }
        // A name has none of the characters that mean something in a glob.
        let grant = Grant { uses: 1, ttl_ms, names: name.to_string(), replaces: true };
        self.create_token(grant).await.map(Some)
    }

    /// A server has left the group on its own machine: it is shown so; the record is an administrator's to change (W16).
    pub fn departed(&self, name: &ServerName) {
        self.inner.shared.see(Event::Server(name.clone(), Observation::Left));
    }

    /// Whether a call that says to come from the start `incarnation` of that server may be its: not where the server
    /// lives that another start of it is connected (W14). `whence` is for the warning.
    ///
    /// # Errors
    /// It is a copy of that server, for people.
    pub async fn recognise(&self, name: &ServerName, incarnation: u64, whence: &str) -> Result<(), String> {
        let shared = &self.inner.shared;
        let mut live = shared.live.subscribe();
        let connected = live.borrow_and_update().get(name).copied();
        let Some(connected) = connected.filter(|live| start::is_copy(live.incarnation, incarnation)) else {
            return Ok(());
        };
        let since = now_ms();
        let (answer, _) = oneshot::channel();
        let probe = ToLanes { servers: vec![name.clone()], control: Control::Probe, answer };
        // Full or gone: then the next keepalive tells.
        let _ = self.inner.lanes.try_send(probe);
        let told = live.wait_for(|live| match live.get(name) {
            Some(now) => now.incarnation != connected.incarnation || now.beat >= since,
            None => true,
        });
        let lives = match tokio::time::timeout(PROBE, told).await {
            Ok(Ok(live)) => live.get(name).is_some_and(|now| now.incarnation == connected.incarnation),
            // It does not answer: what is connected is gone, or will be found to be.
            Ok(Err(_)) | Err(_) => false,
        };
        if !lives {
            return Ok(());
        }
        let copy = format!(
            "a copy of {name} at {whence}: it has the same key and says that it was started {} times, the one that is \
             connected and alive {} times",
            start::opened(incarnation),
            start::opened(connected.incarnation)
        );
        shared.see(Event::Server(name.clone(), Observation::Knocked(format!("{copy}; it was refused"))));
        Err(copy)
    }

    async fn edit_servers(
        &self,
        rule: impl FnOnce(&SignedRecord) -> Result<Option<Record>, GroupRefused>,
        dry_run: bool,
    ) -> Result<Arc<SignedRecord>, EditError> {
        self.inner.shared.edit(|held| rule(held).map(|next| next.filter(|_| !dry_run))).await
    }

    /// The members that have not taken the record in force, after a second at most. Servers that are disabled are told
    /// nothing: they are not waited for.
    pub async fn lacking(&self) -> Vec<ServerName> {
        let record = self.record();
        let version = record.record().version;
        let members = || record.record().servers.iter().filter(|server| server.role == Role::Member);
        let mut records = self.inner.shared.records.subscribe();
        let spread = records.wait_for(|records| records.values().all(|held| *held >= version));
        // A timeout: some lack it, and are named.
        let _ = tokio::time::timeout(SPREAD, spread).await;
        let records = self.inner.shared.records.borrow();
        let lacks = |server: &&Server| records.get(&server.name).is_none_or(|held| *held < version);
        members().filter(lacks).map(|server| server.name.clone()).collect()
    }

    /// A server enters with a token: the token's use, then the record, are durable when this returns. `key` is what its
    /// connection proved. Idempotent for that key.
    ///
    /// # Errors
    /// Why it does not enter; the token's use may be bound to its key by then, so that it can come again.
    pub async fn enter(&self, request: &v1::EnterRequest, key: &PublicKey) -> Result<Arc<SignedRecord>, EnterError> {
        let (name, replaces) = self.admit(request, key).await?;
        // It comes without a state: the sessions that it, or whoever had the name, has had say nothing any more.
        let (state, whose) = (self.inner.shared.state.clone(), name.clone());
        let forget = move || sessions::forget(&state, &whose);
        tokio::task::spawn_blocking(forget).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        let by = by(name.as_str());
        let shared = &self.inner.shared;
        Ok(shared.edit(|held| entered(held, &name, key, &request.address, replaces, &by)).await?)
    }

    /// Checks a token, that the record would take the server, and its sets; binds the token to its key. Returns its name,
    /// and whether it takes the place of the server of that name.
    pub(crate) async fn admit(
        &self,
        request: &v1::EnterRequest,
        key: &PublicKey,
    ) -> Result<(ServerName, bool), EnterError> {
        let name: ServerName = request.server.parse()?;
        let mut tokens = self.inner.tokens.lock().await;
        let mut next = tokens.clone();
        let presented = Presented { id: &request.token_id, secret: &request.secret, name: &name, key };
        let changed = next.present(presented, now_ms())?;
        let replaces = next.replaces(&request.token_id);
        // Only who has the secret learns more.
        let record = self.record();
        let by = by(name.as_str());
        entered(&record, &name, key, &request.address, replaces, &by).map_err(EditError::from)?;
        let lacks =
            |rules: &&bellwether_proto::record::SetRules| !request.sets.iter().any(|s| s == rules.name.as_str());
        if let Some(rules) = record.record().policy.sets.iter().find(lacks) {
            return Err(EnterError::Set(rules.name.clone()));
        }
        if changed {
            self.save_tokens(&mut tokens, next).await?;
        }
        Ok((name, replaces))
    }
}

pub(crate) fn entered(
    held: &SignedRecord,
    name: &ServerName,
    key: &PublicKey,
    address: &str,
    replaces: bool,
    by: &By,
) -> Result<Option<Record>, GroupRefused> {
    if replaces { group::replace(held, name, key, address, by) } else { group::enter(held, name, key, address, by) }
}
