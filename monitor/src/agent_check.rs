//! HAProxy's agent-check protocol (configuration manual, 2.6, chapter 5.2, `agent-check`), on a port of its own: one line
//! for every connection, from the server's own state only.
//!
//! The words are `up` and `down` alone. `ready`, `drain` and `maint` would override what an administrator has set at the
//! balancer. HAProxy ignores an agent that it cannot reach: one that is stopped takes nobody out of rotation.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    http::Ready,
    text::{plain, shortened},
};

/// Connections at a time; more are closed without an answer.
const OPEN: usize = 64;
/// For one connection, however slow.
const PATIENCE: Duration = Duration::from_secs(2);
/// Characters of a reason.
const REASON: usize = 100;
/// Bytes that are read of what the balancer may send (`agent-send`), so that closing does not cut off the answer.
const SENT: u64 = 4 << 10;
/// After the system has refused a connection: it lacks descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers on `listener` until `shutdown`.
pub async fn serve(listener: TcpListener, ready: watch::Receiver<Ready>, shutdown: impl Future<Output = ()>) {
    tokio::pin!(shutdown);
    let open = Arc::new(Semaphore::new(OPEN));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        let Ok(permit) = open.clone().try_acquire_owned() else { continue };
        let line = line(&ready.borrow());
        tokio::spawn(async move {
            let _permit = permit;
            // Late or gone: the balancer asks again.
            let _ = timeout(PATIENCE, answer(stream, &line)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, line: &str) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    let mut sent = Vec::new();
    stream.take(SENT).read_to_end(&mut sent).await.map(drop)
}

/// `up`, or `down` and why: one line, in which words end with a space and `#` begins the reason.
fn line(ready: &Ready) -> String {
    if ready.ready {
        return "up\n".to_owned();
    }
    let reason = shortened(&plain(&ready.reason).replace('#', " "), REASON);
    format!("down #{reason}\n")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::sync::oneshot;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    async fn ask(address: SocketAddr) -> String {
        let asking = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut text = String::new();
            // Closed without a word, or cut off: nothing was said.
            let _ = stream.read_to_string(&mut text).await;
            text
        };
        timeout(LIMIT, asking).await.expect("an answer or the end")
    }

    async fn served(test: impl AsyncFnOnce(SocketAddr, &watch::Sender<Ready>)) {
        let (ready, seen) = watch::channel(Ready::no("in a sync\nto #7"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, seen, async move { drop(stopped.await) }));
        test(address, &ready).await;
        stop.send(()).unwrap();
        timeout(LIMIT, task).await.expect("it ends").unwrap();
    }

    #[tokio::test]
    async fn only_up_and_down_are_said() {
        served(async |address, ready| {
            assert_eq!(ask(address).await, "down #in a sync to  7\n");
            ready.send_replace(Ready::yes("at revision 1.42"));
            assert_eq!(ask(address).await, "up\n");
            ready.send_replace(Ready::no("x".repeat(10_000)));
            assert!(ask(address).await.len() < 3 * REASON);
        })
        .await;
    }

    #[tokio::test]
    async fn connections_that_stay_open_are_bounded_and_end() {
        served(async |address, ready| {
            ready.send_replace(Ready::yes("at revision 1.42"));
            // They read nothing, and close nothing.
            let mut held = Vec::new();
            for _ in 0..OPEN + 8 {
                held.push(TcpStream::connect(address).await.unwrap());
            }
            let freed = async {
                while ask(address).await != "up\n" {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(LIMIT, freed).await.expect("slow connections are closed after their time");
            drop(held);
        })
        .await;
    }
}
