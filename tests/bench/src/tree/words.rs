//! Words and names for configuration.

use bellwether_random::Rng;

const FIRST: [&str; 24] = [
    "acme", "alpine", "amber", "atlas", "birch", "cedar", "cobalt", "coral", "delta", "ember", "falcon", "garnet",
    "harbor", "indigo", "juniper", "lumen", "maple", "nimbus", "onyx", "orchid", "quartz", "raven", "summit", "willow",
];
const SECOND: [&str; 16] = [
    "shop", "books", "travel", "health", "media", "games", "bank", "news", "music", "foods", "tools", "games",
    "sports", "garden", "labs", "works",
];
const TOP: [&str; 6] = ["example.com", "example.org", "example.net", "test", "invalid", "example"];
/// The customers' places.
pub(super) const REGIONS: [&str; 8] =
    ["eu-west", "eu-north", "us-east", "us-west", "ap-south", "ap-east", "sa-east", "af-south"];

/// A customer's name.
pub(super) fn customer(rng: &mut Rng) -> String {
    format!("{}-{}-{}", rng.pick(&FIRST), rng.pick(&SECOND), rng.below(10_000))
}

/// A host of that customer.
pub(super) fn host(rng: &mut Rng, customer: &str) -> String {
    format!("{}.{customer}.{}", rng.pick(&["www", "api", "static", "login", "admin", "m"]), rng.pick(&TOP))
}

/// A private address.
pub(super) fn address(rng: &mut Rng) -> String {
    format!("10.{}.{}.{}", rng.below(256), rng.below(256), 1 + rng.below(254))
}
