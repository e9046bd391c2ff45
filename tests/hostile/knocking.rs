//! Connections without a conversation: without a certificate, without TLS, or without any data.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    version::TLS13,
};

use bellwether_proto::{
    key::KeyPair,
    v1::{self, push_client::PushClient},
};

use super::{manager::Manager, runtime, says};
use crate::farm::{DEADLINE, wait_for};

/// Accepts any server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate like an ordinary web server's: ECDSA, not Ed25519.
fn other_kind() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let parameters = rcgen::CertificateParams::new(vec!["web.invalid".to_owned()]).expect("a name");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// The client's result of a connection with that certificate and protocol.
fn knock(address: &str, certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>, alpn: &[u8]) -> String {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match certificate {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).expect("a certificate"),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("bellwether.invalid").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let tcp = TcpStream::connect(address).expect("the port is open");
    tcp.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut stream = StreamOwned::new(tls, tcp);
    let mut answer = [0; 1];
    // With TLS 1.3 the client is done before the server has checked its certificate, so the result comes with the first read.
    let asked = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").and_then(|()| stream.read(&mut answer));
    match asked {
        Ok(count) => format!("{count} bytes"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn only_who_proves_a_key_is_talked_to() {
    let mut manager = Manager::play();
    let address = manager.member().listen.clone();
    says("no certificate", &knock(&address, None, b"h2"), &["CertificateRequired"]);
    let said = knock(&address, Some(other_kind()), b"h2");
    assert!(said.contains("alert") || said.contains("ertificate"), "a key of another kind: {said}");
    says("another protocol", &knock(&address, None, b"http/1.1"), &["NoApplicationProtocol"]);
    manager.unharmed("after bad handshakes");
}

#[test]
fn noise_silence_and_half_open_handshakes_keep_nobody_out() {
    let mut manager = Manager::play();
    let address = manager.member().listen.clone();
    let open = || TcpStream::connect(&address).expect("the port is open");

    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"[..], &[0; 4096], &[0x16, 3, 1, 0xff, 0xff], b"PRI * HTTP/2.0"]
    {
        let mut stream = open();
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(garbage).expect("written");
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        let mut answer = Vec::new();
        // The connection is reset or closed, at most with a TLS alert, and there is no HTTP answer.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 16, "an answer to garbage: {}", answer.escape_ascii());
    }
    manager.unharmed("after garbage");

    // These are more handshakes than allowed at once; each has begun, and none goes on.
    let silent: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = open();
            if number % 2 == 0 {
                stream.write_all(&[0x16, 3, 1, 2, 0, 1]).expect("written");
            }
            stream
        })
        .collect();
    manager.unharmed("beside half-open handshakes");
    drop(silent);
}

/// Many clients with keys of their own that send nothing or half a message, and stay.
#[test]
fn strangers_take_nobodys_room() {
    let mut manager = Manager::play();
    manager.unharmed("to begin with");
    let before = descriptors(&manager);
    let strangers = runtime().block_on(async {
        let mut strangers = Vec::new();
        for number in 0..200 {
            let channel = manager.connect(&KeyPair::generate()).await;
            let mut client = PushClient::new(channel.clone());
            // Every fourth client begins a stream without a hello.
            let silent = async move { client.follow(tokio_stream::pending::<v1::Down>()).await.map(drop) };
            let asking = (number % 4 == 0).then(|| tokio::spawn(silent));
            strangers.push((channel, asking));
        }
        strangers
    });
    manager.unharmed("beside strangers who stay");
    wait_for("the strangers' connections to be few", DEADLINE, || {
        let more = descriptors(&manager).saturating_sub(before);
        if more < 100 { Ok(()) } else { Err(format!("{more} more descriptors are open")) }
    });
    drop(strangers);
}

/// The open descriptors of the member's agent.
fn descriptors(manager: &Manager) -> usize {
    std::fs::read_dir(manager.member().process().join("fd")).expect("its descriptors").count()
}
