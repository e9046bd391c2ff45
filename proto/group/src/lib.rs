//! What the group record allows: pure rules over data, with time as an argument, and no I/O. Each rule that changes the
//! record gives the next one, not yet signed; the manager signs it and makes it durable.
//!
//! [`edits`] has the changes of the record, [`roles`] and [`takeover`] who leads, [`tokens`] who may join, [`rollout`] what
//! each server is to hold, [`rollback_detection`] and [`lost`] what a state that went back has lost, [`procedure`] the
//! procedures.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod edits;
pub mod glob;
pub mod halt;
pub mod key_refusal;
pub mod lost;
pub mod procedure;
pub mod roles;
pub mod rollback_detection;
pub mod rollout;
pub mod takeover;
pub mod tokens;
