//! The disk: trees and their scans, packs and their history, staging, switching, and crash-safe file operations.

// Only `agent/src/output.rs` and the log write text for people.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod apply;
pub mod attributes;
pub mod beneath;
pub mod boot;
pub mod durable;
pub mod failpoint;
pub mod history;
pub mod index;
pub mod kept;
pub mod log;
pub mod mutex;
pub mod pack;
pub mod quarantine;
pub mod replace;
pub mod root;
pub mod scan;
pub mod secret;
pub mod state;
pub mod tree;
pub mod underway;
pub mod watch;
