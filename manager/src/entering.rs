//! Tokens, and the servers that enter with them: each change is durable before it is answered (W9, W16).
//!
//! The tokens are locked from the look at them until the record that follows is in force, and by a removal as well: nobody
//! enters by a token that a removal ends at the same time. What a server that is in the group asks for here changes its
//! address at the most, and nothing by which it, or this manager, is recognised (see [`crate::sessions`]).

use std::sync::Arc;

use bellwether_proto::{
    key::PublicKey,
    level::{Levels, Program},
    name::ServerName,
    record::{Record, SetRules, SignedRecord},
    ticket::Parties,
    token::Token,
    v1,
};
use bellwether_store::{
    clock::now_ms,
    state_file::{self, StateFileError},
};
use tokio::sync::OwnedMutexGuard;

use crate::{
    EnterError, Manager, Preview, PreviewError, by, failpoints,
    group::{self, By, GroupRefused},
    publish::PublishError,
    shared::EditError,
    start,
    tokens::{Grant, Kept, Presented, Tokens},
};

/// Characters of a program's version that are shown.
const VERSION: usize = 100;

/// A server that a token admits. The tokens are locked.
pub(crate) struct Admitted {
    pub(crate) name: ServerName,
    /// It takes the place of the server of that name.
    pub(crate) replaces: bool,
    pub(crate) tokens: OwnedMutexGuard<Tokens>,
    /// With the use that is bound to its key.
    pub(crate) next: Tokens,
}

impl Manager {
    /// Makes a token; returns it with its secret, which is kept nowhere.
    ///
    /// # Errors
    /// A grant of nothing, or it could not be saved.
    pub async fn create_token(&self, grant: Grant) -> Result<Token, EnterError> {
        let record = self.record();
        let manager = record.record().manager();
        let address = carried(&manager.address).await?;
        let tokens = self.inner.tokens.clone().lock_owned().await;
        let mut next = tokens.clone();
        let (id, secret) = next.create(grant, now_ms())?;
        drop(self.save_tokens(tokens, next).await?);
        Ok(Token { address, manager: manager.key, id, secret })
    }

    /// All tokens, without their secrets.
    pub async fn list_tokens(&self) -> Vec<(String, Kept)> {
        let tokens = self.inner.tokens.lock().await;
        tokens.list().map(|(id, kept)| (id.to_owned(), kept.clone())).collect()
    }

    /// Revokes a token; again is no error.
    ///
    /// # Errors
    /// No such token, or it could not be saved.
    pub async fn revoke_token(&self, id: &str) -> Result<(), EnterError> {
        let tokens = self.inner.tokens.clone().lock_owned().await;
        let mut next = tokens.clone();
        next.revoke(id)?;
        drop(self.save_tokens(tokens, next).await?);
        Ok(())
    }

    /// Not to be cancelled between the save and what is known here: both happen on the blocking thread.
    pub(crate) async fn save_tokens(
        &self,
        mut tokens: OwnedMutexGuard<Tokens>,
        next: Tokens,
    ) -> Result<OwnedMutexGuard<Tokens>, StateFileError> {
        if *tokens == next {
            return Ok(tokens);
        }
        let path = self.inner.shared.state.join(start::TOKENS);
        let save = move || {
            state_file::save(&path, &next)?;
            failpoints::hit("tokens.saved");
            *tokens = next;
            Ok(tokens)
        };
        tokio::task::spawn_blocking(save).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }

    /// A server enters with a token: the token's use, then the record, are durable when this returns. `key` is what its
    /// connection proved. Idempotent for that key, until it is removed.
    ///
    /// # Errors
    /// Why it does not enter; the token's use may be bound to its key by then, so that it can come again.
    pub async fn enter(&self, request: &v1::EnterRequest, key: &PublicKey) -> Result<Arc<SignedRecord>, EnterError> {
        let Admitted { name, replaces, tokens, mut next } = self.admit(request, key).await?;
        let (shared, record) = (&self.inner.shared, self.record());
        if let Some(old) = record.record().server(&name).filter(|old| replaces && old.key != *key) {
            next.bar(&old.key);
        }
        let _tokens = self.save_tokens(tokens, next).await?;
        let parties = Parties { group: record.record().group, server: *key, manager: shared.key.public() };
        let (sessions, epoch) = (shared.clone(), record.record().version.epoch);
        let note = move || sessions.sessions.entered(&parties, epoch);
        tokio::task::spawn_blocking(note).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        let by = by(name.as_str());
        Ok(shared.edit(|held| entered(held, &name, key, &request.address, replaces, &by)).await?)
    }

    /// The head's tree for a server that has a token, before it enters.
    ///
    /// # Errors
    /// The token is refused, or the preview cannot be made.
    pub async fn preview(&self, request: &v1::EnterRequest, key: &PublicKey) -> Result<Preview, PreviewError> {
        let Admitted { tokens, next, .. } = self.admit(request, key).await?;
        drop(self.save_tokens(tokens, next).await.map_err(EnterError::from)?);
        let shared = self.inner.shared.clone();
        let made = tokio::task::spawn_blocking(move || shared.previews.of_head(&shared)).await;
        Ok(made.map_err(|_| PublishError::Stopping)??)
    }

    /// Checks a token, that the record would take the server, and its sets.
    pub(crate) async fn admit(&self, request: &v1::EnterRequest, key: &PublicKey) -> Result<Admitted, EnterError> {
        let name: ServerName = request.server.parse()?;
        let tokens = self.inner.tokens.clone().lock_owned().await;
        let mut next = tokens.clone();
        next.present(Presented { id: &request.token_id, secret: &request.secret, name: &name, key }, now_ms())?;
        let replaces = next.replaces(&request.token_id);
        // Only who has the secret learns more.
        let record = self.record();
        let by = by(name.as_str());
        entered(&record, &name, key, &request.address, replaces, &by).map_err(EditError::from)?;
        let lacks = |rules: &&SetRules| !request.sets.iter().any(|s| s == rules.name.as_str());
        if let Some(rules) = record.record().policy.sets.iter().find(lacks) {
            return Err(EnterError::Set(rules.name.clone()));
        }
        let level = record.record().level;
        let levels = Levels::from_wire(request.level_oldest, request.level_newest);
        if !levels.read(level) {
            let version = request.version.chars().take(VERSION).filter(|c| !c.is_control()).collect();
            return Err(EnterError::Level { server: name, program: Program { version, levels }, level });
        }
        Ok(Admitted { name, replaces, tokens, next })
    }
}

/// The manager's address as a token carries it: a host name that is too long is looked up here.
async fn carried(address: &str) -> Result<String, EnterError> {
    if Token::fits(address) {
        return Ok(address.to_owned());
    }
    let found = tokio::net::lookup_host(address).await.ok().and_then(|mut found| found.next());
    found.map(|found| found.to_string()).ok_or_else(|| EnterError::LongAddress(address.to_owned()))
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
