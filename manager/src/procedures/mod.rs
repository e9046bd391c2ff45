//! Procedures at the manager: the store of their document, and the one task that drives them. The rules are in
//! `bellwether_group::procedure`.

pub mod runner;
pub mod store;
