//! Revisions: the signed header that names a tree, its numbers and its identity.

mod labels;
mod named;

use std::{collections::BTreeMap, fmt, str::FromStr};

use bytes::Bytes;
use prost::Message;

use crate::{
    Malformed,
    hash::Hash,
    key::{KeyPair, PublicKey},
    limits,
    name::ServerName,
    v1,
};

pub use self::{
    labels::{ACCEPTED, CONFIRM_WITHIN, HOLD, REPLACES, TAKEN_BACK, check_labels},
    named::RevisionName,
};

/// The context of a header's signature.
const CONTEXT: &str = "bellwether v1 revision header";

/// A group's identity, 16 random bytes, made when it is formed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId([u8; 16]);

impl GroupId {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for GroupId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for GroupId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || Malformed::new(format!("'{}' is not a group's identity", text.escape_default()));
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
        bytes.as_slice().try_into().map(Self).map_err(|_| wrong())
    }
}

impl serde::Serialize for GroupId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for GroupId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Counts promotions: every new manager raises it, no server ever obeys a lower one (invariant 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a revision for people: `epoch.sequence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    /// The epoch it was made in.
    pub epoch: Epoch,
    /// Counts up by one within the group, across epochs.
    pub sequence: u64,
}

impl Number {
    /// The number of the revision after this one, made in `epoch`.
    ///
    /// # Errors
    /// No number follows.
    pub fn next(self, epoch: Epoch) -> Result<Self, Malformed> {
        Ok(Self { epoch, sequence: after(self.sequence, 1, "revision")? })
    }
}

/// Adds `by` to `count`; `what` names the count for people. Never saturates, never wraps.
///
/// # Errors
/// The sum is beyond [`limits::COUNT`].
pub fn after(count: u64, by: u64, what: &str) -> Result<u64, Malformed> {
    let next = count.checked_add(by).filter(|next| *next <= limits::COUNT);
    next.ok_or_else(|| {
        Malformed::new(format!(
            "{what} {count} is the last that there can be; if a server that cannot be trusted made it: bellwether group \
             rebuild --refuse KEY"
        ))
    })
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.epoch, self.sequence))
    }
}

impl FromStr for Number {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || Malformed::new(format!("'{}' is not a revision: EPOCH.SEQUENCE", text.escape_default()));
        let (epoch, sequence) = text.split_once('.').ok_or_else(wrong)?;
        let parse = |digits: &str| digits.parse::<u64>().map_err(|_| wrong());
        Ok(Self { epoch: Epoch(parse(epoch)?), sequence: parse(sequence)? })
    }
}

impl serde::Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A revision's identity: the BLAKE3 hash of its encoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RevisionId(pub Hash);

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Checks the message of a new revision.
///
/// # Errors
/// The message is longer than [`limits::SAID`] allows.
pub fn check_message(message: &str) -> Result<(), Malformed> {
    let (bytes, most) = (message.len(), limits::SAID.0);
    if bytes <= most {
        return Ok(());
    }
    Err(Malformed::new(format!("a message of {bytes} bytes; the limit is {most}")))
}

/// The description of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The group it belongs to.
    pub group: GroupId,
    /// Epoch and sequence.
    pub number: Number,
    /// The revision that it changes; none for the first.
    pub parent: Option<RevisionId>,
    /// The manager that made it.
    pub manager: ServerName,
    /// The manager's incarnation; a lower one means a restored backup (W14).
    pub incarnation: u64,
    /// Milliseconds since 1970, by the manager's clock.
    pub time_ms: u64,
    /// The author of the change, as far as known.
    pub author: String,
    /// The reason, in the author's words.
    pub message: String,
    /// A person's labels, and those that the program reserves ([`ACCEPTED`], [`HOLD`]).
    pub labels: BTreeMap<String, String>,
    /// The root hash of the one present view.
    pub root: Hash,
}

impl Header {
    fn to_wire(&self) -> v1::Header {
        v1::Header {
            group: Bytes::copy_from_slice(self.group.as_bytes()),
            epoch: self.number.epoch.0,
            sequence: self.number.sequence,
            parent: self.parent.map(|id| id.0.into()).unwrap_or_default(),
            manager: self.manager.to_string(),
            incarnation: self.incarnation,
            time_ms: self.time_ms,
            author: self.author.clone(),
            message: self.message.clone(),
            // A protobuf map has no order, and needs none: the identity comes from the signed bytes.
            labels: self.labels.clone().into_iter().collect(),
            views: vec![v1::View { name: String::new(), root: self.root.into() }],
        }
    }

    fn from_wire(wire: v1::Header) -> Result<Self, Malformed> {
        let group: [u8; 16] =
            wire.group.as_ref().try_into().map_err(|_| Malformed::new("a header whose group is not 16 bytes"))?;
        let parent = match wire.parent.len() {
            0 => None,
            _ => Some(RevisionId(Hash::try_from(wire.parent.as_ref())?)),
        };
        let [view] = wire.views.as_slice() else {
            return Err(Malformed::new(format!("a header with {} views; there is one", wire.views.len())));
        };
        if ![wire.epoch, wire.sequence].iter().all(|count| (1..=limits::COUNT).contains(count)) {
            return Err(Malformed::new("a header whose epoch or sequence is zero, or greater than there can be"));
        }
        Ok(Self {
            group: group.into(),
            number: Number { epoch: Epoch(wire.epoch), sequence: wire.sequence },
            parent,
            manager: wire.manager.parse()?,
            incarnation: wire.incarnation,
            time_ms: wire.time_ms,
            author: wire.author,
            message: wire.message,
            labels: wire.labels.into_iter().collect(),
            root: Hash::try_from(view.root.as_ref())?,
        })
    }
}

/// A header with the bytes that were signed. Not yet trusted: see [`SignedHeader::signed_by`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeader {
    header: Header,
    id: RevisionId,
    bytes: Bytes,
    signature: Bytes,
}

impl SignedHeader {
    /// The time within which somebody has to confirm the revision, in milliseconds; none: it is not to be confirmed.
    pub fn confirm_within(&self) -> Option<u64> {
        self.header().labels.get(CONFIRM_WITHIN)?.parse().ok()
    }

    /// Signs `header` as its manager.
    pub fn sign(header: Header, key: &KeyPair) -> Self {
        let bytes = Bytes::from(header.to_wire().encode_to_vec());
        let signature = Bytes::copy_from_slice(&key.sign(CONTEXT, &bytes));
        Self { id: RevisionId(Hash::of(&bytes)), header, bytes, signature }
    }

    /// Reads a header and computes its identity; the signature is kept, not checked.
    ///
    /// # Errors
    /// The bytes are not a header.
    pub fn from_wire(wire: v1::SignedHeader) -> Result<Self, Malformed> {
        if wire.header.len() > limits::HEADER {
            return Err(Malformed::new(format!(
                "a header of {} bytes; the limit is {}",
                wire.header.len(),
                limits::HEADER
            )));
        }
        let decoded =
            v1::Header::decode(wire.header.as_ref()).map_err(|e| Malformed::new(format!("not a header: {e}")))?;
        let header = Header::from_wire(decoded)?;
        Ok(Self { id: RevisionId(Hash::of(&wire.header)), header, bytes: wire.header, signature: wire.signature })
    }

    /// The message that [`SignedHeader::from_wire`] reads.
    pub fn to_wire(&self) -> v1::SignedHeader {
        v1::SignedHeader { header: self.bytes.clone(), signature: self.signature.clone() }
    }

    /// Whether `key` signed exactly these bytes.
    pub fn signed_by(&self, key: &PublicKey) -> bool {
        key.verifies(CONTEXT, &self.bytes, &self.signature)
    }

    /// The revision's description.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The revision's identity.
    pub fn id(&self) -> RevisionId {
        self.id
    }

    /// `epoch.sequence`.
    pub fn number(&self) -> Number {
        self.header.number
    }
}

impl serde::Serialize for SignedHeader {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::BASE64.encode(&self.to_wire().encode_to_vec()))
    }
}

impl<'de> serde::Deserialize<'de> for SignedHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).map_err(D::Error::custom)?;
        let wire = v1::SignedHeader::decode(Bytes::from(bytes)).map_err(D::Error::custom)?;
        Self::from_wire(wire).map_err(D::Error::custom)
    }
}
