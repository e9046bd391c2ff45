//! Join tokens: an administrator carries one from the manager to a new server.
//!
//! At most [`LENGTH`] characters: a prefix, then in base64url a version, the manager's key, the token's id, its secret,
//! the manager's port and host (an address in its 4 or 16 bytes, or a name as text), and two bytes of the BLAKE3 of all
//! that, which distinguish an incomplete copy from a refused token. A later form keeps the prefix, the first byte and the
//! checksum, so that it is told from an incomplete copy, too.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use crate::{Malformed, key::PublicKey};

/// The largest number of characters of a token.
pub const LENGTH: usize = 120;
/// Bytes of a token's id.
pub const ID: usize = 5;
/// Bytes of a token's secret.
pub const SECRET: usize = 16;

const PREFIX: &str = "bellwether-";
const CHECKSUM: usize = 2;
/// The first byte: this form in its upper half, and the kind of the host.
const FORM: u8 = 1;
const NAME: u8 = 0x10;
const IPV4: u8 = 0x14;
const IPV6: u8 = 0x16;

/// A token: the manager's address, its key, and a secret that admits a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The manager's `host:port`.
    pub address: String,
    /// The manager's key: the joining server connects to no other.
    pub manager: PublicKey,
    /// Names the token in lists; [`ID`] bytes in hexadecimal.
    pub id: String,
    /// [`SECRET`] random bytes in hexadecimal; only their hash is kept at the manager.
    pub secret: String,
}

impl Token {
    /// Whether a token with this address has at most [`LENGTH`] characters, which a very long host name prevents.
    pub fn fits(address: &str) -> bool {
        let bytes = encoded(address).map_or(0, |(_, _, host)| host.len()) + 1 + 32 + ID + SECRET + 2 + CHECKSUM;
        PREFIX.len() + BASE64URL_NOPAD.encode_len(bytes) <= LENGTH
    }
}

/// The kind of the host, the port, and the host's bytes; none: no `host:port`.
fn encoded(address: &str) -> Option<(u8, u16, Vec<u8>)> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Some(match address.ip() {
            IpAddr::V4(ip) => (IPV4, address.port(), ip.octets().to_vec()),
            IpAddr::V6(ip) => (IPV6, address.port(), ip.octets().to_vec()),
        });
    }
    let (host, port) = address.rsplit_once(':')?;
    Some((NAME, port.parse().ok()?, host.as_bytes().to_vec()))
}

impl fmt::Display for Token {
    /// # Errors
    /// Id or secret have a wrong length, or the address is no `host:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |text: &str, length: usize| {
            HEXLOWER.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() == length).ok_or(fmt::Error)
        };
        let (id, secret) = (hex(&self.id, ID)?, hex(&self.secret, SECRET)?);
        let (kind, port, host) = encoded(&self.address).ok_or(fmt::Error)?;
        let mut bytes = [&[kind][..], self.manager.as_bytes(), &id, &secret, &port.to_be_bytes(), &host].concat();
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let [first, second, ..] = *blake3::hash(bytes).as_bytes();
    [first, second]
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
        let changed = || wrong("a part is missing or changed");
        let body = text.trim().strip_prefix(PREFIX).ok_or_else(|| wrong("it does not begin with bellwether-"))?;
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| changed())?;
        let (bytes, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or_else(changed)?;
        if checksum(bytes) != *sum {
            return Err(changed());
        }
        let (&kind, rest) = bytes.split_first().ok_or_else(changed)?;
        if kind >> 4 > FORM {
            let newer = "a join token that was made by a newer bellwether; upgrade bellwether on this server";
            return Err(Malformed::new(newer));
        }
        let (key, rest) = rest.split_at_checked(32).ok_or_else(changed)?;
        let (id, rest) = rest.split_at_checked(ID).ok_or_else(changed)?;
        let (secret, rest) = rest.split_at_checked(SECRET).ok_or_else(changed)?;
        let (&port, host) = rest.split_first_chunk::<2>().ok_or_else(changed)?;
        let port = u16::from_be_bytes(port);
        let address = match kind {
            IPV4 => SocketAddr::new(<[u8; 4]>::try_from(host).map_err(|_| changed())?.into(), port).to_string(),
            IPV6 => SocketAddr::new(<[u8; 16]>::try_from(host).map_err(|_| changed())?.into(), port).to_string(),
            NAME => {
                let host = std::str::from_utf8(host).ok().filter(|host| !host.is_empty()).ok_or_else(changed)?;
                format!("{host}:{port}")
            }
            _ => return Err(changed()),
        };
        Ok(Self {
            address,
            manager: PublicKey::try_from(key)?,
            id: HEXLOWER.encode(id),
            secret: HEXLOWER.encode(secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(address: &str) -> Token {
        let manager = PublicKey::try_from(&[7u8; 32][..]).expect("32 bytes");
        Token { address: address.to_owned(), manager, id: "0123456789".to_owned(), secret: "ab".repeat(SECRET) }
    }

    #[test]
    fn a_token_survives_being_carried_in_at_most_120_characters() {
        for address in
            ["web1:7440", "10.0.0.1:7440", "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535", "a.example.com:1"]
        {
            let token = token(address);
            let text = token.to_string();
            assert!(text.len() <= LENGTH && Token::fits(address), "{} characters: {text}", text.len());
            assert_eq!(text.parse::<Token>(), Ok(token));
        }
        let long = format!("{}.example.com:7440", "web".repeat(10));
        assert!(!Token::fits(&long) && token(&long).to_string().len() > LENGTH);
    }

    #[test]
    fn a_token_of_a_later_form_is_told_from_one_that_was_changed() {
        let read = |kind: u8| {
            let mut bytes = vec![kind, 7];
            bytes.extend(checksum(&bytes));
            format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)).parse::<Token>().unwrap_err().to_string()
        };
        for later in [0x20, 0xff] {
            assert!(read(later).contains("made by a newer bellwether; upgrade"), "{}", read(later));
        }
        for other in [0x00, 0x0f, NAME, 0x1f] {
            assert!(read(other).contains("a part is missing or changed"), "{}", read(other));
        }
    }

    #[test]
    fn a_token_that_was_changed_anywhere_is_told_from_one_that_is_refused() {
        let text = token("web1.example.com:7440").to_string();
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            assert!(other.parse::<Token>().is_err(), "{other}");
            assert!(text[..at].parse::<Token>().is_err(), "cut at {at}");
        }
        for wrong in ["", "bellwether-", "bellwether-AAAA", &format!("{text}A"), &text[1..], "bellwether-ä"] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
    }
}
