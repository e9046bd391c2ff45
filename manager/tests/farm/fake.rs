//! A member that is played.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use bellwether_proto::{
    entry::{Content, Kind},
    hash::Hash,
    revision::SignedHeader,
    v1::{self, down, up},
};
use bellwether_store::{
    mutex::locked,
    pack::{Frame, Reader, read_chunks},
    tree::{Change, Tree},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::harness::PATIENCE;

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes what it is offered; asks for a base's content as a range.
    Honest,
    /// The same, but asks for a base's content chunk by chunk.
    Picky,
    /// Says hello and reads nothing more.
    Stalled,
    /// Asks for a base's content, then reads nothing more.
    StallsMidway,
    /// Takes what it is offered and never reports.
    Mute,
    /// Reports that all is done, with another root.
    Liar,
    /// Refuses every revision before the switch, and asks for it again though nothing there may pass.
    Refuses,
    /// Refuses each revision for want of space when it is first offered, and asks for it again.
    Waits,
    /// The same, but it hangs up instead of asking.
    WaitsAndHangsUp,
    /// Asks for bytes that the pack does not have.
    Greedy,
    /// Hangs up in the middle of what it is sent, and keeps what has arrived.
    HangsUp,
}

/// What it remembers.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) manner: Manner,
    pub(crate) name: String,
    pub(crate) epoch: u64,
    pub(crate) at: Option<SignedHeader>,
    pub(crate) tree: Tree,
    pub(crate) fault: Option<String>,
    /// Bytes of an interrupted pack, in whole frames.
    pub(crate) partial: Option<(Hash, Vec<u8>)>,
    /// Offers so far: number, base, from, to.
    pub(crate) offers: Vec<(String, bool, u64, u64)>,
    pub(crate) records: u64,
    pub(crate) heads: Vec<String>,
    pub(crate) syncs: u64,
    pub(crate) hellos: u64,
    /// Of the last session.
    pub(crate) ticket: Option<v1::Ticket>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    memory: Arc<Mutex<Memory>>,
    pub(crate) address: SocketAddr,
    server: Arc<JoinHandle<()>>,
}

impl Fake {
    pub(crate) async fn start(name: &str, manner: Manner) -> Self {
        let memory = Memory {
            manner,
            name: name.to_owned(),
            epoch: 1,
            at: None,
            tree: Tree::default(),
            fault: None,
            partial: None,
            offers: Vec::new(),
            records: 0,
            heads: Vec::new(),
            syncs: 0,
            hellos: 0,
            ticket: None,
        };
        let memory = Arc::new(Mutex::new(memory));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = v1::push_server::PushServer::new(Service(memory.clone()))
            .max_decoding_message_size(bellwether_proto::limits::MESSAGE);
        let server = tonic::transport::Server::builder().add_service(service);
        let server = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { memory, address, server: Arc::new(server) }
    }

    /// Waits until the manager has told it of that revision.
    pub(crate) async fn hears_of(&self, revision: &str) {
        let told = async {
            while self.memory().heads.last().is_none_or(|head| head != revision) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let late = tokio::time::timeout(PATIENCE, told).await.is_err();
        assert!(!late, "not told of {revision}, but of {:?}", self.memory().heads);
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        locked(&self.memory)
    }

    pub(crate) fn stop(&self) {
        self.server.abort();
    }
}

struct Service(Arc<Mutex<Memory>>);

#[tonic::async_trait]
impl v1::push_server::Push for Service {
    type FollowStream = ReceiverStream<Result<v1::Up, Status>>;

    async fn follow(&self, request: Request<Streaming<v1::Down>>) -> Result<Response<Self::FollowStream>, Status> {
        let (up, answers) = mpsc::channel(16);
        let play = Play { memory: self.0.clone(), up, offer: None, reader: Reader::default(), bytes: Vec::new() };
        tokio::spawn(play.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

struct Play {
    memory: Arc<Mutex<Memory>>,
    up: mpsc::Sender<Result<v1::Up, Status>>,
    offer: Option<Offered>,
    reader: Reader,
    bytes: Vec<u8>,
}

struct Offered {
    offer: v1::Offer,
    header: SignedHeader,
    tree: Tree,
    changes: Vec<Change>,
    wanted: HashSet<Hash>,
}

impl Play {
    async fn run(mut self, mut down: Streaming<v1::Down>) {
        while let Ok(Some(v1::Down { message: Some(message) })) = down.message().await {
            if self.hear(message).await.is_none() {
                return;
            }
            if self.manner() == Manner::Stalled {
                std::future::pending::<()>().await;
            }
        }
    }

    fn manner(&self) -> Manner {
        locked(&self.memory).manner
    }

    async fn say(&self, message: up::Message) -> Option<()> {
        self.up.send(Ok(v1::Up { message: Some(message) })).await.ok()
    }

    async fn hear(&mut self, message: down::Message) -> Option<()> {
        match message {
            down::Message::Hello(down) => {
                let shown = std::mem::replace(&mut locked(&self.memory).ticket, down.ticket);
                let hello = v1::UpHello { ticket: shown, ..self.hello() };
                self.say(up::Message::Hello(hello)).await
            }
            down::Message::Record(_) => {
                locked(&self.memory).records += 1;
                Some(())
            }
            down::Message::Head(head) => {
                let head = SignedHeader::from_wire(head).unwrap();
                locked(&self.memory).heads.push(head.number().to_string());
                Some(())
            }
            down::Message::Keepalive(keepalive) => self.say(up::Message::Keepalive(keepalive)).await,
            down::Message::Verify(_) | down::Message::Procedures(_) => Some(()),
            down::Message::Fence(fence) => {
                let mut memory = locked(&self.memory);
                memory.fault = Some(fence.reason);
                memory.at = None;
                Some(())
            }
            down::Message::Sync(_) => {
                let settled = {
                    let mut memory = locked(&self.memory);
                    memory.syncs += 1;
                    memory.fault = None;
                    memory.at.clone()
                };
                match settled {
                    Some(header) => self.report(&header, v1::Outcome::Done, header.header().root).await,
                    None => Some(()),
                }
            }
            down::Message::Offer(offer) => self.offered(offer).await,
            down::Message::Slice(slice) => self.slice(slice).await,
            down::Message::Supply(supply) => self.supply(supply).await,
            down::Message::Switch(_) => panic!("a member without commands that validate stages nothing"),
        }
    }

    fn hello(&self) -> v1::UpHello {
        let mut memory = locked(&self.memory);
        memory.hellos += 1;
        let partial = memory.partial.as_ref();
        v1::UpHello {
            protocol: 1,
            server: memory.name.clone(),
            version: "fake".into(),
            at: memory.at.as_ref().map(SignedHeader::to_wire),
            epoch: memory.epoch,
            fault: memory.fault.clone().map(|reason| v1::Fault { reason, since_ms: 0 }),
            partial: partial.map(|(pack, _)| (*pack).into()).unwrap_or_default(),
            partial_bytes: partial.map_or(0, |(_, bytes)| bytes.len() as u64),
            drift: None,
            incarnation: 1,
            ticket: None,
            seen: Vec::new(),
            ..v1::UpHello::default()
        }
    }

    async fn offered(&mut self, offer: v1::Offer) -> Option<()> {
        let header = SignedHeader::from_wire(offer.header.clone().unwrap()).unwrap();
        let greedy = {
            let mut memory = locked(&self.memory);
            memory.offers.push((header.number().to_string(), offer.base, offer.from, offer.to));
            self.reader = Reader::default();
            self.bytes = match memory.partial.take() {
                Some((pack, bytes)) if offer.from > 0 => {
                    assert_eq!(offer.pack, bytes::Bytes::from(pack));
                    bytes
                }
                _ => Vec::new(),
            };
            assert_eq!(self.bytes.len() as u64, offer.from);
            let tree = if offer.base { Tree::default() } else { memory.tree.clone() };
            self.offer = Some(Offered { offer, header, tree, changes: Vec::new(), wanted: HashSet::new() });
            memory.manner == Manner::Greedy
        };
        if greedy {
            let range = v1::Range { from: 0, to: u64::MAX };
            return self.say(up::Message::Want(v1::Want { want: Some(v1::want::Want::Range(range)) })).await;
        }
        let kept = self.bytes.clone();
        self.frames(&kept).await
    }

    async fn slice(&mut self, slice: v1::Slice) -> Option<()> {
        assert_eq!(slice.offset, self.bytes.len() as u64, "slices come in order");
        self.bytes.extend_from_slice(&slice.data);
        self.frames(&slice.data).await?;
        if self.manner() == Manner::HangsUp && self.bytes.len() > 600_000 {
            let mut memory = locked(&self.memory);
            memory.manner = Manner::Honest;
            let whole = self.reader.whole() as usize;
            let pack = Hash::try_from(self.offer.as_ref()?.offer.pack.as_ref()).unwrap();
            memory.partial = Some((pack, self.bytes[..whole].to_vec()));
            return None;
        }
        // The end frame was among it.
        let Some(offered) = &self.offer else { return Some(()) };
        let end = self.bytes.len() as u64;
        if end == offered.offer.to && end < offered.offer.size {
            let want = match self.manner() {
                Manner::Picky => {
                    let hashes = offered.wanted.iter().map(|hash| (*hash).into()).collect();
                    v1::want::Want::Chunks(v1::Hashes { hashes })
                }
                _ => v1::want::Want::Range(v1::Range { from: end, to: offered.offer.size }),
            };
            self.say(up::Message::Want(v1::Want { want: Some(want) })).await?;
            if self.manner() == Manner::StallsMidway {
                std::future::pending::<()>().await;
            }
        }
        Some(())
    }

    async fn frames(&mut self, bytes: &[u8]) -> Option<()> {
        for frame in self.reader.push(bytes).unwrap() {
            let Some(offered) = &mut self.offer else { return Some(()) };
            match frame {
                Frame::Head(head) => offered.tree = offered.tree.with_rules(&head.rules),
                Frame::Changes(changes) => {
                    for change in &changes {
                        if let Some(Kind::File(content)) = change.entry.as_ref().map(|entry| &entry.kind) {
                            offered.wanted.extend(content.chunks().iter().map(|chunk| chunk.hash));
                            assert_ne!(*content, Content::Many([].into()));
                        }
                    }
                    offered.changes.extend(changes);
                }
                Frame::Chunks(chunks) => {
                    for (chunk, _) in chunks {
                        offered.wanted.remove(&chunk.hash);
                    }
                }
                Frame::Patches(patches) => {
                    for patch in patches {
                        offered.wanted.remove(&patch.chunk.hash);
                    }
                }
                Frame::End => self.finish().await?,
            }
        }
        Some(())
    }

    async fn supply(&mut self, supply: v1::Supply) -> Option<()> {
        assert!(supply.missing.is_empty());
        let offered = self.offer.as_mut()?;
        if !supply.frames.is_empty() {
            for (chunk, bytes) in read_chunks(&supply.frames).unwrap() {
                assert_eq!(Hash::of(&bytes), chunk.hash);
                assert!(offered.wanted.remove(&chunk.hash), "a chunk that was not asked for, or twice");
            }
        }
        if !supply.last {
            return Some(());
        }
        assert!(offered.wanted.is_empty());
        self.finish().await
    }

    async fn finish(&mut self) -> Option<()> {
        let Offered { header, tree, changes, .. } = self.offer.take()?;
        let tree = tree.apply(changes).unwrap();
        let root = tree.root();
        assert_eq!(root, header.header().root);
        match self.manner() {
            Manner::Mute => return Some(()),
            Manner::Liar => return self.report(&header, v1::Outcome::Done, Hash::of(b"another")).await,
            Manner::Refuses => return self.refuse(&header, v1::Cause::Unspecified).await,
            Manner::Waits if self.is_first_offer() => return self.refuse(&header, v1::Cause::Space).await,
            Manner::WaitsAndHangsUp if self.is_first_offer() => {
                let revision = header.id().0.into();
                let (outcome, cause) = (v1::Outcome::Refused.into(), v1::Cause::Space.into());
                let report = v1::Report { revision, outcome, reason: "because".into(), cause, ..v1::Report::default() };
                self.say(up::Message::Report(report)).await?;
                return None;
            }
            Manner::Waits
            | Manner::WaitsAndHangsUp
            | Manner::Honest
            | Manner::Picky
            | Manner::Stalled
            | Manner::StallsMidway
            | Manner::Greedy
            | Manner::HangsUp => {}
        }
        {
            let mut memory = locked(&self.memory);
            memory.at = Some(header.clone());
            memory.tree = tree;
        }
        self.report(&header, v1::Outcome::Done, root).await
    }

    /// Whether the newest offer is of another revision than the one before.
    fn is_first_offer(&self) -> bool {
        let memory = locked(&self.memory);
        let mut newest = memory.offers.iter().rev().map(|(number, ..)| number);
        let number = newest.next();
        newest.next() != number
    }

    async fn refuse(&self, header: &SignedHeader, cause: v1::Cause) -> Option<()> {
        let (revision, outcome, cause) = (header.id().0.into(), v1::Outcome::Refused.into(), cause.into());
        let reason = "because".into();
        self.say(up::Message::Report(v1::Report { revision, outcome, reason, cause, ..v1::Report::default() })).await?;
        self.say(up::Message::Again(v1::Again { revision: header.id().0.into() })).await
    }

    async fn report(&self, header: &SignedHeader, outcome: v1::Outcome, root: Hash) -> Option<()> {
        self.say(up::Message::Report(v1::Report {
            revision: header.id().0.into(),
            outcome: outcome.into(),
            root: root.into(),
            reason: "because".into(),
            ..v1::Report::default()
        }))
        .await
    }
}
