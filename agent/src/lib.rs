//! The program that every server of a group runs: `bellwether`.
//!
//! `main` parses the command line ([`commands`]) and runs one command; [`daemon`] is what `serve` runs. The other modules
//! are what they share: where things are ([`config`], [`layout`]), who this server is ([`identity`]), how it talks to
//! other servers ([`tls`]) and to the commands on the same machine ([`socket`]), and how it speaks to people
//! ([`error`], [`output`], [`progress`]).

// Everything for people goes through `output`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod advertised;
mod balancers;
pub mod commands;
pub mod common;
pub mod config;
mod confirmed;
pub mod core_dumps;
pub mod daemon;
mod descriptors;
mod drift;
pub mod duration;
mod ends;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod group;
mod hands;
pub mod identity;
mod incarnation;
pub mod layout;
mod leadership;
pub mod lock;
pub mod member;
pub mod output;
mod peers;
mod placed;
mod private;
pub mod progress;
mod ready;
mod rebuild;
mod role;
mod seen;
mod services;
pub mod socket;
pub mod tls;
mod transport;
