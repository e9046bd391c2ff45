//! From an edit to a revision: what is scanned, judged, signed, packed and offered, and what is read of it.

pub(crate) mod adopt;
pub(crate) mod head;
mod links;
pub(crate) mod preview;
pub(crate) mod publisher;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod round;
pub mod safety;
pub(crate) mod waiting;
