//! Server keys: one Ed25519 pair per server, pinned in the group record. The same key signs and authenticates TLS.

use std::{fmt, str::FromStr};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::Malformed;

/// An Ed25519 public key, which identifies a server. As text: `ed25519:` and 52 characters of base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// An Ed25519 signature.
pub type Signature = [u8; 64];

const PREFIX: &str = "ed25519:";

impl PublicKey {
    /// The raw key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` is this key's over `context` and `message`. The context binds a signature to one purpose.
    pub fn verifies(&self, context: &str, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&signed_bytes(context, message), signature).is_ok()
    }
}

fn signed_bytes(context: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(context.len() + 1 + message.len());
    bytes.extend_from_slice(context.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(message);
    bytes
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = Malformed;

    fn try_from(bytes: &[u8]) -> Result<Self, Malformed> {
        let array =
            bytes.try_into().map_err(|_| Malformed::new(format!("a key of {} bytes; it has 32", bytes.len())))?;
        Ok(Self(array))
    }
}

impl FromStr for PublicKey {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || Malformed::new(format!("'{}' is not a key: ed25519: and 52 characters", text.escape_default()));
        let digits = text.strip_prefix(PREFIX).ok_or_else(wrong)?;
        let bytes = data_encoding::BASE32_NOPAD.decode(digits.to_ascii_uppercase().as_bytes()).map_err(|_| wrong())?;
        Self::try_from(bytes.as_slice())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", data_encoding::BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A server's key pair. `Debug` shows the public half only.
pub struct KeyPair {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl KeyPair {
    /// A new pair from the system's random source.
    pub fn generate() -> Self {
        let random = ring::rand::SystemRandom::new();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).expect("the system's random source answers");
        Self::from_pkcs8(pkcs8.as_ref()).expect("a pair that was just generated is well-formed")
    }

    /// The pair of an encoded private key (RFC 8410, PKCS#8 v2).
    ///
    /// # Errors
    /// The bytes are not such a key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Malformed> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8)
            .map_err(|e| Malformed::new(format!("not an Ed25519 private key: {e}")))?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec() })
    }

    /// The encoded private key (PKCS#8 v2), to be stored with mode 0600.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::try_from(self.pair.public_key().as_ref()).expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs `message` under `context` (see [`PublicKey::verifies`]).
    pub fn sign(&self, context: &str, message: &[u8]) -> Signature {
        let signature = self.pair.sign(&signed_bytes(context, message));
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyPair").field(&self.public()).finish()
    }
}
