//! Packs with false sizes, counts and contents.

use bellwether_proto::{hash::Hash, limits, v1};

use super::{
    forge::{CHANGES, CHUNKS, END, Forged, HEAD, change, deflate, file, frame, frame_that_says},
    manager::Manager,
};

#[test]
fn frames_that_lie_are_refused() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    type Lie = fn(&Forged) -> Vec<Vec<u8>>;
    let rows: [(&str, Lie, &[&str]); 15] = [
        ("a bomb", |f| vec![f.changes_frame(), bomb(limits::FRAME as u32)], &["inflates to more than"]),
        ("an honest bomb", |f| vec![f.changes_frame(), bomb(64 << 20)], &["raw length is 67108864", "the limit"]),
        (
            "a raw length that lies",
            |f| vec![f.changes_frame(), frame_that_says(CHUNKS, 0, 10, 11, &[0; 10])],
            &["stands for 11"],
        ),
        (
            "a huge payload",
            |f| vec![f.changes_frame(), frame_that_says(CHUNKS, 0, u32::MAX, u32::MAX, &[])],
            &["payload is 4294967295"],
        ),
        ("a wrong checksum", |f| vec![f.changes_frame(), damaged(f.chunks_frame())], &["checksum is wrong"]),
        ("no frame", |_| vec![vec![b'x'; 64]], &["no frame where one should begin"]),
        ("a frame of no kind", |_| vec![frame(9, b"x")], &["a frame of kind 9"]),
        ("changes that are none", |_| vec![frame(CHANGES, &[0xff; 100])], &["not protobuf"]),
        ("a second head", |f| vec![f.head_frame()], &["a second head"]),
        ("chunks first", |f| vec![f.chunks_frame(), f.changes_frame()], &["0 changes; its head says 1"]),
        ("no chunks", |f| vec![f.changes_frame(), f.end_frame()], &["0 chunks of 0 bytes; its head says 1"]),
        (
            "another end",
            |f| vec![f.changes_frame(), f.chunks_frame(), frame(END, &[0; 24])],
            &["end frame whose counts"],
        ),
        (
            "bytes after the end",
            |f| vec![f.changes_frame(), f.chunks_frame(), f.end_frame(), b"x".to_vec()],
            &["after the end"],
        ),
        ("a chunk twice", |f| vec![f.changes_frame(), f.chunks_frame(), f.chunks_frame()], &["twice"]),
        ("a chunk of nothing", |f| vec![f.changes_frame(), frame(CHUNKS, &[0; 4])], &["a chunk of 0 bytes"]),
    ];
    for (case, lie, words) in rows {
        let good = manager.good();
        manager.refused(case, good.pack_of(&lie(&good)), words);
    }
}

/// A deflated frame of 64 MiB with this raw length in its header.
fn bomb(raw: u32) -> Vec<u8> {
    let zeros = deflate(&vec![0; 64 << 20]);
    frame_that_says(CHUNKS, 1, zeros.len() as u32, raw, &zeros)
}

fn damaged(mut frame: Vec<u8>) -> Vec<u8> {
    *frame.last_mut().expect("a byte") ^= 1;
    frame
}

#[test]
fn counts_that_lie_are_refused() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    type Lie = fn(&mut v1::PackHead);
    let rows: [(&str, Lie, &[&str]); 8] = [
        ("fewer changes", |head| head.changes = 0, &["more changes than the 0"]),
        ("more changes", |head| head.changes = 3, &["1 changes; its head says 3"]),
        ("endless changes", |head| head.changes = u64::MAX, &["18446744073709551615 changes; the limit"]),
        ("more chunks", |head| head.chunks = 2, &["more chunks than its changes use"]),
        ("endless chunk bytes", |head| head.chunk_bytes = u64::MAX, &["1 chunks of 18446744073709551615 bytes"]),
        ("no chunks", |head| (head.chunks, head.chunk_bytes) = (0, 0), &["more than the 0 chunks"]),
        ("no sets", |head| head.sets.clear(), &["a change in set number 0 of 0"]),
        ("a set twice", |head| head.sets.push(head.sets[0].clone()), &["not sorted, or one of them twice"]),
    ];
    for (case, lie, words) in rows {
        let good = manager.good();
        let mut head = good.head();
        lie(&mut head);
        manager.refused(case, good.pack_with_head(&head), words);
    }
    let good = manager.good();
    let mut head = good.head();
    head.sets = (0..300).map(|n| v1::SetRules { name: format!("s{n:03}"), ..v1::SetRules::default() }).collect();
    manager.refused("300 sets", good.pack_with_head(&head), &["more than 256 sets"]);
    let good = manager.good();
    let mut bytes = good.pack().1;
    bytes.splice(.., frame(HEAD, &[0xff; 50]));
    let offer =
        v1::Offer { pack: Hash::of(&bytes).into(), size: bytes.len() as u64, to: bytes.len() as u64, ..good.pack().0 };
    manager.refused("a head that is none", (offer, bytes), &["not a valid pack"]);
}

#[test]
fn content_that_is_not_what_was_signed_is_refused() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    let mut wrong = manager.good();
    wrong.header = manager.header_by(&manager.key, Hash::of(b"another"), |_| {});
    manager.refused("a wrong root", wrong.pack(), &["another root hash"]);
    let mut wrong = manager.good();
    wrong.changes.push(change("more.txt", file(b"")));
    wrong.changes.sort_by(|a, b| a.path.cmp(&b.path));
    manager.refused("one file more than was signed", wrong.pack(), &["another root hash"]);
    let wrong = manager.forge(vec![change("good.txt", file(b"good"))], vec![b"evil".to_vec()]);
    manager.refused("a chunk of another content", wrong.pack(), &["1 chunks are missing"]);
    let none = manager.forge(vec![change("none.txt", file(b"never sent"))], Vec::new());
    manager.refused("no chunk at all", none.pack(), &["1 chunks are missing"]);
    // The hashes are right and the lengths are wrong, so the file would be cut short.
    let content = b"right content".to_vec();
    let mut entry = file(&content);
    if let Some(v1::entry::Kind::File(file)) = &mut entry.kind {
        file.chunks[0].length += 1;
    }
    let lying = manager.forge(vec![change("long.txt", entry)], vec![content]);
    manager.refused("a length that lies", lying.pack(), &["a chunk of 13 bytes came for one of 14"]);
}
