//! Whole farms, simulated: servers that run by the program's own rules on a network and on disks that fail as the seed says
//! (design.md, invariants 1 to 4).
//!
//! Real are the rules (records and their chains, promotion, the greeting, the group's edits), the state machines of both ends of
//! a push and the messages. Simulated are the shells around them: an actor a server, turmoil's network, a disk
//! of which only what was saved survives. Every write is judged, and at the end the farm must come together.

mod attacker;
mod changes;
mod delays;
mod disk;
mod faults;
mod history;
mod invariants;
mod keys;
mod met;
#[cfg(test)]
mod mutations;
mod net;
mod operator;
mod packet;
mod rules;
mod server;
mod world;

pub use history::{Failure, run, tell};
pub use met::Met;
pub use rules::Rules;
