//! Servers that talk over loopback, and hostile peers.

use std::io;

use bellwether_proto::{
    error::chain,
    v1::{self, group_client::GroupClient, group_server},
};
use rustls::{ClientConfig, client::danger::ServerCertVerifier, pki_types::ServerName, version::TLS13};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};

use super::{verify::PinnedKey, *};

/// Answers every status with the caller's key.
struct WhoAsks;

type Stream<T> = tokio_stream::Once<Result<T, Status>>;

#[tonic::async_trait]
impl group_server::Group for WhoAsks {
    type PreviewStream = Stream<v1::PreviewPart>;
    type RecordsStream = Stream<v1::SignedRecord>;

    async fn records(&self, _: Request<v1::RecordsRequest>) -> Result<Response<Self::RecordsStream>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn tell(&self, _: Request<tonic::Streaming<v1::SignedRecord>>) -> Result<Response<v1::TellReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn survey(&self, _: Request<v1::SurveyRequest>) -> Result<Response<v1::SurveyReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn ping(&self, _: Request<v1::PingRequest>) -> Result<Response<v1::PingReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn dial_back(&self, _: Request<v1::EnterRequest>) -> Result<Response<v1::DialBackReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn depart(&self, _: Request<v1::DepartRequest>) -> Result<Response<v1::DepartReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn preview(&self, _: Request<v1::EnterRequest>) -> Result<Response<Self::PreviewStream>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn enter(&self, _: Request<v1::EnterRequest>) -> Result<Response<v1::EnterReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn change(&self, _: Request<v1::ChangeRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn read(&self, _: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let peer = peer(&request).expect("every connection has a peer");
        Ok(Response::new(v1::StatusReply { json: peer.key.to_string().into() }))
    }
}

struct Running {
    key: KeyPair,
    address: String,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start() -> Running {
    let key = KeyPair::generate();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let connections = incoming(listener, ServerTls::new(&key).expect("a usable key"));
    let server = service().add_service(group_server::GroupServer::new(WhoAsks));
    let task = tokio::spawn(async move { server.serve_with_incoming(connections).await.expect("it serves") });
    Running { key, address, task }
}

async fn asks(server: &Running, key: &KeyPair) -> Result<String, String> {
    let channel = connect(key, &server.address, server.key.public()).await.map_err(|e| chain(&e))?;
    let reply = GroupClient::new(channel).status(v1::StatusRequest {}).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&reply.into_inner().json).into_owned())
}

/// A client that the test controls: with or without a certificate and a protocol.
async fn dial(
    server: &Running,
    change: impl FnOnce(rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>) -> ClientConfig,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(PinnedKey::new(server.key.public()));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let tcp = TcpStream::connect(&server.address).await?;
    let name = ServerName::try_from("any.invalid").expect("a name");
    TlsConnector::from(Arc::new(change(builder))).connect(name, tcp).await
}

/// In TLS 1.3 the client has finished before the server refuses its certificate: the refusal comes with the first read.
async fn is_turned_away(stream: io::Result<tokio_rustls::client::TlsStream<TcpStream>>) -> bool {
    let Ok(mut stream) = stream else { return true };
    let mut byte = [0];
    !matches!(stream.read(&mut byte).await, Ok(1))
}

#[tokio::test]
async fn the_right_key_is_heard_and_named() {
    let (server, key) = (start().await, KeyPair::generate());
    assert_eq!(asks(&server, &key).await, Ok(key.public().to_string()));
}

#[tokio::test]
async fn another_servers_key_is_refused_and_both_are_named() {
    let (server, key, expected) = (start().await, KeyPair::generate(), KeyPair::generate().public());
    let error = connect(&key, &server.address, expected).await.expect_err("it is another server");
    let found = server.key.public();
    assert!(error.is_wrong_key());
    assert_eq!(
        chain(&error),
        format!("the server at {} is not the expected one: it has key {found}, expected {expected}", server.address)
    );
}

#[tokio::test]
async fn a_client_without_a_certificate_is_turned_away() {
    let server = start().await;
    let stream = dial(&server, |config| {
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    });
    assert!(is_turned_away(stream.await).await);
}

#[tokio::test]
async fn a_client_with_another_kind_of_key_is_turned_away() {
    let server = start().await;
    let signer = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let parameters = rcgen::CertificateParams::new(vec!["x.invalid".to_owned()]).expect("a name");
    let certificate = parameters.self_signed(&signer).expect("signed").der().clone();
    let private = PrivateKeyDer::Pkcs8(signer.serialize_der().into());
    let stream = dial(&server, |config| {
        let mut config = config.with_client_auth_cert(vec![certificate], private).expect("a pair");
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    });
    assert!(is_turned_away(stream.await).await);
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_turned_away() {
    let server = start().await;
    let (theirs, _) = certificate(&KeyPair::generate()).expect("usable");
    let (_, own) = certificate(&KeyPair::generate()).expect("usable");
    let own = rustls::crypto::ring::sign::any_supported_type(&own).expect("a signing key");
    let lie = rustls::sign::CertifiedKey::new(vec![theirs], own);
    let stream = dial(&server, |config| {
        let mut config = config.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(lie)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    });
    assert!(is_turned_away(stream.await).await);
}

#[tokio::test]
async fn a_client_that_speaks_no_http2_is_turned_away() {
    let server = start().await;
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let (certificate, private) = certificate(&KeyPair::generate()).expect("usable");
        let stream = dial(&server, |config| {
            let mut config = config.with_client_auth_cert(vec![certificate], private).expect("a pair");
            config.alpn_protocols = protocols;
            config
        });
        assert!(is_turned_away(stream.await).await);
    }
}

#[tokio::test]
async fn peers_that_say_nothing_or_nonsense_keep_nobody_waiting() {
    let (server, key) = (start().await, KeyPair::generate());
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_AND_MORE {
        silent.push(TcpStream::connect(&server.address).await.expect("accepted"));
    }
    let mut garbage = TcpStream::connect(&server.address).await.expect("accepted");
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    assert_eq!(asks(&server, &key).await, Ok(key.public().to_string()));
    let mut rest = Vec::new();
    let _ = garbage.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP"), "a plain request is answered by nothing but an alert");
}

const HANDSHAKES_AND_MORE: usize = 300;

/// A ClientHello of TLS 1.2: no supported_versions, one once secure cipher suite (RFC 5246, 7.4.1.2).
fn client_hello_12() -> Vec<u8> {
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0xc0, 0x2b, 1, 0]);
    let mut message = vec![1, 0, 0, body.len() as u8];
    message.extend(body);
    let mut record = vec![22, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_1_2_is_refused_with_its_alert() {
    let server = start().await;
    let mut stream = TcpStream::connect(&server.address).await.expect("accepted");
    stream.write_all(&client_hello_12()).await.expect("written");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    // A fatal alert (RFC 8446, 6): content type 21, level 2.
    assert_eq!((answer.first(), answer.get(5)), (Some(&21), Some(&2)), "{answer:?}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let answer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.write_all(b"220 mail.example ESMTP\r\n").await.expect("written");
    });
    let error = connect(&KeyPair::generate(), &address, KeyPair::generate().public()).await.expect_err("no TLS");
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
    answer.await.expect("it answered");
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let error = connect(&KeyPair::generate(), &address, KeyPair::generate().public()).await.expect_err("nobody");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (key, expected) = (KeyPair::generate(), KeyPair::generate().public());
    let limit = std::time::Duration::from_millis(20);
    let error = client::connect_within(limit, &key, &address, expected).await.expect_err("silence");
    assert!(matches!(error, ConnectError::Silent { .. }), "{error:?}");
}

#[tokio::test]
async fn a_lost_connection_is_said_so_and_not_made_again() {
    let key = KeyPair::generate();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let mut connections = incoming(listener, ServerTls::new(&key).expect("a usable key"));
    let (channel, connection) = tokio::join!(connect(&key, &address, key.public()), connections.next());
    drop(connection);
    let mut client = GroupClient::new(channel.expect("connected"));
    client.status(v1::StatusRequest {}).await.expect_err("nobody serves it");
    let gone = client.status(v1::StatusRequest {}).await.expect_err("it is gone");
    assert!(chain(&gone).contains(&format!("the connection to {address} is lost")), "{gone:?}");
}
