//! What fuzzing feeds to the decoders of packs (`fuzz/`). A fuzzer does not guess checksums: but for [`frames`], they are
//! made here.

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
    read_chunks,
};
use crate::tree::Change;

const KINDS: [FrameKind; 5] =
    [FrameKind::Head, FrameKind::Changes, FrameKind::Chunks, FrameKind::Patches, FrameKind::End];

/// Frames as they arrive, in one piece and byte by byte.
pub fn frames(bytes: &[u8]) {
    let _ = read_chunks(bytes);
    let whole = Reader::default().push(bytes).map(|frames| frames.len());
    let mut reader = Reader::default();
    let mut count = 0;
    for piece in bytes.chunks(7) {
        match reader.push(piece) {
            Ok(frames) => count += frames.len(),
            Err(_) => return assert!(whole.is_err(), "refused in pieces only"),
        }
    }
    assert!(whole.is_err() || whole.is_ok_and(|whole| whole == count), "the pieces give other frames");
}

/// What a frame of that kind with this payload decodes to.
fn decoded(kind: FrameKind, payload: &[u8]) -> Option<Decoded> {
    if payload.is_empty() || payload.len() > limits::FRAME {
        return None;
    }
    let mut splitter = Splitter::default();
    splitter.push(&frame::encode(kind, payload, Codec::None));
    splitter.take().expect("its header is right").expect("it is whole").decode().ok()
}

/// The payload of a frame of changes.
pub fn changes(payload: &[u8]) {
    let Some(Decoded::Changes(changes)) = decoded(FrameKind::Changes, payload) else { return };
    for change in &changes {
        let path = change.path.as_bytes();
        assert!(!path.starts_with(b"/") && !path.contains(&0));
        assert!(change.path.components().all(|part| !part.is_empty() && part != b"." && part != b".."));
    }
    assert!(changes.windows(2).all(|pair| (pair[0].set, &pair[0].path) < (pair[1].set, &pair[1].path)));
}

/// The payload of a head.
pub fn head(payload: &[u8]) {
    if let Some(Decoded::Head(head)) = decoded(FrameKind::Head, payload) {
        assert!(head.changes <= limits::ENTRIES && head.rules.len() <= limits::SETS);
    }
}

/// The payload of a frame of chunks.
pub fn chunks(payload: &[u8]) {
    if let Some(Decoded::Chunks(chunks)) = decoded(FrameKind::Chunks, payload) {
        assert!(chunks.iter().all(|(chunk, bytes)| chunk.hash == Hash::of(bytes)));
    }
}

/// The payload of a frame of patches, each tried on an old chunk.
pub fn patches(payload: &[u8]) {
    if let Some(Decoded::Patches(patches)) = decoded(FrameKind::Patches, payload) {
        for patch in patches {
            if let Ok(new) = patch.apply(&[b'o'; 1_000]) {
                assert_eq!(Hash::of(&new), patch.chunk.hash);
            }
        }
    }
}

/// A whole pack: frames, each told by its kind, its codec, the length of its payload in two bytes, and that.
pub fn base(mut input: &[u8]) {
    let mut reader = Reader::default();
    while let [kind, codec, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, after) = rest.split_at(length);
        input = after;
        if payload.is_empty() {
            continue;
        }
        let codec = if codec % 2 == 0 { Codec::None } else { Codec::Deflate(1) };
        let frame = frame::encode(KINDS[usize::from(*kind) % KINDS.len()], payload, codec);
        if reader.push(&frame).is_err() {
            return;
        }
    }
}

/// The cache of outlines as a file, and a chunk that is looked up in it and put into it.
pub fn outlines(file: &[u8]) {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("outlines");
    std::fs::write(&path, file).expect("written");
    let Ok(outlines) = Outlines::open(&path, 1) else { return };
    let bytes = &file[..file.len().min(limits::CHUNK)];
    for chunk in [bytes, b"another"] {
        if let Some(outline) = outlines.get(&Hash::of(chunk)) {
            let (prefix, suffix) = outline.common(chunk);
            assert!(prefix + suffix <= chunk.len());
        }
        let _ = outlines.put(&Hash::of(chunk), chunk);
    }
}

/// What each decoder's fuzzing begins with.
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
        ("outlines", vec![Vec::new(), [&[0; 16][..], &bytes].concat()]),
    ]
}
