//! Whole farms of real agents, judged by programs that are not Bellwether's; and what holds for the workspace itself.
//!
//! Tests are named after the requirement they check. Each starts a farm of its own (see [`farm`]) and waits for states.

mod farm;
mod workspace;
