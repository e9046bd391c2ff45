//! Join tokens: what an administrator carries from the manager to a new server.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Malformed, key::PublicKey, revision::GroupId};

const PREFIX: &str = "bellwether-";

/// A token as it is carried: where the manager is, which key it has, and a secret that admits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The group it admits to.
    pub group: GroupId,
    /// The manager's `host:port`.
    pub address: String,
    /// The manager's key: the joining server talks to nobody else.
    pub manager: PublicKey,
    /// Names the token in lists.
    pub id: String,
    /// 32 random bytes in hexadecimal; only their hash is kept at the manager.
    pub secret: String,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&json))
    }
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("address", &self.address).finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = |why: &str| {
            Malformed::new(format!("not a join token ({why}): copy it whole from `bellwether token create`"))
        };
        let body = text.trim().strip_prefix(PREFIX).ok_or_else(|| wrong("it does not begin with bellwether-"))?;
        let json = data_encoding::BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| wrong("a part is missing or changed"))?;
        serde_json::from_slice(&json).map_err(|_| wrong("a part is missing or changed"))
    }
}
