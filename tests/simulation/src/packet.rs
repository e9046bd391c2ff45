//! The messages of simulated servers: those of the real wire, each with its length before it.

use bellwether_proto::v1;
use prost::Message;

/// One message. `from` replaces the key that mutual TLS checks.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Packet {
    /// The sender's public key.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) from: bytes::Bytes,
    /// The number of the sender's start, as its calls carry it.
    #[prost(uint64, tag = "10")]
    pub(crate) start: u64,
    /// The content.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
    pub(crate) body: Option<Body>,
}

/// The content of a message.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Body {
    /// Manager to member, on the push stream.
    #[prost(message, tag = "2")]
    Down(v1::Down),
    /// Member to manager, on the push stream.
    #[prost(message, tag = "3")]
    Up(v1::Up),
    /// A question for newer records than this one.
    #[prost(message, tag = "4")]
    Ask(v1::RecordsRequest),
    /// The answer to a question for records.
    #[prost(message, tag = "5")]
    Answer(Records),
    /// The caller's newer records.
    #[prost(message, tag = "6")]
    Tell(Records),
    /// The end of the stream, with the reason that a record was refused.
    #[prost(message, tag = "7")]
    Refused(Refused),
    /// A question for the revisions that the server has seen.
    #[prost(message, tag = "8")]
    Survey(v1::SurveyRequest),
    /// The answer with those revisions.
    #[prost(message, tag = "9")]
    Seen(v1::SurveyReply),
}

/// The chain, then the record in force, oldest first; empty if no newer record is known.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Records {
    #[prost(message, repeated, tag = "1")]
    pub(crate) records: Vec<v1::SignedRecord>,
}

/// The reason that a stream is refused.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Refused {
    /// Present if the reason is about the record.
    #[prost(message, optional, boxed, tag = "1")]
    pub(crate) record: Option<Box<v1::RecordRefusal>>,
    /// For people.
    #[prost(string, tag = "2")]
    pub(crate) reason: String,
    /// Another start of the sender leads here, and lives.
    #[prost(bool, tag = "4")]
    pub(crate) copy: bool,
    /// The record's signer may not sign it.
    #[prost(bool, tag = "3")]
    pub(crate) signer: bool,
}

/// Bytes of the length before each message.
const LENGTH: usize = 4;

impl Packet {
    /// The bytes on the wire.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let length = u32::try_from(self.encoded_len()).expect("a small message");
        let mut frame = length.to_be_bytes().to_vec();
        self.encode(&mut frame).expect("a vector has room");
        frame
    }

    /// Takes the first message out of the arrived bytes; none if it is not whole yet.
    pub(crate) fn take(arrived: &mut bytes::BytesMut) -> Option<Self> {
        let length = arrived.get(..LENGTH)?.try_into().map(u32::from_be_bytes).expect("four bytes");
        let end = LENGTH + length as usize;
        if arrived.len() < end {
            return None;
        }
        let frame = arrived.split_to(end).freeze();
        Some(Self::decode(frame.slice(LENGTH..)).expect("only servers of this simulation send"))
    }
}
