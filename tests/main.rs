//! Whole farms of real agents, judged by programs that are not Bellwether's; and what holds for the workspace itself.
//!
//! Tests are named after the requirement they check. Each starts a farm of its own (see [`farm`]) and waits for states.

mod balancers;
mod balancing;
mod balancing_checks;
mod balancing_here;
mod carried;
mod changes;
mod chaos;
mod crashes;
mod demo;
mod drift;
mod farm;
mod fencing;
mod forming;
mod group;
mod history;
mod holding;
mod hostile;
mod joining;
mod lag;
mod maintenance;
mod membership;
mod partitions;
mod promotion;
mod real_trees;
mod rebuilding;
mod recovery;
mod restoring;
mod setting_up;
mod returning;
mod space;
mod takeover;
mod unconfirmed;
mod web;
mod workspace;
