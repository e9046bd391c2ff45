//! A connection that holds a slot of its listener ([`bellwether_monitor::listening`]). It ends when it loses the slot,
//! or when the peer is silent for too long.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bellwether_monitor::listening::ConnectionSlot;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tonic::transport::server::Connected;

/// The connection.
#[derive(Debug)]
pub struct Placed<S> {
    stream: S,
    place: ConnectionSlot,
    quiet: Option<Quiet>,
}

#[derive(Debug)]
struct Quiet {
    limit: Duration,
    heard: bool,
    /// Fires every `limit`, to check whether something was received since.
    look: Pin<Box<Sleep>>,
}

impl<S> Placed<S> {
    /// Wraps `stream` with its slot; it ends after at most twice `quiet` of silence, if that is given.
    pub fn new(stream: S, place: ConnectionSlot, quiet: Option<Duration>) -> Self {
        let quiet = quiet.map(|limit| Quiet { limit, heard: true, look: Box::pin(sleep(limit)) });
        Self { stream, place, quiet }
    }
}

impl Quiet {
    /// Ready when the silence was too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.look.as_mut().poll(context).is_ready() {
            if !std::mem::take(&mut self.heard) {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(Instant::now() + self.limit);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Placed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.place.poll_lost(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its slot was needed")));
        }
        let read = Pin::new(&mut this.stream).poll_read(context, buf);
        if let Some(quiet) = &mut this.quiet {
            if read.is_ready() {
                quiet.heard = true;
            } else if quiet.poll(context).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer was silent for too long")));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Placed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: Connected> Connected for Placed<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use bellwether_monitor::listening::{Bounds, ConnectionSlots};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn places() -> ConnectionSlots<()> {
        ConnectionSlots::new(Bounds { all: 1, each: 1 })
    }

    #[tokio::test]
    async fn it_ends_when_its_place_is_anothers() {
        let mut places = places();
        let (_far, near) = duplex(8);
        let mut placed = Placed::new(near, places.admit(()), None);
        let mut byte = [0];
        let (read, _next) = tokio::join!(placed.read(&mut byte), async { places.admit(()) });
        assert_eq!(read.expect_err("it had to go").kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn it_ends_when_nothing_is_heard() {
        let (mut far, near) = duplex(8);
        let mut places = places();
        let mut placed = Placed::new(near, places.admit(()), Some(Duration::from_millis(20)));
        far.write_all(b"x").await.expect("written");
        let mut byte = [0];
        placed.read_exact(&mut byte).await.expect("what came is read");
        let error = placed.read_exact(&mut byte).await.expect_err("nothing comes any more");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
