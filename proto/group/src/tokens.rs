//! Join tokens: use counts, expiry, name globs, revocation, and the key that each use is bound to. Pure rules; the
//! caller makes every new state durable (`tokens.json` in the state directory) before it answers.
//!
//! A removal bars the key from every present token, used by it or not: the server comes back by a later token, or by
//! `server add`. The bar is durable before the record of the removal. Removals by other managers in earlier epochs are
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

/// The time for which spent, expired and revoked tokens stay in lists: 30 days, in milliseconds.
const KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// One use of a token: the key and the name that presented it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// The key that presented it.
    pub key: PublicKey,
    /// The name that presented it.
    pub name: ServerName,
}

/// A token as the manager keeps it: without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// BLAKE3 of the secret's text.
    secret: Hash,
    /// The number of servers that it admits.
    pub uses: u32,
    /// The servers it has admitted.
    pub used_by: Vec<Use>,
    /// The time of expiry, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The glob of the names that it admits.
    pub names: String,
    /// A revoked token admits no server.
    pub revoked: bool,
    /// Whether a server with this token takes the place of the server of its name.
    pub replaces: bool,
    /// Keys that were removed from the group after the token was made: it admits none of them.
    barred: Vec<PublicKey>,
}

/// The servers that a token still admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opens<'a> {
    /// The number of servers that have not used it yet.
    pub uses: u32,
    /// The servers that have used it and may present it again.
    pub returns: Vec<&'a Use>,
}

impl Kept {
    /// The servers that it admits at `now_ms`.
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
    /// The last epoch whose removals are barred.
    epoch: Epoch,
    tokens: BTreeMap<String, Kept>,
}

impl State for Tokens {}

impl Default for Tokens {
    fn default() -> Self {
        Self { epoch: Epoch(0), tokens: BTreeMap::new() }
    }
}

/// The token to create.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The number of servers that it admits, at least one.
    pub uses: u32,
    /// The lifetime, in milliseconds.
    pub ttl_ms: u64,
    /// A glob over names.
    pub names: String,
    /// Whether a server with this token takes the place of the server of that name.
    pub replaces: bool,
}

/// A presented token.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its secret, as text.
    pub secret: &'a [u8],
    /// The requested name.
    pub name: &'a ServerName,
    /// The key that the connection proved.
    pub key: &'a PublicKey,
}

/// The reason why a token admits no server. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// No such id, or another secret: one answer for both.
    #[error("this join token is not known here")]
    Unknown,
    /// The token has expired.
    #[error("join token {0} has expired")]
    Expired(String),
    /// An administrator revoked the token.
    #[error("join token {0} was revoked")]
    Revoked(String),
    /// The name does not match.
    #[error("join token {id} is for names like '{names}', not '{name}'")]
    Name {
        /// The token.
        id: String,
        /// Its glob.
        names: String,
        /// The requested name.
        name: ServerName,
    },
    /// The server was removed after the token was made.
    #[error("{name} was removed from the group after join token {id} was made: that token does not admit it")]
    Removed {
        /// The token.
        id: String,
        /// The server that presented it.
        name: ServerName,
    },
    /// Every use is bound to a key already.
    #[error("join token {id} was used by {by}")]
    Spent {
        /// The token.
        id: String,
        /// The names, for people.
        by: String,
    },
    /// A grant is not possible.
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
    /// Adds a token; returns its id and its secret (hexadecimal), which is not stored.
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
    /// state changed and must be durable before the answer.
    ///
    /// # Errors
    /// The reason of the refusal; a client without the secret learns nothing.
    pub fn present(&mut self, token: Presented<'_>, now_ms: u64) -> Result<bool, TokenRefused> {
        let id = token.id.to_owned();
        let kept = self.tokens.get_mut(token.id).ok_or(TokenRefused::Unknown)?;
        // The secret's hash is compared, so that the time of the comparison reveals nothing.
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

    /// Whether a server with this token takes the place of the server of its name.
    pub fn replaces(&self, id: &str) -> bool {
        self.tokens.get(id).is_some_and(|kept| kept.replaces)
    }

    /// Bars that key from all present tokens, because other hardware takes its place.
    pub fn bar(&mut self, key: &PublicKey) {
        for kept in self.tokens.values_mut().filter(|kept| !kept.bars(key)) {
            kept.barred.push(*key);
        }
    }

    /// Bars a removed server, by name and key, from all present tokens, and new hardware from its place.
    pub fn remove(&mut self, name: &ServerName, key: &PublicKey) {
        self.bar(key);
        let replacing = |kept: &&mut Kept| kept.replaces && kept.names == name.as_str();
        self.tokens.values_mut().filter(replacing).for_each(|kept| kept.revoked = true);
    }

    /// Bars the removals of other managers until the epoch of `record`, in which this server leads: the keys that the
    /// record names as removed, and those that have used a token and are not in it. `true`: the state changed.
    pub fn settle(&mut self, record: &Record) -> bool {
        // In its own epoch no other server removes, and a use without a server belongs to one that has not entered yet.
        if self.epoch == record.version.epoch {
            return false;
        }
        self.epoch = record.version.epoch;
        let used = self.tokens.values().flat_map(|kept| &kept.used_by).map(|used| used.key);
        let keys: Vec<PublicKey> = used.chain(record.removed.iter().map(|server| server.key)).collect();
        keys.iter().filter(|key| record.by_key(key).is_none()).for_each(|key| self.bar(key));
        !self.tokens.is_empty()
    }

    /// The ids of the tokens that this key has used and that admit further servers at `now_ms`.
    pub fn left_open_by(&self, key: &PublicKey, now_ms: u64) -> Vec<String> {
        let open = |(_, kept): &(&String, &Kept)| {
            kept.opens(now_ms).uses > 0 && kept.used_by.iter().any(|used| used.key == *key)
        };
        self.tokens.iter().filter(open).map(|(id, _)| id.clone()).collect()
    }

    /// Revokes a token. `Ok(false)`: it was revoked already.
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
