//! Maps: an address or a host and its value on each line.

use std::fmt::Write;

use bellwether_random::Rng;

use super::words;

/// Lines until there are `size` bytes.
pub(super) fn fill(rng: &mut Rng, size: usize, text: &mut String) {
    text.push_str("# address            pool            # since\n");
    while text.len() < size {
        line(rng, text).expect("writing to a string does not fail");
    }
}

fn line(rng: &mut Rng, text: &mut String) -> std::fmt::Result {
    let address = words::address(rng);
    let (region, pool, day) = (rng.pick(&words::REGIONS), rng.below(64), 1 + rng.below(28));
    writeln!(text, "{address}/32    {region}-{pool};    # 2024-{:02}-{day:02}", 1 + rng.below(12))
}
