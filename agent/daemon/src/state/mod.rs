//! This server's identity, and the files that one run of the agent leaves for the next.

pub(crate) mod confirmed;
pub mod identity;
pub mod incarnation;
pub mod lock;
