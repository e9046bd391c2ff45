//! Join tokens: use counts, expiry, name globs, revocation, and the key that each use is bound to. Pure rules; the
//! shell makes every new state durable (`tokens.json` in the state directory) before it answers.
//!
//! A removal bars the key from every token that there is, used by it or not: it comes back by a token that is made later, or
//! by `server add`. The bar is durable before the record that removes it; what another manager removed in an earlier epoch is
//! barred when this one leads again ([`Tokens::settle`]).

use std::collections::BTreeMap;

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    hash::Hash,
    key::PublicKey,
    level::State,
    name::ServerName,
    record::Record,
    revision::Epoch,
    token::{ID, SECRET},
};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::glob;

/// How long spent, expired and revoked tokens stay in lists: 30 days, in milliseconds.
const KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// One use of a token: the key and the name that presented it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// Who.
    pub key: PublicKey,
    /// Under which name.
    pub name: ServerName,
}

/// A token as the manager keeps it: without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// BLAKE3 of the secret's text.
    secret: Hash,
    /// How many servers it admits.
    pub uses: u32,
    /// The servers it has admitted.
    pub used_by: Vec<Use>,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    /// Which names it admits.
    pub names: String,
    /// It admits nobody any more.
    pub revoked: bool,
    /// Who has it takes the place of the server of its name.
    pub replaces: bool,
    /// Keys that were removed from the group after it was made: it admits none of them.
    barred: Vec<PublicKey>,
}

/// Whom a token still admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opens<'a> {
    /// So many servers that have not used it yet.
    pub uses: u32,
    /// Those that have used it and may show it again.
    pub returns: Vec<&'a Use>,
}

impl Kept {
    /// Whom it admits at that time.
    pub fn opens(&self, now_ms: u64) -> Opens<'_> {
        if self.revoked || now_ms >= self.expires_ms {
            return Opens::default();
        }
        let uses = self.uses.saturating_sub(self.used_by.len() as u32);
        Opens { uses, returns: self.used_by.iter().filter(|used| !self.bars(&used.key)).collect() }
    }

    /// Whether that key was removed from the group after this token was made.
    pub fn bars(&self, key: &PublicKey) -> bool {
        self.barred.contains(key)
    }
}

/// All tokens, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// The epoch whose removals, and those before, are barred.
    epoch: Epoch,
    tokens: BTreeMap<String, Kept>,
}

impl State for Tokens {}

impl Default for Tokens {
    fn default() -> Self {
        Self { epoch: Epoch(0), tokens: BTreeMap::new() }
    }
}

/// What to create.
#[derive(Debug, Clone)]
pub struct Grant {
    /// How many servers it admits, at least one.
    pub uses: u32,
    /// For how long, in milliseconds.
    pub ttl_ms: u64,
    /// A glob over names.
    pub names: String,
    /// Who has it takes the place of the server of that name.
    pub replaces: bool,
}

/// A token as it was presented.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its secret, as text.
    pub secret: &'a [u8],
    /// The name that the server wants.
    pub name: &'a ServerName,
    /// The key that its connection proved.
    pub key: &'a PublicKey,
}

/// Why a token admits nobody. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// No such id, or another secret: one answer for both.
    #[error("this join token is not known here")]
    Unknown,
    /// Too late.
    #[error("join token {0} has expired")]
    Expired(String),
    /// Taken back by an administrator.
    #[error("join token {0} was revoked")]
    Revoked(String),
    /// The name does not fit.
    #[error("join token {id} is for names like '{names}', not '{name}'")]
    Name {
        /// The token.
        id: String,
        /// Its glob.
        names: String,
        /// The name that was asked for.
        name: ServerName,
    },
    /// The server was removed after the token was made.
    #[error("{name} was removed from the group after join token {id} was made: that token does not admit it")]
    Removed {
        /// The token.
        id: String,
        /// Who shows it.
        name: ServerName,
    },
    /// Every use is bound to a key already.
    #[error("join token {id} was used by {by}")]
    Spent {
        /// The token.
        id: String,
        /// Names, for people.
        by: String,
    },
    /// A grant that cannot be made.
    #[error(transparent)]
    Grant(#[from] Malformed),
}

impl Advise for TokenRefused {
    fn advice(&self) -> Option<Advice> {
        let another = || Advice::run("make another at the manager", "bellwether token create");
        Some(match self {
            Self::Unknown | Self::Expired(_) | Self::Revoked(_) | Self::Spent { .. } => another(),
            Self::Name { .. } => Advice::say("join under such a name").or(&another()),
            Self::Removed { name, .. } => {
                let add = format!("bellwether server add {name}");
                another().or(&Advice::run("or, where it has its state still, take it back", add))
            }
            Self::Grant(_) => return None,
        })
    }
}

impl Tokens {
    /// Adds a token; returns its id and its secret (hexadecimal), which is kept nowhere.
    ///
    /// # Errors
    /// A grant without uses, time or names.
    pub fn create(&mut self, grant: Grant, now_ms: u64) -> Result<(String, String), TokenRefused> {
        if grant.uses == 0 || grant.ttl_ms == 0 || grant.names.is_empty() {
            return Err(Malformed::new("a token needs at least one use, some time to live and a name pattern").into());
        }
        self.forget_old(now_ms);
        let mut random = [0u8; ID + SECRET];
        SystemRandom::new().fill(&mut random).expect("the system's random source answers");
        let id = data_encoding::HEXLOWER.encode(&random[..ID]);
        let secret = data_encoding::HEXLOWER.encode(&random[ID..]);
        let kept = Kept {
            secret: Hash::of(secret.as_bytes()),
            uses: grant.uses,
            used_by: Vec::new(),
            expires_ms: now_ms.saturating_add(grant.ttl_ms),
            names: grant.names,
            revoked: false,
            replaces: grant.replaces,
            barred: Vec::new(),
        };
        self.tokens.insert(id.clone(), kept);
        Ok((id, secret))
    }

    /// Checks a token and binds a use of it to the key; a key that has used it before may come again. `Ok(true)`: the
    /// state changed and must be durable before the server is told.
    ///
    /// # Errors
    /// Why it is refused; a stranger without the secret learns nothing.
    pub fn present(&mut self, token: Presented<'_>, now_ms: u64) -> Result<bool, TokenRefused> {
        let id = token.id.to_owned();
        let kept = self.tokens.get_mut(token.id).ok_or(TokenRefused::Unknown)?;
        // The secret's hash is compared, so that the time it takes says nothing of the secret.
        if Hash::of(token.secret) != kept.secret {
            return Err(TokenRefused::Unknown);
        }
        if kept.revoked {
            return Err(TokenRefused::Revoked(id));
        }
        if now_ms >= kept.expires_ms {
            return Err(TokenRefused::Expired(id));
        }
        if !glob::matches(&kept.names, token.name.as_str()) {
            return Err(TokenRefused::Name { id, names: kept.names.clone(), name: token.name.clone() });
        }
        if kept.bars(token.key) {
            return Err(TokenRefused::Removed { id, name: token.name.clone() });
        }
        if let Some(known) = kept.used_by.iter_mut().find(|used| used.key == *token.key) {
            let renamed = known.name != *token.name;
            known.name = token.name.clone();
            return Ok(renamed);
        }
        if kept.used_by.len() >= kept.uses as usize {
            let by = kept.used_by.iter().map(|used| used.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(TokenRefused::Spent { id, by });
        }
        kept.used_by.push(Use { key: *token.key, name: token.name.clone() });
        Ok(true)
    }

    /// Whether who has this token takes the place of the server of its name.
    pub fn replaces(&self, id: &str) -> bool {
        self.tokens.get(id).is_some_and(|kept| kept.replaces)
    }

    /// No token that there is admits that key any more: other hardware takes its place.
    pub fn bar(&mut self, key: &PublicKey) {
        for kept in self.tokens.values_mut().filter(|kept| !kept.bars(key)) {
            kept.barred.push(*key);
        }
    }

    /// The server of that name and key is removed: no token that there is admits it, nor new hardware in its place.
    pub fn remove(&mut self, name: &ServerName, key: &PublicKey) {
        self.bar(key);
        let replacing = |kept: &&mut Kept| kept.replaces && kept.names == name.as_str();
        self.tokens.values_mut().filter(replacing).for_each(|kept| kept.revoked = true);
    }

    /// Bars what other managers have removed until the epoch of `record`, in which this one leads: the keys that it names as
    /// removed, and those that have used a token and are not in it. `true`: the state changed.
    pub fn settle(&mut self, record: &Record) -> bool {
        // In its own epoch nobody else removes; a use without a server is then of one that has not entered yet.
        if self.epoch == record.version.epoch {
            return false;
        }
        self.epoch = record.version.epoch;
        let used = self.tokens.values().flat_map(|kept| &kept.used_by).map(|used| used.key);
        let keys: Vec<PublicKey> = used.chain(record.removed.iter().map(|server| server.key)).collect();
        keys.iter().filter(|key| record.by_key(key).is_none()).for_each(|key| self.bar(key));
        !self.tokens.is_empty()
    }

    /// The ids of the tokens that this key has used and that admit further servers at that time.
    pub fn left_open_by(&self, key: &PublicKey, now_ms: u64) -> Vec<String> {
        let open = |(_, kept): &(&String, &Kept)| {
            kept.opens(now_ms).uses > 0 && kept.used_by.iter().any(|used| used.key == *key)
        };
        self.tokens.iter().filter(open).map(|(id, _)| id.clone()).collect()
    }

    /// Revokes a token. `Ok(false)`: it was already.
    ///
    /// # Errors
    /// There is no such token.
    pub fn revoke(&mut self, id: &str) -> Result<bool, TokenRefused> {
        let kept = self.tokens.get_mut(id).ok_or(TokenRefused::Unknown)?;
        Ok(!std::mem::replace(&mut kept.revoked, true))
    }

    /// All tokens with their ids, sorted by id.
    pub fn list(&self) -> impl Iterator<Item = (&str, &Kept)> {
        self.tokens.iter().map(|(id, kept)| (id.as_str(), kept))
    }

    fn forget_old(&mut self, now_ms: u64) {
        self.tokens.retain(|_, kept| kept.expires_ms.saturating_add(KEPT_MS) > now_ms);
    }
}

#[cfg(test)]
mod tests;
