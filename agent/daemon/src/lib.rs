//! The part of `bellwether serve` that runs on every server: a library that uses no terminal.
//!
//! [`run`] starts and ends all tasks, and follows this server's role. [`net`] talks to other servers and to the
//! commands on the same machine, and [`services`] answers them. [`state`] holds this server's identity, [`config`] its
//! own settings, and [`drift`] describes edits on a member.

// Only the binary and the log write text for people.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod drift;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod net;
pub mod run;
pub mod services;
pub mod state;
