//! Mutual TLS 1.3 between servers. A server is identified by its Ed25519 key, in a certificate that it made itself; the
//! names and dates in that mean nothing. The handshake proves that the peer has the key. The caller authorizes the key:
//! a client names the one it expects, and the services look at [`Peer`].
//!
//! Only *ring* is used, named in each configuration; no provider is installed for the process. Sessions are never
//! resumed, so every connection proves the key anew.

use std::{net::SocketAddr, sync::Arc};

use bellwether_proto::key::{KeyPair, PublicKey};
use rustls::{
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

mod client;
mod connection_limit;
mod server;
mod verify;

pub use client::{ConnectError, connect};
pub(crate) use connection_limit::{EACH, STRANGERS};
pub(crate) use server::HANDSHAKES;
pub use server::{Incoming, ServerTls, TlsStream, incoming, service};
pub use verify::WrongKey;

/// The application protocol (RFC 7301): HTTP/2.
const ALPN: &[u8] = b"h2";

/// The server at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The key that it has proved to hold.
    pub key: PublicKey,
    /// Its address: an IPv4 address as such, whatever the listener's family.
    pub address: SocketAddr,
}

/// The caller; none for a request over the admin socket.
pub fn peer<T>(request: &tonic::Request<T>) -> Option<&Peer> {
    request.extensions().get()
}

/// This server's key cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
#[error("this server's key cannot be used for TLS: {0}")]
pub struct Unusable(String);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate that carries the public key, and the private key in rustls' form.
fn certificate(key: &KeyPair) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Unusable> {
    let private = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec());
    let unusable = |e: rcgen::Error| Unusable(e.to_string());
    let signer = rcgen::KeyPair::try_from(&private).map_err(unusable)?;
    let parameters = rcgen::CertificateParams::new(vec!["bellwether.invalid".to_owned()]).map_err(unusable)?;
    let certificate = parameters.self_signed(&signer).map_err(unusable)?;
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(private)))
}

#[cfg(test)]
mod tests;
