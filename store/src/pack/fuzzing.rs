//! Fuzzing of the packs' decoders (`fuzz/`). A fuzzer does not guess checksums, so they are made here for all functions except
//! [`frames`]. Each function returns whether the decoder accepted its input.

use std::{path::Path, sync::LazyLock};

use bellwether_proto::{
    entry::{Chunk, Entry, EntryPath, Kind, Meta, Owner},
    fuzzing::a_header,
    hash::Hash,
    key::KeyPair,
    limits,
    record::{Codec, SetRules},
    v1,
};
use bytes::Bytes;
use prost::Message;

use super::{
    Counts, Decoded, FrameKind, Outlines, Patch, Reader, Splitter, changes as encoding, chunk_frames, frame,
    read_chunks, survey,
};
use crate::tree::Change;

const KINDS: [FrameKind; 5] =
    [FrameKind::Head, FrameKind::Changes, FrameKind::Chunks, FrameKind::Patches, FrameKind::End];

/// Cuts the bytes into frames, in one piece and byte by byte.
pub fn frames(bytes: &[u8]) -> bool {
    let chunks = read_chunks(bytes).is_ok_and(|chunks| !chunks.is_empty());
    let whole = Reader::default().push(bytes).map(|frames| frames.len());
    let mut reader = Reader::default();
    let mut count = 0;
    for piece in bytes.chunks(7) {
        match reader.push(piece) {
            Ok(frames) => count += frames.len(),
            Err(_) => {
                assert!(whole.is_err(), "refused in pieces only");
                return chunks;
            }
        }
    }
    assert_eq!(whole.ok(), Some(count), "the pieces give other frames");
    chunks || count > 0
}

/// The decoded frame of that kind with this payload.
fn decoded(kind: FrameKind, payload: &[u8]) -> Option<Decoded> {
    if payload.is_empty() || payload.len() > limits::FRAME {
        return None;
    }
    let mut splitter = Splitter::default();
    splitter.push(&frame::encode(kind, payload, Codec::None));
    splitter.take().expect("its header is right").expect("it is whole").decode().ok()
}

/// The payload of a frame of changes.
pub fn changes(payload: &[u8]) -> bool {
    let Some(Decoded::Changes(changes)) = decoded(FrameKind::Changes, payload) else { return false };
    for change in &changes {
        let path = change.path.as_bytes();
        assert!(!path.starts_with(b"/") && !path.contains(&0));
        assert!(change.path.components().all(|part| !part.is_empty() && part != b"." && part != b".."));
    }
    assert!(changes.windows(2).all(|pair| (pair[0].set, &pair[0].path) < (pair[1].set, &pair[1].path)));
    true
}

/// The payload of a head.
pub fn head(payload: &[u8]) -> bool {
    let Some(Decoded::Head(head)) = decoded(FrameKind::Head, payload) else { return false };
    assert!(head.changes <= limits::ENTRIES && head.rules.len() <= limits::SETS);
    true
}

/// The payload of a frame of chunks.
pub fn chunks(payload: &[u8]) -> bool {
    let Some(Decoded::Chunks(chunks)) = decoded(FrameKind::Chunks, payload) else { return false };
    assert!(chunks.iter().all(|(chunk, bytes)| chunk.hash == Hash::of(bytes)));
    true
}

/// The payload of a frame of patches, each applied to an old chunk; true if one fits.
pub fn patches(payload: &[u8]) -> bool {
    let Some(Decoded::Patches(patches)) = decoded(FrameKind::Patches, payload) else { return false };
    let mut fits = false;
    for patch in patches {
        if let Ok(new) = patch.apply(&[b'o'; 1_000]) {
            assert_eq!(Hash::of(&new), patch.chunk.hash);
            fits = true;
        }
    }
    fits
}

/// A whole pack: frames, each given by its kind, its codec, the length of its payload in two bytes, and the payload; true if
/// the pack is accepted to its end. A survey of a file with the pack and a torn append gives the same result.
pub fn base(mut input: &[u8]) -> bool {
    let mut reader = Reader::default();
    let mut ended = false;
    let mut file = Vec::new();
    while let [kind, codec, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, after) = rest.split_at(length);
        input = after;
        if payload.is_empty() {
            continue;
        }
        let codec = if codec % 2 == 0 { Codec::None } else { Codec::Deflate(1) };
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let frame = frame::encode(kind, payload, codec);
        file.extend_from_slice(&frame);
        if reader.push(&frame).is_err() {
            let _ = survey(&file, Path::new("a file"), 0);
            return false;
        }
        ended = kind == FrameKind::End;
    }
    let size = file.len() as u64;
    file.extend_from_within(..file.len() / 2);
    let found = survey(&file, Path::new("a file"), 0);
    assert!(!ended || found.is_ok_and(|found| found.size == size), "a file gives another pack");
    ended
}

/// A chunk whose outline is near the beginning of the cache's file.
fn known_chunk() -> Vec<u8> {
    let noise = |seed: u16| -> Vec<u8> {
        let word = |at: u16| Hash::of(&[seed.to_le_bytes(), at.to_le_bytes()].concat());
        (0..128).flat_map(|at| *word(at).as_bytes()).collect()
    };
    let early = |chunk: &Vec<u8>| Hash::of(chunk).as_bytes()[0] < 4;
    (0..).map(noise).find(early).expect("one in 64 is early")
}

/// The file of a cache of outlines, and a chunk that is looked up in it and put into it; true if the file has the chunk.
pub fn outlines(file: &[u8]) -> bool {
    static KNOWN: LazyLock<Vec<u8>> = LazyLock::new(known_chunk);
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("outlines");
    std::fs::write(&path, file).expect("written");
    let Ok(outlines) = Outlines::open(&path, 1) else { return false };
    let hash = Hash::of(&KNOWN);
    let found = outlines.get(&hash);
    if let Some(outline) = &found {
        for chunk in [&KNOWN, &KNOWN[..2_100], file, &[]] {
            let (prefix, suffix) = outline.common(chunk);
            assert!(prefix + suffix <= chunk.len());
        }
    }
    if outlines.put(&hash, &KNOWN).is_ok() {
        assert_eq!(outlines.get(&hash).map(|outline| outline.common(&KNOWN).0), Some(KNOWN.len() / 256 * 256));
    }
    found.is_some()
}

/// The beginning of a cache with the chunk.
fn known_outline() -> Vec<u8> {
    let (home, chunk) = (tempfile::tempdir().expect("a directory"), known_chunk());
    let path = home.path().join("outlines");
    Outlines::open(&path, 1).and_then(|outlines| outlines.put(&Hash::of(&chunk), &chunk)).expect("written");
    let mut file = std::fs::read(&path).expect("read");
    file.truncate(8_000);
    file
}

/// The seeds of each decoder.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let bytes = Bytes::from_static(b"some content of a file");
    let chunk = Chunk { hash: Hash::of(&bytes), length: bytes.len() as u32 };
    let owner = Owner { user: "root".into(), group: "root".into() };
    let meta = Meta { mode: 0o644, mtime: 1, owner: owner.into(), xattrs: None };
    let file = Entry { kind: Kind::File([chunk].into_iter().collect()), meta };
    let entry = |path: &str, entry| Change {
        set: "nginx".parse().expect("a name"),
        path: EntryPath::new(path.as_bytes()).expect("a path"),
        entry,
    };
    let list = [entry("a", Some(file.clone())), entry("a.d/b", Some(file)), entry("gone", None)];
    let mut changed = Vec::new();
    list.iter().for_each(|change| encoding::encode(0, change, &mut changed));
    let rules = SetRules::new("nginx".parse().expect("a name"));
    let head = v1::PackHead {
        header: Some(a_header(&KeyPair::generate()).to_wire()),
        base: false,
        sets: vec![rules.to_wire()],
        changes: 3,
        chunks: 1,
        chunk_bytes: bytes.len() as u64,
    };
    let head = head.encode_to_vec();
    let chunks = [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat();
    let old = [b'o'; 1_000];
    let new = [&old[..500], b"new", &old[600..]].concat();
    let patch = Patch {
        old: Hash::of(&old),
        chunk: Chunk { hash: Hash::of(&new), length: new.len() as u32 },
        prefix: 500,
        suffix: 400,
        middle: Bytes::from_static(b"new"),
    };
    let mut patches = Vec::new();
    patch.encode(&mut patches);
    let end = Counts { changes: 3, chunks: 1, chunk_bytes: bytes.len() as u64 }.encode();
    let payloads: [(u8, &[u8]); 4] = [(0, &head), (1, &changed), (2, &chunks), (4, &end)];
    let whole =
        payloads.map(|(kind, payload)| [&[kind, kind], &(payload.len() as u16).to_le_bytes()[..], payload].concat());
    let framed = payloads.map(|(kind, payload)| frame::encode(KINDS[usize::from(kind)], payload, Codec::None));
    vec![
        ("frames", vec![framed.concat(), chunk_frames(&[(chunk, bytes.clone())], Codec::Deflate(1)).to_vec()]),
        ("changes", vec![changed]),
        ("head", vec![head]),
        ("chunks", vec![chunks]),
        ("patches", vec![patches]),
        ("base", vec![whole.concat()]),
        ("outlines", vec![known_outline()]),
    ]
}
