//! The incarnation: how often a server's state was opened, and a random part that no copy of the state has (W14).
//!
//! The count is in the high bits, so a later incarnation has a greater number. The rest is random, so two copies of one
//! machine that were started equally often differ.

use ring::rand::{SecureRandom, SystemRandom};

/// The number of random bits.
const DRAWN: u32 = 20;

/// The incarnation that opens a state for the `opened`th time.
pub fn number(opened: u64) -> u64 {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system's random source answers");
    with(opened, u64::from_be_bytes(bytes))
}

/// As [`number`], with the given random part.
pub fn with(opened: u64, drawn: u64) -> u64 {
    (opened << DRAWN) | (drawn & ((1 << DRAWN) - 1))
}

/// The number of times that the state was opened, including this one.
pub fn opened(number: u64) -> u64 {
    number >> DRAWN
}

/// Whether incarnation `says` is another one than `connected`: then one server is a copy. No server has incarnation
/// zero.
pub fn is_copy(connected: u64, says: u64) -> bool {
    connected > 0 && connected != says
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_is_greater_and_no_copy_has_the_same_number() {
        assert!(number(1) < number(2) && number(2) < number(1_000_000));
        assert_eq!(opened(number(7)), 7);
        let drawn: std::collections::BTreeSet<u64> = (0..16).map(|_| number(3)).collect();
        assert!(drawn.len() > 1 && drawn.iter().all(|number| opened(*number) == 3));
        assert!(is_copy(with(3, 1), with(3, 2)) && !is_copy(with(3, 1), with(3, 1)) && !is_copy(0, with(3, 1)));
    }
}
