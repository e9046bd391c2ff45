//! Increments with patches: they are smaller, and the history gives the same bytes.

use std::collections::HashMap;

use bellwether_proto::{entry::Chunk, hash::Hash};
use bellwether_store::pack::{OldChunks, Patch};
use bytes::Bytes;

use crate::{
    fixture::{Line, Unpacked, bytes_of, chunks_of, noise, unpack},
    frames::{CHUNKS, Forge, PATCHES, chunk_payload, frame},
};

/// A configuration of many lines, with `value` in one of them.
fn config(lines: usize, value: &str) -> Vec<u8> {
    let line = |n: usize| match n == lines / 2 {
        true => format!("    upstream {value};\n"),
        false => format!("    proxy_set_header X-{n} {};\n", data_of(n)),
    };
    (0..lines).map(line).collect::<String>().into_bytes()
}

fn data_of(n: usize) -> String {
    Hash::of(&n.to_le_bytes()).to_string()
}

fn remembering() -> Line {
    let mut line = Line::new();
    line.site.remember();
    line
}

fn packed(line: &Line) -> Unpacked {
    let stored = line.history.get(line.head_id()).unwrap();
    unpack(&bytes_of(stored)).unwrap()
}

/// All chunks of the head from the history.
#[track_caller]
fn the_history_has_all(line: &Line) {
    let wanted = chunks_of(&line.head.as_ref().unwrap().1);
    let mut found: HashMap<Hash, Bytes> = HashMap::new();
    let mut take = |chunk: Chunk, bytes: Bytes| {
        assert_eq!((Hash::of(&bytes), bytes.len()), (chunk.hash, chunk.length as usize));
        assert!(found.insert(chunk.hash, bytes).is_none(), "each once");
    };
    line.history.chunks(&wanted.keys().copied().collect(), &mut take).unwrap();
    assert_eq!(found.len(), wanted.len());
}

#[test]
fn a_line_of_a_file_is_a_patch() {
    let mut line = remembering();
    line.edit("a.conf", config(200, "one"));
    line.edit("b.conf", noise(1, 9_000));
    let stored = line.edit("a.conf", config(200, "another"));
    let unpacked = packed(&line);
    assert_eq!((unpacked.chunks.len(), unpacked.patches.len()), (0, 1));
    assert!(stored.size < 2_500, "{} bytes for one line", stored.size);
    assert_eq!(unpacked.patches[0].apply(&config(200, "one")).unwrap(), config(200, "another"));
    the_history_has_all(&line);
    line.edit("b.conf", noise(2, 9_000));
    assert_eq!((packed(&line).chunks.len(), packed(&line).patches.len()), (1, 0), "nothing is common");
    line.reopen();
    the_history_has_all(&line);
}

#[test]
fn a_line_in_a_large_file_is_a_patch_of_one_chunk() {
    let mut line = remembering();
    line.edit("large", config(40_000, "one"));
    let stored = line.edit("large", config(40_000, "another"));
    let unpacked = packed(&line);
    assert!(!unpacked.patches.is_empty());
    let middle: usize = unpacked.patches.iter().map(|patch| patch.middle.len()).sum();
    assert!(middle < 60_000, "{middle} bytes differ; the pack has {}", stored.size);
    the_history_has_all(&line);
}

/// A chunk that is patched again and again, forwards and back, is found in any pack that has it.
#[test]
fn patches_of_patches_are_found() {
    let mut line = remembering();
    line.edit("a", config(200, "0"));
    for value in ["1", "2", "1", "0", "3", "0", "4"] {
        line.edit("a", config(200, value));
        the_history_has_all(&line);
    }
    line.site.write("b", config(200, "2"));
    line.site.write("c", config(200, "3"));
    line.publish();
    line.edit("a", config(200, "5"));
    line.reopen();
    the_history_has_all(&line);
    line.base();
    assert_eq!(line.history.all().filter(|stored| stored.base).count(), 2);
    line.history.retain(1).unwrap();
    the_history_has_all(&line);
}

#[test]
fn old_chunks_are_taken_from_the_files_that_change_and_from_nothing_else() {
    let mut line = remembering();
    line.edit("a", config(200, "one"));
    let (_, before) = line.head.clone().unwrap();
    line.edit("a", config(200, "three"));
    let changes = before.diff(&line.head.as_ref().unwrap().1);
    let patch = packed(&line).patches.remove(0);
    let olds = OldChunks::new(&before, &changes, &line.site.sources);
    assert!(olds.apply(&patch).is_none(), "it was replaced already");
    line.site.write("a", config(200, "one"));
    assert_eq!(olds.apply(&patch).unwrap(), config(200, "three"));
    assert_eq!(OldChunks::new(&before, &[], &line.site.sources).apply(&patch), None);
    std::fs::remove_file(line.site.path("a")).unwrap();
    assert_eq!(olds.apply(&patch), None);
}

/// There are no patches without outlines, nor after the outlines are lost.
#[test]
fn nothing_remembered_is_sent_whole() {
    let mut line = Line::new();
    line.edit("a", config(200, "one"));
    line.site.remember();
    line.edit("a", config(200, "two"));
    assert_eq!((packed(&line).chunks.len(), packed(&line).patches.len()), (1, 0));
    line.edit("a", config(200, "three"));
    assert_eq!((packed(&line).chunks.len(), packed(&line).patches.len()), (0, 1));
}

/// The old and the new chunk, the bytes that stay at both ends, and the middle.
type Told<'a> = (&'a [u8], &'a [u8], u32, u32, &'a [u8]);

fn payload(patches: &[Told<'_>]) -> Vec<u8> {
    let one = |(old, new, prefix, suffix, middle): &Told<'_>| {
        let numbers: Vec<u8> = [*prefix, *suffix, middle.len() as u32].into_iter().flat_map(u32::to_le_bytes).collect();
        [Hash::of(old).as_bytes(), Hash::of(new).as_bytes(), &numbers[..], middle].concat()
    };
    patches.iter().flat_map(one).collect()
}

#[test]
fn patches_that_lie_are_refused() {
    let refused = |forge: &Forge, frames: &[Vec<u8>], why: &str| {
        let pack = [forge.head_frame(), forge.changes_frame(), frames.concat()].concat();
        let error = unpack(&pack).expect_err(why).to_string();
        assert!(error.contains(why), "'{error}' does not say '{why}'");
    };
    let base = Forge::new();
    let honest = frame(PATCHES, &payload(&[(b"hallo\n", b"hello\n", 1, 4, b"e")]));
    refused(&base, std::slice::from_ref(&honest), "a base with patches");
    let mut forge = Forge::new();
    forge.base = false;
    let says = |list: &[Told<'_>]| vec![frame(PATCHES, &payload(list))];
    refused(&forge, &says(&[(b"", b"x", 0, 0, b"x")]), "a patch that makes 1 bytes");
    refused(&forge, &says(&[(b"", b"x", u32::MAX, u32::MAX, b"x")]), "the limit is");
    let mut cut = payload(&[(b"hallo\n", b"hello\n", 1, 4, b"e")]);
    cut.pop();
    refused(&forge, &[frame(PATCHES, &cut)], "does not hold");
    refused(&forge, &[frame(PATCHES, &cut[..40])], "cut short");
    refused(&forge, &[frame(CHUNKS, &chunk_payload(&[b"hello\n".to_vec()])), honest.clone()], "twice");
    refused(&forge, &[honest.clone(), frame(CHUNKS, &chunk_payload(&[b"hello\n".to_vec()]))], "chunks after patches");
    let pack = [forge.head_frame(), forge.changes_frame(), honest, forge.end_frame()].concat();
    let unpacked = unpack(&pack).unwrap();
    assert!(unpacked.ended);
    let patch: &Patch = &unpacked.patches[0];
    assert_eq!(patch.apply(b"hallo\n").unwrap(), &b"hello\n"[..]);
    assert!(patch.apply(b"HALLO\n").is_err(), "what it makes is checked");
}
