//! A manager with real directories against members that are played: each speaks the real protocol over a real
//! connection, and behaves as its test wants.

mod fake;
mod group;
mod harness;
mod lanes;
mod publishing;
mod watching;
