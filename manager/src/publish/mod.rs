//! From an edit to a revision: scan, judge, sign, pack and offer; and reading it.

pub(crate) mod adopt;
pub(crate) mod batch;
pub(crate) mod discard;
pub(crate) mod head;
mod links;
pub(crate) mod live;
mod own_sets;
pub(crate) mod preview;
pub(crate) mod proving;
pub(crate) mod publisher;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod rejection;
pub(crate) mod rollback;
pub(crate) mod round;
pub mod safety;
pub(crate) mod waiting;
