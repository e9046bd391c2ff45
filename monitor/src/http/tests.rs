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
    task: JoinHandle<()>,
}

/// The channel's status is the whole farm.
impl Farm for watch::Receiver<Arc<FarmStatus>> {
    fn own(&self) -> Arc<FarmStatus> {
        self.borrow().clone()
    }

    fn whole(&self) -> Pin<Box<dyn Future<Output = Arc<FarmStatus>> + Send + '_>> {
        Box::pin(std::future::ready(self.own()))
    }
}

async fn served() -> Served {
    let (status, status_seen) = watch::channel(Arc::new(farm(vec![server("web1", State::InSync, 42)])));
    let (ready, ready_seen) = watch::channel(Ready::no("not in sync yet"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let task = tokio::spawn(serve(listener, router(Names::new(["farm"]), Arc::new(status_seen), ready_seen), shutdown));
    Served { address, status, ready, stop, task }
}

/// The status code, the head and the body.
async fn ask(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask_as(address, path, "farm").await
}

async fn ask_as(address: SocketAddr, path: &str, host: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
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
    // A server that has just started does not know the record yet.
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
    served.task.await.unwrap();
}

#[tokio::test]
async fn another_name_reads_nothing_but_what_balancers_ask() {
    let served = served().await;
    for (path, code) in
        [("/status", 200), ("/metrics", 200), ("/", 200), ("/live", 200), ("/manager", 200), ("/ready", 503)]
    {
        let open = matches!(path, "/live" | "/ready" | "/manager");
        for host in ["farm", "127.0.0.1:1", "[::1]", "localhost"] {
            assert_eq!(ask_as(served.address, path, host).await.0, code, "{path} as {host}");
        }
        let (answered, head, body) = ask_as(served.address, path, "evil.example").await;
        assert_eq!(answered, if open { code } else { 421 }, "{path}");
        assert!(open || (body.contains("http_names") && !body.contains("web1")), "{path}: {body}");
        assert!(head.contains("cache-control: no-store"), "{path}: {head}");
    }
}

#[tokio::test]
async fn no_answer_is_taken_for_something_else() {
    let served = served().await;
    for path in ["/", "/live", "/ready", "/manager", "/status", "/metrics", "/nothing"] {
        for host in ["farm", "evil.example"] {
            let (_, head, _) = ask_as(served.address, path, host).await;
            assert!(head.contains("x-content-type-options: nosniff"), "{path} as {host}: {head}");
        }
    }
}

#[tokio::test]
async fn idle_and_slow_connections_keep_nobody_out() {
    let served = served().await;
    served.ready.send_replace(Ready::yes("in sync at 1.42"));
    let mut idle = Vec::new();
    for number in 0..3 * BOUNDS.all {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /ready HTTP/1.1\r\nHost: fa").await.unwrap(),
            // The connections stay open after an answer that is never read. The oldest is closed first.
            _ => drop(stream.write_all(b"GET /status HTTP/1.1\r\nHost: farm\r\n\r\n").await),
        }
        idle.push(stream);
        if number % 50 == 0 {
            assert_eq!(ask(served.address, "/ready").await.0, 200, "beside {number} others");
        }
    }
    assert_eq!(ask(served.address, "/ready").await.0, 200);
    let mut rest = Vec::new();
    let first = tokio::time::timeout(Duration::from_secs(30), idle[0].read_to_end(&mut rest)).await;
    assert!(first.is_ok(), "the oldest made room");
}

#[tokio::test]
async fn the_head_of_a_request_has_its_time() {
    let served = served().await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET /live HTTP/1.1\r\nHost: farm\r\nX: ").await.unwrap();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /live HTTP/1.1\r\nHost: farm\r\n\r\n").await.unwrap();
    let mut answers = (String::new(), String::new());
    // No other connection wants their places: only the time limits end them.
    let ended = async { tokio::join!(slow.read_to_string(&mut answers.0), idle.read_to_string(&mut answers.1)) };
    let ended = tokio::time::timeout(10 * HEAD, ended).await;
    assert!(ended.is_ok(), "both are closed when their time is over");
    assert!(!answers.0.starts_with("HTTP/1.1 200") && answers.1.starts_with("HTTP/1.1 200"), "{answers:?}");
}
