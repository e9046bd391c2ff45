//! What `bellwether serve` runs on every server: a library that knows no terminal.
//!
//! [`run`] starts and ends all tasks, and follows this server's role; [`net`] is how it talks to other servers and to the
//! commands on the same machine; [`services`] answers them; [`state`] is who this server is, [`config`] its own settings, and
//! [`drift`] what edits on a member look like.

// People read what the binary writes, and the log.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod drift;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod net;
pub mod run;
pub mod services;
pub mod state;
