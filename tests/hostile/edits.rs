//! A member that sends false edits when the manager fetches them to keep them.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use bellwether_daemon::net::tls;
use bellwether_proto::{
    hash::Hash,
    key::KeyPair,
    limits,
    revision::{Header, SignedHeader},
    v1::{
        self,
        edited_server::{Edited, EditedServer},
    },
};
use bellwether_store::mutex::locked;
use bytes::Bytes;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    forge::{CHUNKS, change, chunks_payload, directory, file, frame, link},
    manager::fill,
    member::{Player, token},
    runtime,
    snapshot::Snapshot,
};
use crate::farm::Farm;

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Sends these parts to any server that asks for its edits.
struct Liar(Arc<Mutex<Vec<v1::EditsPart>>>);

#[tonic::async_trait]
impl Edited for Liar {
    type ShowStream = Answer<v1::ServerDrift>;
    type EditsStream = Answer<v1::EditsPart>;

    async fn show(&self, _: Request<v1::DriftRequest>) -> Result<Response<Self::ShowStream>, Status> {
        let server = v1::ServerDrift { server: "manager\u{1b}[2J".into(), entries: u64::MAX, ..Default::default() };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(server)]))))
    }

    async fn keep(&self, _: Request<v1::KeepRequest>) -> Result<Response<v1::KeepReply>, Status> {
        Err(Status::unimplemented("played"))
    }

    async fn revert(&self, _: Request<v1::RevertRequest>) -> Result<Response<v1::RevertReply>, Status> {
        Err(Status::failed_precondition("no\u{1b}[2J"))
    }

    async fn edits(&self, _: Request<v1::EditsRequest>) -> Result<Response<Self::EditsStream>, Status> {
        let parts = locked(&self.0).clone();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts.into_iter().map(Ok)))))
    }

    async fn kept(&self, _: Request<v1::KeptRequest>) -> Result<Response<v1::KeptReply>, Status> {
        Ok(Response::new(v1::KeptReply {}))
    }
}

fn edit(path: impl AsRef<[u8]>, entry: impl Into<Option<v1::Entry>>) -> v1::Edit {
    let v1::Change { path, entry, .. } = change(path, entry);
    v1::Edit { set: "web".into(), path, entry }
}

fn chunks(contents: &[&[u8]]) -> v1::EditsPart {
    let contents: Vec<_> = contents.iter().map(|content| content.to_vec()).collect();
    let frames = Bytes::from(frame(CHUNKS, &chunks_payload(&contents)));
    v1::EditsPart { frames, ..v1::EditsPart::default() }
}

/// The newest revision in the manager's history, as a member names it.
fn head(farm: &Farm) -> SignedHeader {
    let layout = bellwether_store::state::layout::Layout::new(farm.manager().state());
    let history = bellwether_store::history::History::open(&layout.history()).expect("a history");
    history.head().expect("a head").header.clone()
}

#[test]
fn w3_edits_that_lie_do_not_become_a_revision() {
    let farm = Farm::plan().start_with(fill);
    let player = Player::new("player");
    runtime().block_on(player.enter(&token(&farm, &[]))).expect("entered");
    let parts = Arc::new(Mutex::new(Vec::new()));
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind(&player.address).await.expect("a port");
        let incoming = tls::incoming(listener, tls::ServerTls::new(&player.key).expect("a key"));
        let service = EditedServer::new(Liar(parts.clone())).max_encoding_message_size(usize::MAX);
        tokio::spawn(tls::service().add_service(service).serve_with_incoming(incoming));
    });
    let at = head(&farm);
    let first = |edits: Vec<v1::Edit>| v1::EditsPart { at: Some(at.to_wire()), edits, frames: Bytes::new() };
    let evil = || file(b"evil");
    let all = |edits| vec![first(edits), chunks(&[b"evil"])];
    let elsewhere = SignedHeader::sign(Header { root: Hash::of(b"x"), ..at.header().clone() }, &KeyPair::generate());
    let unknown = v1::EditsPart { at: Some(elsewhere.to_wire()), ..first(vec![edit("evil", evil())]) };
    let other_set = v1::Edit { set: "etc".into(), ..edit("evil", evil()) };
    let million = vec![7u8; limits::CHUNK];
    let endless = std::iter::once(first(Vec::new())).chain((0..70).map(|_| chunks(&[&million]))).collect();
    let rows: Vec<(&str, Vec<v1::EditsPart>, &[&str])> = vec![
        ("nothing", Vec::new(), &["sent nothing"]),
        ("no revision", vec![v1::EditsPart { at: None, ..first(Vec::new()) }], &["which revision"]),
        ("an unknown revision", vec![unknown, chunks(&[b"evil"])], &["no longer in the manager's history"]),
        ("above", all(vec![edit("../evil", evil())]), &["leads elsewhere"]),
        ("absolute", all(vec![edit("/etc/evil", evil())]), &["is empty"]),
        ("twice", all(vec![edit("a", evil()), edit("a", evil())]), &["not sorted"]),
        ("another set", all(vec![other_set]), &["no set etc"]),
        ("staging", all(vec![edit(".bellwether", evil())]), &["excluded by the set's rules"]),
        ("setuid", all(vec![edit("evil", v1::Entry { mode: 0o4755, ..evil() })]), &["setuid or setgid"]),
        ("nobody's", all(vec![edit("evil", v1::Entry { user: "no-such-user".into(), ..evil() })]), &["no-such-user"]),
        ("in no directory", all(vec![edit("nowhere/evil", evil())]), &["in no directory"]),
        ("through its own link", all(vec![edit("way", link("/etc")), edit("way/evil", evil())]), &["in no directory"]),
        ("no content", vec![first(vec![edit("evil", evil())])], &["1 chunks are missing"]),
        ("other content", vec![first(vec![edit("evil", evil())]), chunks(&[b"good"])], &["1 chunks are missing"]),
        ("frames that are none", vec![first(Vec::new()), chunks(&[])], &["not a valid pack"]),
        ("without end", endless, &["it sent more than"]),
        ("the whole set gone", vec![first(vec![edit("", None)])], &["whole directory", "nothing was changed"]),
    ];
    let before = Snapshot::of(farm.manager());
    let newest = farm.status().head;
    for (case, lie, words) in rows {
        *locked(&parts) = lie;
        let said = farm.manager().command(&["drift", "keep", "player"]);
        assert!(matches!(said.code, Some(1 | 3)), "{case}: {said}");
        said.says(words);
        before.assert_unchanged(farm.manager(), case);
        assert_eq!(farm.status().head, newest, "{case}");
    }
    *locked(&parts) = all(vec![edit("new", directory()), edit("new/good", evil())]);
    farm.manager().command(&["drift", "keep", "player"]).success();
    assert_eq!(std::fs::read(farm.manager().web("new/good")).expect("kept"), b"evil");

    let shown = farm.manager().command(&["drift", "show", "player"]).success().says(&["player at"]);
    assert!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains("manager"), "{shown}");
    let refused = farm.manager().command(&["drift", "revert", "player"]).refused();
    assert!(!refused.stderr.contains('\u{1b}'), "{refused}");
}
