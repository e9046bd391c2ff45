//! Who this server is, and what one run of the agent leaves to the next.

pub(crate) mod confirmed;
pub mod identity;
pub mod incarnation;
pub mod lock;
