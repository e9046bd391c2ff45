//! Procedures at the manager: their store, and the task that drives them. The rules are in
//! `bellwether_group::procedure`.

pub mod runner;
pub mod store;
