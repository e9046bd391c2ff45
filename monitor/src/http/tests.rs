use std::net::SocketAddr;

use bellwether_proto::status::State;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use super::*;
use crate::table::tests::{farm, server};

struct Served {
    address: SocketAddr,
    status: watch::Sender<Arc<FarmStatus>>,
    ready: watch::Sender<Ready>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

async fn served() -> Served {
    let (status, status_seen) = watch::channel(Arc::new(farm(vec![server("web1", State::InSync, 42)])));
    let (ready, ready_seen) = watch::channel(Ready::no("not in sync yet"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let task = tokio::spawn(serve(listener, router(status_seen, ready_seen), shutdown));
    Served { address, status, ready, stop, task }
}

/// The status code, the head and the body.
async fn ask(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn readiness_follows_the_local_state() {
    let served = served().await;
    let (code, _, body) = ask(served.address, "/ready").await;
    assert_eq!((code, serde_json::from_str::<Ready>(&body).unwrap()), (503, Ready::no("not in sync yet")));
    served.ready.send_replace(Ready::yes("in sync at 1.42"));
    let (code, head, body) = ask(served.address, "/ready").await;
    assert_eq!((code, serde_json::from_str::<Ready>(&body).unwrap().ready), (200, true));
    assert!(head.contains("cache-control: no-store"), "{head}");
    assert_eq!(ask(served.address, "/live").await.0, 200);
}

#[tokio::test]
async fn only_the_manager_says_that_it_is_one() {
    let served = served().await;
    let (code, _, body) = ask(served.address, "/manager").await;
    assert_eq!((code, body.contains(r#""manager":"m""#)), (200, true), "{body}");
    let mut other = farm(vec![server("web1", State::InSync, 42)]);
    other.observer = "web1".parse().unwrap();
    served.status.send_replace(Arc::new(other));
    let (code, _, body) = ask(served.address, "/manager").await;
    assert_eq!((code, body.contains(r#""manager":"m""#)), (503, true), "{body}");
    // Just started: it does not know the record yet.
    let unknown = FarmStatus { record: NO_RECORD.to_owned(), ..farm(Vec::new()) };
    served.status.send_replace(Arc::new(unknown));
    assert_eq!(ask(served.address, "/manager").await.0, 503);
}

#[tokio::test]
async fn the_status_is_the_newest_one() {
    let served = served().await;
    let fresh = farm(vec![server("web1", State::Error, 41)]);
    served.status.send_replace(Arc::new(fresh.clone()));
    let (code, head, body) = ask(served.address, "/status").await;
    assert_eq!((code, serde_json::from_str::<FarmStatus>(&body).unwrap()), (200, fresh));
    assert!(head.contains("content-type: application/json"), "{head}");
}

#[tokio::test]
async fn metrics_name_their_format() {
    let served = served().await;
    let (code, head, body) = ask(served.address, "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("bellwether_head_sequence 42"), "{body}");
}

#[tokio::test]
async fn the_page_needs_no_other_host() {
    let served = served().await;
    let (code, head, body) = ask(served.address, "/").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    for outside in ["http://", "https://", "src=", "@import", "innerHTML"] {
        assert!(!body.contains(outside), "{outside} in the page");
    }
    assert_eq!(ask(served.address, "/nothing").await.0, 404);
}

#[tokio::test]
async fn it_ends_when_told_although_a_connection_is_open() {
    let served = served().await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
    served.stop.send(()).unwrap();
    served.task.await.unwrap().unwrap();
}
