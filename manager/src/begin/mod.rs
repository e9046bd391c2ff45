//! How a manager begins: a group is formed, or rebuilt, or the role is taken up again; and what ends it, a halt.

pub mod epoch;
pub(crate) mod form;
pub mod halt;
pub mod known;
pub mod rebuild;
pub(crate) mod start;
