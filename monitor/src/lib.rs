//! The sync monitor: what is known of each server (W15), for people, for scripts and for machines.
//!
//! Everything shown comes from one document, [`bellwether_proto::status::FarmStatus`]. [`farm::Farm`] folds what was
//! seen into it; the others only read it. Nothing here asks a server anything. The one task is the page's, which
//! [`http::serve`] runs until its shutdown; it reads the status from a watch channel that the daemon writes.

// People read what `agent/src/output.rs` writes, and the log.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod agent_check;
pub mod changes;
pub mod farm;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod http;
pub mod listening;
mod metrics;
pub mod table;
pub mod text;
pub mod wait;
