//! Simulations of whole farms: servers run by the program's own rules on a network and on disks that fail by the seed
//! (invariants 1 to 4).
//!
//! The rules (records and their chains, promotion, the greeting, the group's edits), the state machines of both ends of a
//! push, and the messages are real. The shells around them are simulated: an actor for each server, turmoil's network, and a
//! disk of which only saved state survives. Every write is judged, and at the end the farm must come together.

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
