//! The rules of the group record: pure functions over data, with time as an argument, and no I/O. A rule that changes
//! the record returns the next one, unsigned; the manager signs it and makes it durable.
//!
//! [`edits`] changes the record, [`roles`] and [`takeover`] choose the manager, [`tokens`] admit servers, [`rollout`]
//! gives each server its target, [`rollback_detection`] and [`lost`] judge a state that went back, [`procedure`] has
//! the procedures.

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
