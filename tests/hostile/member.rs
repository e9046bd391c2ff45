//! A member, played by the test: it enters with a token, listens with its own key and sends any message.

use std::pin::Pin;

use bellwether_daemon::net::tls;
use bellwether_proto::{
    key::KeyPair,
    level::Levels,
    limits,
    token::Token,
    v1::{
        self, down,
        group_client::GroupClient,
        push_server::{Push, PushServer},
        up,
    },
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use crate::farm::{Farm, free_port};

/// One stream from the manager.
pub(super) struct Call {
    pub(super) downs: Streaming<v1::Down>,
    up: mpsc::Sender<Result<v1::Up, Status>>,
}

impl Call {
    /// Sends a message; false if the manager has hung up.
    pub(super) async fn say(&self, message: up::Message) -> bool {
        self.up.send(Ok(v1::Up { message: Some(message) })).await.is_ok()
    }

    /// Ends the stream with that refusal; false if the manager has hung up.
    pub(super) async fn refuse(&self, status: Status) -> bool {
        self.up.send(Err(status)).await.is_ok()
    }

    /// Reads until the manager hangs up.
    pub(super) async fn read_to_the_end(&mut self) {
        while let Ok(Some(_)) = self.downs.message().await {}
    }

    /// Reads until the manager offers a pack.
    pub(super) async fn offered(&mut self) -> Option<v1::Offer> {
        while let Ok(Some(down)) = self.downs.message().await {
            if let Some(down::Message::Offer(offer)) = down.message {
                return Some(offer);
            }
        }
        None
    }
}

struct Service(mpsc::Sender<Call>);

#[tonic::async_trait]
impl Push for Service {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<v1::Up, Status>> + Send>>;

    async fn follow(&self, request: Request<Streaming<v1::Down>>) -> Result<Response<Self::FollowStream>, Status> {
        let (up, answers) = mpsc::channel(4);
        let call = Call { downs: request.into_inner(), up };
        self.0.send(call).await.map_err(|_| Status::unavailable("played to the end"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// A server with a key that no other server knows yet.
pub(super) struct Player {
    pub(super) name: String,
    pub(super) key: KeyPair,
    pub(super) address: String,
}

impl Player {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), key: KeyPair::generate(), address: format!("127.0.0.1:{}", free_port()) }
    }

    /// Its request to enter.
    pub(super) fn request(&self, token: &Token) -> v1::EnterRequest {
        v1::EnterRequest {
            token_id: token.id.clone(),
            secret: token.secret.clone().into(),
            server: self.name.clone(),
            address: self.address.clone(),
            sets: vec!["web".to_owned()],
            version: "played".to_owned(),
            level_oldest: Levels::OWN.oldest.0,
            level_newest: Levels::OWN.newest.0,
        }
    }

    /// The manager's services, called by this server.
    pub(super) async fn client(&self, token: &Token) -> GroupClient<Channel> {
        let channel =
            tls::connect(&self.key, &token.address, token.manager).await.expect("a connection to the manager");
        GroupClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
    }

    /// Enters the group.
    pub(super) async fn enter(&self, token: &Token) -> Result<v1::EnterReply, Status> {
        let entered = self.client(token).await.enter(self.request(token)).await;
        entered.map(Response::into_inner)
    }

    /// Listens; every stream is sent over the channel.
    pub(super) async fn listen(&self) -> mpsc::Receiver<Call> {
        let listener = tokio::net::TcpListener::bind(&self.address).await.expect("a port");
        let incoming = tls::incoming(listener, tls::ServerTls::new(&self.key).expect("a key"));
        let (calls, from) = mpsc::channel(4);
        let service = PushServer::new(Service(calls)).max_decoding_message_size(limits::MESSAGE);
        tokio::spawn(tls::service().add_service(service).serve_with_incoming(incoming));
        from
    }

    /// A correct hello, without a revision.
    pub(super) fn hello(&self) -> v1::UpHello {
        v1::UpHello {
            protocol: 1,
            server: self.name.clone(),
            version: "played".into(),
            epoch: 1,
            ..v1::UpHello::default()
        }
    }
}

/// A new token of the farm, made with these arguments.
pub(super) fn token(farm: &Farm, arguments: &[&str]) -> Token {
    farm.token(arguments).parse().expect("a token")
}
