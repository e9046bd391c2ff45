//! The beginning of a manager: a group is formed or rebuilt, or the role is taken up again. A halt ends it.

pub mod epoch;
pub(crate) mod form;
pub mod halt;
pub mod known;
pub mod rebuild;
pub(crate) mod start;
