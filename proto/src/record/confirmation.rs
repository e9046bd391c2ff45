//! The token of a rebuild that refuses a key. Root carries it to each other server by hand, because no message of the
//! network alone makes a server give up its epoch. A later form begins with `rebuilt` and its number: `rebuilt2-`.

use std::{fmt, str::FromStr};

use super::SignedRecord;
use crate::{Malformed, hash::Hash, key::PublicKey};

const WORD: &str = "rebuilt";
const PREFIX: &str = "rebuilt-";
const HASH: usize = 32;

/// The record to follow, and its place. It is no secret: only root's command on that machine counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The hash of the record that rebuilt the group.
    pub record: Hash,
    /// The key of the manager that made it.
    pub manager: PublicKey,
    /// That manager's `host:port`.
    pub address: String,
}

impl Confirmation {
    /// The token for the record that rebuilt a group.
    pub fn of(rebuilt: &SignedRecord) -> Self {
        let manager = rebuilt.record().manager();
        Self { record: rebuilt.hash(), manager: manager.key, address: manager.address.clone() }
    }

    /// Whether `record` is the record of this token.
    pub fn is_of(&self, record: &SignedRecord) -> bool {
        record.hash() == self.record && record.signer() == self.manager && record.is_self_signed()
    }
}

impl fmt::Display for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.record.as_bytes().as_slice(), self.manager.as_bytes()].concat();
        write!(f, "{PREFIX}{}@{}", data_encoding::BASE64URL_NOPAD.encode(&bytes), self.address)
    }
}

impl FromStr for Confirmation {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || {
            Malformed::new(
                "not the token of a rebuild: copy it whole from `bellwether group rebuild`; it begins with rebuilt-",
            )
        };
        if text.trim().strip_prefix(WORD).is_some_and(|rest| rest.starts_with(|c| matches!(c, '2'..='9'))) {
            let newer = "the token of a rebuild that was made by a newer bellwether; upgrade bellwether on this server";
            return Err(Malformed::new(newer));
        }
        let (code, address) =
            text.trim().strip_prefix(PREFIX).and_then(|body| body.split_once('@')).ok_or_else(wrong)?;
        let bytes = data_encoding::BASE64URL_NOPAD.decode(code.as_bytes()).map_err(|_| wrong())?;
        let (record, manager) = bytes.split_at_checked(HASH).ok_or_else(wrong)?;
        let (record, manager) = (Hash::try_from(record)?, PublicKey::try_from(manager)?);
        Ok(Self { record, manager, address: address.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyPair;

    #[test]
    fn a_confirmation_survives_its_text_and_fits_a_line() {
        let (record, manager) = (Hash::of(b"a record"), KeyPair::generate().public());
        let confirmation = Confirmation { record, manager, address: "192.168.100.200:7100".to_owned() };
        let text = confirmation.to_string();
        assert_eq!(text.parse::<Confirmation>().unwrap(), confirmation);
        assert!(text.len() <= 120, "{} characters", text.len());
        for wrong in ["", "rebuilt-", "rebuilt-AAAA@x:1", &text[..60], &text.replacen("rebuilt-", "bellwether-", 1)] {
            let refused = wrong.parse::<Confirmation>().unwrap_err().to_string();
            assert!(!refused.contains("newer"), "{wrong}: {refused}");
        }
        let later = text.replacen("rebuilt-", "rebuilt2-", 1).parse::<Confirmation>().unwrap_err().to_string();
        assert!(later.contains("made by a newer bellwether; upgrade"), "{later}");
    }
}
