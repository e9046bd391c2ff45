//! The network: mutual TLS by pinned keys, the other servers, the manager's push stream, and the admin socket.

pub(crate) mod advertised;
pub mod peers;
pub(crate) mod placed;
pub(crate) mod push;
pub mod socket;
pub mod tls;
pub mod transport;
