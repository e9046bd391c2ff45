//! JSON: customers' profiles.

use std::fmt::Write;

use bellwether_random::Rng;

use super::words;

/// An array of profiles of about `size` bytes.
pub(super) fn fill(rng: &mut Rng, size: usize, text: &mut String) {
    text.push_str("[\n");
    while text.len() < size {
        profile(rng, text).expect("writing to a string does not fail");
    }
    // The last comma is removed.
    text.truncate(text.len() - 2);
    text.push_str("\n]\n");
}

fn profile(rng: &mut Rng, text: &mut String) -> std::fmt::Result {
    let customer = words::customer(rng);
    writeln!(text, "  {{\n    \"customer\": \"{customer}\",\n    \"id\": \"{:016x}\",", rng.number())?;
    writeln!(text, "    \"host\": \"{}\",", words::host(rng, &customer))?;
    writeln!(text, "    \"region\": \"{}\",", rng.pick(&words::REGIONS))?;
    writeln!(text, "    \"plan\": \"{}\",", rng.pick(&["free", "basic", "business", "enterprise"]))?;
    writeln!(
        text,
        "    \"limits\": {{ \"requests\": {}, \"bytes\": {} }},",
        100 * rng.below(1_000),
        rng.below(1 << 30)
    )?;
    writeln!(text, "    \"origins\": [\"{}\", \"{}\"],", words::address(rng), words::address(rng))?;
    let flags = [rng.below(2) == 0, rng.below(2) == 0, rng.below(2) == 0];
    writeln!(
        text,
        "    \"features\": {{ \"waf\": {}, \"cache\": {}, \"brotli\": {} }},",
        flags[0], flags[1], flags[2]
    )?;
    writeln!(text, "    \"token\": \"{:016x}{:016x}\"\n  }},", rng.number(), rng.number())
}
