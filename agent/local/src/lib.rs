//! Local commands: what `agent.toml` tells this server to run. Their names may travel, the commands themselves never do.

// People read what `agent/src/output.rs` writes, and the log.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod check;
pub mod inspect;
pub mod master;
pub mod process;
pub mod prove;
pub mod secret;
pub mod set;
