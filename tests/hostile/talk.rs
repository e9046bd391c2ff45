//! The push stream from the manager's side, message by message.

use std::time::Duration;

use bellwether_proto::{
    limits,
    v1::{self, down, push_client::PushClient, up},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::farm::DEADLINE;

/// An open stream to a member.
pub(super) struct Talk {
    down: mpsc::Sender<v1::Down>,
    up: Streaming<v1::Up>,
}

/// A member's answer.
#[derive(Debug)]
pub(super) enum Verdict {
    Done(Box<v1::Report>),
    Refused(String),
    Failed(String),
    /// The stream ended, with the reason.
    Ended(String),
    /// The member requests more.
    Wants(v1::want::Want),
    Verified,
}

impl Verdict {
    /// The report of an accepted revision.
    #[track_caller]
    pub(super) fn taken(self, case: &str) -> v1::Report {
        match self {
            Self::Done(report) => *report,
            Self::Refused(why) | Self::Failed(why) | Self::Ended(why) => panic!("{case}: not taken: {why}"),
            other => panic!("{case}: not taken: {other:?}"),
        }
    }

    /// The words of a refusal, before the switch or by ending the stream.
    #[track_caller]
    pub(super) fn refusal(self, case: &str) -> String {
        match self {
            Self::Refused(why) | Self::Ended(why) => why,
            other => panic!("{case}: not refused: {other:?}"),
        }
    }
}

impl Talk {
    /// Opens a stream with this first message.
    pub(super) async fn open(channel: Channel, first: down::Message) -> Result<Self, Status> {
        let mut client =
            PushClient::new(channel).max_decoding_message_size(limits::MESSAGE).max_encoding_message_size(usize::MAX);
        let (down, downs) = mpsc::channel(4);
        down.send(v1::Down { message: Some(first) }).await.expect("there is room");
        let opening = async {
            let mut up = client.follow(ReceiverStream::new(downs)).await?.into_inner();
            match up.message().await? {
                Some(v1::Up { message: Some(up::Message::Hello(_)) }) => Ok(Self { down, up }),
                other => panic!("not a hello: {other:?}"),
            }
        };
        timeout(DEADLINE, opening).await.expect("an answer to the hello")
    }

    /// Sends a message. A peer that does not take it has ended the stream, as [`Talk::verdict`] tells.
    pub(super) async fn send(&self, message: down::Message) {
        let sent = timeout(DEADLINE, self.down.send(v1::Down { message: Some(message) })).await;
        let _ = sent.expect("the member reads");
    }

    /// Sends these messages again and again, until the stream has ended or takes nothing more.
    pub(super) async fn flood(&self, messages: &[down::Message]) {
        for message in messages.iter().cycle() {
            let down = v1::Down { message: Some(message.clone()) };
            match timeout(Duration::from_secs(1), self.down.send(down)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// The next answer to a sent message.
    pub(super) async fn verdict(&mut self) -> Verdict {
        timeout(DEADLINE, self.next()).await.expect("an answer")
    }

    /// The next report of drift.
    pub(super) async fn drift(&mut self) -> v1::Drift {
        let next = async {
            loop {
                match self.up.message().await.expect("an open stream").and_then(|up| up.message) {
                    Some(up::Message::Drift(drift)) => return drift,
                    Some(_) => {}
                    None => panic!("the stream ended"),
                }
            }
        };
        timeout(DEADLINE, next).await.expect("a report of drift")
    }

    async fn next(&mut self) -> Verdict {
        loop {
            let message = match self.up.message().await {
                Ok(Some(v1::Up { message })) => message,
                Ok(None) => return Verdict::Ended("without a word".into()),
                Err(status) => return Verdict::Ended(status.message().to_owned()),
            };
            match message.expect("a message that says something") {
                up::Message::Report(report) => {
                    return match report.outcome() {
                        v1::Outcome::Done => Verdict::Done(Box::new(report)),
                        v1::Outcome::Refused => Verdict::Refused(report.reason),
                        v1::Outcome::Failed => Verdict::Failed(report.reason),
                        v1::Outcome::Unspecified => panic!("no outcome"),
                    };
                }
                up::Message::Want(want) => return Verdict::Wants(want.want.expect("something that is wanted")),
                up::Message::Verified(_) => return Verdict::Verified,
                up::Message::Fault(fault) => return Verdict::Failed(fault.reason),
                up::Message::Hello(_) => panic!("a second hello"),
                up::Message::Staged(_) | up::Message::Kept(_) => panic!("nothing was to be staged or kept"),
                up::Message::Progress(_)
                | up::Message::Drift(_)
                | up::Message::Keepalive(_)
                | up::Message::Knock(_)
                | up::Message::Again(_)
                | up::Message::Balancers(_)
                | up::Message::Forgets(_) => {}
            }
        }
    }

    /// Sends an offer and all these bytes as slices.
    pub(super) async fn offer(&self, offer: v1::Offer, bytes: &[u8]) {
        let from = offer.from as usize;
        let to = (offer.to as usize).min(bytes.len());
        self.send(down::Message::Offer(offer)).await;
        self.slices(bytes, from, to).await;
    }

    /// Sends these of the bytes as slices.
    pub(super) async fn slices(&self, bytes: &[u8], from: usize, to: usize) {
        for (number, piece) in bytes[from..to].chunks(limits::SLICE).enumerate() {
            let offset = (from + number * limits::SLICE) as u64;
            let data = bytes::Bytes::copy_from_slice(piece);
            self.send(down::Message::Slice(v1::Slice { offset, data })).await;
        }
    }
}
