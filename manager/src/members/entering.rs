//! Tokens, and the servers that enter with them: each change is durable before it is answered (W9, W16).
//!
//! The tokens are locked from their check until the new record is in force, and during a removal: no server enters by a
//! token that a removal ends at the same time. A server that is in the group changes at most its address here, and
//! nothing that identifies it or this manager (see [`crate::lane::sessions`]).

use std::sync::Arc;

use bellwether_group::{
    edits::{self, By, GroupRefused},
    tokens::{Grant, Kept, Presented, TokenRefused, Tokens},
};
use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    clock::now_ms,
    key::PublicKey,
    level::{Level, Levels, Program},
    name::ServerName,
    record::{Record, SetRules, SignedRecord},
    ticket::Parties,
    token::Token,
    v1,
};
use bellwether_store::state::file::{self, StateFileError};
use tokio::sync::OwnedMutexGuard;

use super::by;
use crate::{Manager, Preview, begin::start, failpoints, publish::round::PublishError, shared::EditError};

/// A server does not enter.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The request is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The token is refused.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// The record does not allow it.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The server's sets are not the group's.
    #[error("this server has no path for set {0}")]
    Set(bellwether_proto::name::SetName),
    /// The server does not read the group's level, or the group's is too old for it.
    #[error("{server} cannot enter: the group is of level {level}, and bellwether on {server} is {program}")]
    Level {
        /// The server that wants to enter.
        server: ServerName,
        /// Its program.
        program: Program,
        /// The group's level.
        level: Level,
    },
    /// The manager does not reach the server.
    #[error("{manager}, the manager, dialled {address} to reach {server}: {why}")]
    OutOfReach {
        /// The server that wants to enter.
        server: ServerName,
        /// The manager.
        manager: ServerName,
        /// The dialled address.
        address: String,
        /// The cause.
        why: String,
    },
    /// The manager's own address does not fit into a token.
    #[error("the manager's address, {0}, is too long for a token, and its name resolves to nothing here")]
    LongAddress(String),
    /// The use of the token could not be made durable.
    #[error("the token's use could not be saved; nothing was changed")]
    Save(#[from] StateFileError),
}

impl Advise for EnterError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Token(token) => token.advice(),
            Self::Edit(edit) => edit.advice(),
            Self::Set(set) => Some(Advice::say(format!("give it one (--set {set}=PATH) and join again"))),
            Self::LongAddress(_) => {
                Some(Advice::run("give the manager a shorter one", "bellwether server set NAME --address HOST:PORT"))
            }
            Self::OutOfReach { server, manager, .. } => Some(Advice::say(format!(
                "give the address at which {manager} reaches {server} (--advertise HOST:PORT), and open that port there"
            ))),
            Self::Level { server, program, level } if program.levels.newest < *level => {
                Some(Advice::say(format!("upgrade bellwether on {server}, then join again")))
            }
            Self::Level { program, .. } => {
                let raise = format!("bellwether group set --level {}", program.levels.oldest);
                Some(Advice::run("upgrade the group's servers first, then, at the manager", raise))
            }
            Self::Malformed(_) | Self::Save(_) => None,
        }
    }
}

/// There is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The token or the record does not allow it.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// It cannot be made.
    #[error("the preview cannot be made")]
    Make(#[from] PublishError),
}

impl Advise for PreviewError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Enter(enter) => enter.advice(),
            Self::Make(publish) => publish.advice(),
        }
    }
}

/// The most characters of a program's version that are shown.
const VERSION: usize = 100;

/// A server that a token admits. The tokens are locked.
pub(crate) struct Admitted {
    pub(crate) name: ServerName,
    /// Whether it takes the place of the server of that name.
    pub(crate) replaces: bool,
    pub(crate) tokens: OwnedMutexGuard<Tokens>,
    /// The tokens with the use that is bound to its key.
    pub(crate) next: Tokens,
}

impl Manager {
    /// Makes a token; returns it with its secret, which is not kept.
    ///
    /// # Errors
    /// The grant is empty, or it could not be saved.
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

    /// Revokes a token; a repeated call is no error.
    ///
    /// # Errors
    /// There is no such token, or it could not be saved.
    pub async fn revoke_token(&self, id: &str) -> Result<(), EnterError> {
        let tokens = self.inner.tokens.clone().lock_owned().await;
        let mut next = tokens.clone();
        next.revoke(id)?;
        drop(self.save_tokens(tokens, next).await?);
        Ok(())
    }

    /// Saves tokens. Cancelling cannot separate the save from the update in memory: both happen on the blocking thread.
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
            file::save(&path, &next)?;
            failpoints::hit("tokens.saved");
            *tokens = next;
            Ok(tokens)
        };
        tokio::task::spawn_blocking(save).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }

    /// Lets a server enter with a token: the token's use, then the record, are durable when this returns. `key` is the
    /// key that its connection proved. Idempotent for that key, until it is removed.
    ///
    /// # Errors
    /// The token's use may be bound to the server's key by then, so that it can come again.
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
        let (shared, previews) = (self.inner.shared.clone(), self.inner.previews.clone());
        let made = tokio::task::spawn_blocking(move || previews.of_head(&shared)).await;
        Ok(made.map_err(|_| PublishError::Stopping)??)
    }

    /// Checks the token, the server's sets, and that the record would accept the server.
    pub(crate) async fn admit(&self, request: &v1::EnterRequest, key: &PublicKey) -> Result<Admitted, EnterError> {
        let name: ServerName = request.server.parse()?;
        let tokens = self.inner.tokens.clone().lock_owned().await;
        let mut next = tokens.clone();
        next.present(Presented { id: &request.token_id, secret: &request.secret, name: &name, key }, now_ms())?;
        let replaces = next.replaces(&request.token_id);
        // Only a caller with the secret learns more.
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

/// The manager's address for a token: a host name that is too long is looked up here.
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
    if replaces { edits::replace(held, name, key, address, by) } else { edits::enter(held, name, key, address, by) }
}
