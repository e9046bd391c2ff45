//! Dialling another server.

use std::{io, sync::Arc, time::Duration};

use bellwether_proto::key::{KeyPair, PublicKey};
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, version::TLS13};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Channel;

use super::{
    ALPN, Unusable, certificate, provider,
    verify::{PinnedKey, WrongKey},
};
use crate::net::transport;

/// The limit for the lookup, the connection and the handshake together.
const DEADLINE: Duration = Duration::from_secs(5);

/// A server cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection failed.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The server is too slow.
    #[error("{address} did not answer in time")]
    Silent {
        /// The address.
        address: String,
    },
    /// Another server answers.
    #[error("the server at {address} is not the expected one")]
    WrongKey {
        /// The address.
        address: String,
        /// Its key and the pinned one.
        source: WrongKey,
    },
    /// The peer does not speak the protocol of a group.
    #[error("no secure connection to {address}")]
    Handshake {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The connection is secure, but HTTP/2 failed over it; most often it was closed.
    #[error("{address} closed the connection")]
    Closed {
        /// The address.
        address: String,
        /// The cause.
        source: tonic::transport::Error,
    },
    /// This server's own key cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

impl ConnectError {
    /// A check for the user, unless the cause says it already.
    pub fn question(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                Some("does its agent run?")
            }
            Self::Unreachable { .. } | Self::Silent { .. } => Some("is that machine on, and reachable from here?"),
            Self::WrongKey { .. } | Self::Handshake { .. } | Self::Closed { .. } | Self::Unusable(_) => None,
        }
    }

    /// Whether another server answered: a retry does not help.
    pub fn is_wrong_key(&self) -> bool {
        matches!(self, Self::WrongKey { .. })
    }
}

/// Connects to the server at `address` (`host:port`) that has the key `expected`, as the server that has `key`. The
/// channel does not reconnect by itself.
///
/// # Errors
/// No connection within five seconds, another key, or not a server of a group.
pub async fn connect(key: &KeyPair, address: &str, expected: PublicKey) -> Result<Channel, ConnectError> {
    connect_within(DEADLINE, key, address, expected).await
}

pub(super) async fn connect_within(
    limit: Duration,
    key: &KeyPair,
    address: &str,
    expected: PublicKey,
) -> Result<Channel, ConnectError> {
    let config = client_config(key, expected)?;
    let stream = tokio::time::timeout(limit, dial(config, address))
        .await
        .map_err(|_| ConnectError::Silent { address: address.to_owned() })??;
    transport::channel(stream, address)
        .await
        .map_err(|source| ConnectError::Closed { address: address.to_owned(), source })
}

async fn dial(config: ClientConfig, address: &str) -> Result<TlsStream<TcpStream>, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { address: address.to_owned(), source };
    let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    // The protocol needs a name; the key is the identity.
    let name = ServerName::try_from("bellwether.invalid").expect("a DNS name");
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| handshake_failed(address, e))?;
    if stream.get_ref().1.alpn_protocol() == Some(ALPN) {
        return Ok(stream);
    }
    Err(handshake_failed(address, io::Error::other("it does not speak HTTP/2")))
}

fn handshake_failed(address: &str, error: io::Error) -> ConnectError {
    let address = address.to_owned();
    match wrong_key(&error) {
        Some(source) => ConnectError::WrongKey { address, source },
        None => ConnectError::Handshake { address, source: error },
    }
}

/// The verifier's error, from under the layers that carried it.
fn wrong_key(error: &io::Error) -> Option<WrongKey> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::Other(other) => other.0.downcast_ref::<WrongKey>().copied(),
        _ => None,
    }
}

fn client_config(key: &KeyPair, expected: PublicKey) -> Result<ClientConfig, Unusable> {
    let unusable = |e: rustls::Error| Unusable(e.to_string());
    let (certificate, private) = certificate(key)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedKey::new(expected)))
        .with_client_auth_cert(vec![certificate], private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}
