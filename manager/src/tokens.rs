//! Join tokens: use counts, expiry, name globs, revocation, and the key that each use is bound to. Pure rules; the
//! shell makes every new state durable (`tokens.json` in the state directory) before it answers.

use std::collections::BTreeMap;

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    hash::Hash,
    key::PublicKey,
    name::ServerName,
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
}

/// All tokens, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    tokens: BTreeMap<String, Kept>,
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
        let mut random = [0u8; 38];
        SystemRandom::new().fill(&mut random).expect("the system's random source answers");
        let id = data_encoding::HEXLOWER.encode(&random[..6]);
        let secret = data_encoding::HEXLOWER.encode(&random[6..]);
        let kept = Kept {
            secret: Hash::of(secret.as_bytes()),
            uses: grant.uses,
            used_by: Vec::new(),
            expires_ms: now_ms.saturating_add(grant.ttl_ms),
            names: grant.names,
            revoked: false,
            replaces: grant.replaces,
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
mod tests {
    use bellwether_proto::key::KeyPair;

    use super::*;

    const NOW: u64 = 1_000_000;

    struct Case {
        tokens: Tokens,
        id: String,
        secret: String,
    }

    impl Case {
        fn new(uses: u32, names: &str) -> Self {
            let mut tokens = Tokens::default();
            let grant = Grant { uses, ttl_ms: 1000, names: names.into(), replaces: false };
            let (id, secret) = tokens.create(grant, NOW).unwrap();
            Self { tokens, id, secret }
        }

        fn present(&mut self, name: &str, key: &KeyPair, now: u64) -> Result<bool, TokenRefused> {
            let name = name.parse().unwrap();
            let token = Presented { id: &self.id, secret: self.secret.as_bytes(), name: &name, key: &key.public() };
            self.tokens.present(token, now)
        }
    }

    #[test]
    fn each_use_is_bound_to_the_first_key_that_presents_it() {
        let mut case = Case::new(2, "*");
        let [a, b, c] = std::array::from_fn(|_| KeyPair::generate());
        assert_eq!(case.present("a", &a, NOW), Ok(true));
        assert_eq!(case.present("a", &a, NOW), Ok(false), "the same key may come again");
        assert_eq!(case.present("b", &b, NOW), Ok(true));
        let refused = case.present("c", &c, NOW).unwrap_err();
        assert_eq!(refused, TokenRefused::Spent { id: case.id.clone(), by: "a, b".into() });
        assert_eq!(case.present("b", &b, NOW), Ok(false));
    }

    #[test]
    fn expiry_revocation_and_names() {
        let key = KeyPair::generate();
        let mut case = Case::new(1, "web*");
        assert!(matches!(case.present("db1", &key, NOW), Err(TokenRefused::Name { .. })));
        assert!(matches!(case.present("web1", &key, NOW + 1000), Err(TokenRefused::Expired(_))));
        assert_eq!(case.present("web1", &key, NOW + 999), Ok(true));
        let id = case.id.clone();
        assert_eq!(case.tokens.revoke(&id), Ok(true));
        assert_eq!(case.tokens.revoke(&id), Ok(false));
        assert!(matches!(case.present("web1", &key, NOW), Err(TokenRefused::Revoked(_))));
        assert_eq!(case.tokens.revoke("nothing"), Err(TokenRefused::Unknown));
    }

    #[test]
    fn a_wrong_secret_is_an_unknown_token_and_takes_no_use() {
        let mut case = Case::new(1, "*");
        let before = case.tokens.clone();
        let right = std::mem::replace(&mut case.secret, "0".repeat(64));
        assert_eq!(case.present("a", &KeyPair::generate(), NOW), Err(TokenRefused::Unknown));
        assert_eq!(case.tokens, before);
        let kept = serde_json::to_string(&case.tokens).unwrap();
        assert!(!kept.contains(&right), "the secret is not kept");
    }

    #[test]
    fn a_grant_of_nothing_is_refused_and_old_tokens_are_forgotten() {
        let mut case = Case::new(1, "*");
        let grant = |uses| Grant { uses, ttl_ms: 1000, names: "*".into(), replaces: false };
        assert!(case.tokens.create(grant(0), NOW).is_err());
        assert_eq!(case.tokens.list().count(), 1);
        let (id, _) = case.tokens.create(grant(1), NOW + 1000 + KEPT_MS).unwrap();
        assert_eq!(case.tokens.list().map(|(id, _)| id).collect::<Vec<_>>(), [id.as_str()]);
    }
}
