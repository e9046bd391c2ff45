//! Keys that are the same in every run, so that signatures, identities and whole histories can be replayed.

use bellwether_proto::key::{KeyPair, PublicKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// The bytes before the seed and the public key in PKCS#8 v2 (RFC 8410, RFC 5958).
const BEFORE_SEED: [u8; 16] =
    [0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const BEFORE_PUBLIC: [u8; 3] = [0x81, 0x21, 0x00];

/// The key pair of server `index`.
pub(crate) fn key(index: usize) -> KeyPair {
    let seed = [u8::try_from(index + 1).expect("few servers"); 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed has 32 bytes");
    let encoded = [&BEFORE_SEED[..], &seed, &BEFORE_PUBLIC, pair.public_key().as_ref()].concat();
    KeyPair::from_pkcs8(&encoded).expect("this is how a pair is encoded")
}

/// The public key of server `index`.
pub(crate) fn public(index: usize) -> PublicKey {
    thread_local! {
        static KNOWN: Vec<PublicKey> = (0..8).map(|index| key(index).public()).collect();
    }
    KNOWN.with(|known| known[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_its_own_and_always_the_same() {
        assert_eq!(key(0).public(), key(0).public());
        assert_ne!(key(0).public(), key(1).public());
    }
}
