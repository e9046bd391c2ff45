//! Files that look like PEM certificates: base64 of random bytes, which no compressor gets below three quarters.

use bellwether_random::Rng;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Characters on a line (RFC 7468).
const LINE: usize = 64;
/// Lines of one certificate: about 1,200 bytes of DER.
const LINES: usize = 25;

/// Certificates until there are `size` bytes.
pub(super) fn fill(rng: &mut Rng, size: usize, text: &mut String) {
    while text.len() < size {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for _ in 0..LINES {
            line(rng, text);
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
}

fn line(rng: &mut Rng, text: &mut String) {
    let mut bits = 0;
    for at in 0..LINE {
        // One draw gives ten characters.
        if at % 10 == 0 {
            bits = rng.number();
        }
        text.push(char::from(ALPHABET[(bits & 63) as usize]));
        bits >>= 6;
    }
    text.push('\n');
}
