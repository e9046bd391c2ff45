//! HAProxy's agent-check protocol (configuration manual, 2.6, chapter 5.2, `agent-check`), on its own port: one line
//! for every connection, from the server's own state only.
//!
//! The answer is `up` or `down` only: `ready`, `drain` and `maint` would override an administrator's setting at the
//! balancer. HAProxy ignores an agent that it cannot reach, so a stopped agent takes no server out of rotation.

use std::time::Duration;

use bellwether_proto::ready::Ready;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    listening::{Bounds, ConnectionSlots, accept},
    text::{plain, shortened},
};

/// The largest number of connections.
pub const BOUNDS: Bounds = Bounds { all: 64, each: 32 };
/// The time limit for one connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest number of characters of a reason.
const REASON: usize = 100;
/// The number of bytes that are read from the balancer (`agent-send`), so that closing does not cut off the answer.
const SENT: u64 = 4 << 10;

/// Answers on `listener` until `shutdown`.
pub async fn serve(listener: TcpListener, ready: watch::Receiver<Ready>, shutdown: impl Future<Output = ()>) {
    tokio::pin!(shutdown);
    let mut places = ConnectionSlots::new(BOUNDS);
    let mut open = JoinSet::new();
    loop {
        // Cancelling `accept` and `join_next` loses nothing.
        let accepted = tokio::select! {
            accepted = accept(&listener, &mut places) => accepted,
            Some(_) = open.join_next() => continue,
            () = &mut shutdown => return,
        };
        let Ok((stream, _, mut place)) = accepted else { continue };
        let line = line(&ready.borrow());
        open.spawn(async move {
            tokio::select! {
                // If the answer is late or the connection gone, the balancer asks again.
                _ = timeout(PATIENCE, answer(stream, &line)) => {}
                () = place.lost() => {}
            }
        });
    }
}

async fn answer(mut stream: TcpStream, line: &str) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    let mut sent = Vec::new();
    stream.take(SENT).read_to_end(&mut sent).await.map(drop)
}

/// `up`, or `down` and the reason: one line, in which words end with a space and `#` begins the reason.
pub(crate) fn line(ready: &Ready) -> String {
    if ready.ready {
        return "up\n".to_owned();
    }
    let reason = shortened(&plain(&ready.reason).replace('#', " "), REASON);
    format!("down #{reason}\n")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{sync::oneshot, time::sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    async fn ask(address: SocketAddr) -> String {
        let asking = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut text = String::new();
            // The connection was closed or cut off without an answer.
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
            // These clients read nothing, and close nothing.
            let mut held = Vec::new();
            for _ in 0..BOUNDS.all + 8 {
                held.push(TcpStream::connect(address).await.unwrap());
            }
            let freed = async {
                while ask(address).await != "up\n" {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(LIMIT, freed).await.expect("the oldest make room");
            // Every connection ends, because it was made to go or its time is over.
            for mut stream in held {
                let mut rest = Vec::new();
                // A reset counts, too.
                let _ = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("it is closed");
            }
        })
        .await;
    }
}
