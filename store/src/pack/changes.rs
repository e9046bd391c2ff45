//! Changes as a frame's payload (`v1.Changes`). Decoding allocates memory in proportion to the bytes that arrived.

use bellwether_proto::{
    Malformed,
    entry::{Entry, EntryPath, Kind, Owners},
    limits, v1,
};
use bytes::Buf;
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};

use super::{PackError, RawChange, frame::ITEMS, malformed};
use crate::tree::Change;

/// The key of `Changes.changes`: field 1 with a length.
const CHANGE: u8 = 0x0a;
/// The minimum size of an encoded `v1.Chunk`: a hash of 32 bytes, a length of one, and their keys.
const CHUNK: usize = 36;

/// Appends one change of set number `set`.
pub(super) fn encode(set: u32, change: &Change, raw: &mut Vec<u8>) {
    let path = bytes::Bytes::copy_from_slice(change.path.as_bytes());
    let wire = v1::Change { set, path, entry: change.entry.as_ref().map(Entry::to_wire) };
    raw.push(CHANGE);
    raw.reserve(wire.encoded_len() + 5);
    // Writing to a Vec never fails.
    let _ = wire.encode_length_delimited(raw);
}

/// An upper bound of the bytes that [`encode`] appends.
pub(super) fn size(change: &Change) -> usize {
    let entry = change.entry.as_ref().map_or(0, |entry| {
        let meta = &entry.meta;
        let xattrs = meta.xattrs.iter().flat_map(|list| list.iter());
        let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len() + 16).sum();
        let kind = match &entry.kind {
            Kind::Directory => 0,
            Kind::File(content) => content.chunks().len() * 42,
            Kind::Link(target) => target.len(),
        };
        64 + meta.owner.user.len() + meta.owner.group.len() + xattrs + kind
    });
    32 + change.path.as_bytes().len() + entry
}

/// Decodes and checks the changes of one frame, one by one.
pub(super) fn decode(raw: &[u8]) -> Result<Vec<RawChange>, PackError> {
    let mut list: Vec<RawChange> = Vec::new();
    let mut owners = Owners::default();
    for field in fields(raw) {
        let (1, Some(bytes)) = field? else {
            return Err(malformed("a changes frame with other content"));
        };
        let change = decode_one(bytes, &mut owners)?;
        if let Some(last) = list.last() {
            check_order((last.set, &last.path), (change.set, &change.path))?;
        }
        if list.len() == ITEMS {
            return Err(malformed(format!("a frame of more than {ITEMS} changes")));
        }
        list.push(change);
    }
    Ok(list)
}

/// Whether `next` may come after `last`.
pub(super) fn check_order(last: (u32, &EntryPath), next: (u32, &EntryPath)) -> Result<(), PackError> {
    if last < next {
        return Ok(());
    }
    Err(malformed(format!("changes that are not sorted: '{}' after '{}'", next.1, last.1)))
}

fn decode_one(bytes: &[u8], owners: &mut Owners) -> Result<RawChange, PackError> {
    check_size(bytes)?;
    let wire = v1::Change::decode(bytes).map_err(|e| malformed(format!("not a change: {e}")))?;
    let path = EntryPath::new(&wire.path)?;
    let at = |e: Malformed| malformed(format!("'{path}': {e}"));
    let entry = wire.entry.map(|entry| Entry::from_wire(entry, owners)).transpose().map_err(at)?;
    Ok(RawChange { set: wire.set, path, entry })
}

/// Refuses, before anything is allocated, a change whose parts are smaller than real parts, because its messages would take
/// many times the bytes that arrived.
fn check_size(change: &[u8]) -> Result<(), PackError> {
    let mut xattrs = 0;
    for field in fields(change) {
        let (3, Some(entry)) = field? else { continue };
        for field in fields(entry) {
            match field? {
                (5, _) => xattrs += 1,
                (7, Some(file)) => check_chunks(file)?,
                _ => {}
            }
        }
    }
    if xattrs > limits::XATTRS.0 {
        return Err(malformed(format!("an entry with {xattrs} extended attributes")));
    }
    Ok(())
}

fn check_chunks(file: &[u8]) -> Result<(), PackError> {
    for field in fields(file) {
        if !matches!(field?, (1, Some(chunk)) if chunk.len() >= CHUNK) {
            return Err(malformed("a file with a chunk that has no hash or no length"));
        }
    }
    Ok(())
}

/// The fields of an encoded message: their numbers, and the bytes of each field with a length.
pub(super) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u32, Option<&[u8]>), Malformed>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Option<&'a [u8]>), Malformed> {
    let wrong = || Malformed::new("a message that is not protobuf");
    let (number, wire) = decode_key(rest).map_err(|_| wrong())?;
    let skip = match wire {
        WireType::Varint => {
            decode_varint(rest).map_err(|_| wrong())?;
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => {
            let length = decode_varint(rest).map_err(|_| wrong())?;
            let length = usize::try_from(length).ok().filter(|&n| n <= rest.len()).ok_or_else(wrong)?;
            let (field, after) = rest.split_at(length);
            *rest = after;
            return Ok((number, Some(field)));
        }
        WireType::StartGroup | WireType::EndGroup => return Err(wrong()),
    };
    if rest.len() < skip {
        return Err(wrong());
    }
    rest.advance(skip);
    Ok((number, None))
}
