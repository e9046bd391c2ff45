//! A manager with real directories, and played members: each speaks the real protocol over a real connection, and behaves as
//! its test says.

mod fake;
mod group;
mod harness;
mod lanes;
mod publishing;
mod watching;
