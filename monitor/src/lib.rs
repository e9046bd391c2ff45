//! The sync monitor: the known state of each server (W15), for people, scripts and machines.
//!
//! All output comes from one document, [`bellwether_proto::status::FarmStatus`]. [`farm::Farm`] folds observations into
//! it; the other modules only read it. This crate sends no requests to servers. Its tasks serve the page and HAProxy's agent checks:
//! [`http::serve`] runs it until its shutdown, and reads the status from a watch channel of the daemon.

// All output for people goes through `agent/src/output.rs` and the log.
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
