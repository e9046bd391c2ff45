//! The program that every server of a group runs: `bellwether`.
//!
//! `main` parses the command line ([`commands`]) and runs one command; `serve` runs the daemon (`bellwether_daemon`).
//! The other modules reach the agent on the same machine (`admin`) and write for people ([`error`], [`output`],
//! [`progress`]).

// All output for people goes through `output`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admin;
pub mod commands;
pub mod common;
pub mod error;
pub mod output;
mod private;
pub mod progress;
