//! Procedures at the manager: where their document is kept, and the one task that drives them. The rules are in
//! `bellwether_group::procedure`.

pub mod runner;
pub mod store;
