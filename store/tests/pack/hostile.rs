//! Packs with wrong contents: each is refused, with a message that names the fault.

use bellwether_proto::{limits, v1};
use bellwether_store::pack::{self, Reader};
use bytes::Bytes;
use prost::Message;

use crate::{
    fixture::unpack,
    frames::{
        CHANGES, CHUNKS, END, Forge, HEAD, change, chunk_payload, deflate, directory, entry, file, frame,
        frame_that_says,
    },
};

#[track_caller]
fn refused(pack: &[u8], why: &str) {
    let error = unpack(pack).expect_err(why).to_string();
    assert!(error.contains(why), "'{error}' does not say '{why}'");
    for size in [1, 7] {
        assert!(crate::fixture::unpack_in(pack, size).is_err());
    }
}

/// The forge's pack after a consistent change by `spoil`.
#[track_caller]
fn refused_with(spoil: impl FnOnce(&mut Forge), why: &str) {
    let mut forge = Forge::new();
    spoil(&mut forge);
    refused(&forge.pack(), why);
}

#[test]
fn the_forged_pack_is_good_until_it_is_spoilt() {
    let unpacked = unpack(&Forge::new().pack()).unwrap();
    assert!(unpacked.ended);
    assert_eq!((unpacked.changes.len(), unpacked.chunks.len()), (2, 1));
    assert_eq!(unpacked.chunks[0].1, "hello\n");
}

#[test]
fn a_bomb_is_not_inflated() {
    let forge = Forge::new();
    let zeros = deflate(&vec![0; 64 << 20]);
    let bomb = frame_that_says(CHUNKS, 1, zeros.len() as u32, limits::FRAME as u32, &zeros);
    refused(&[forge.head_frame(), forge.changes_frame(), bomb].concat(), "inflates to more than");
    let honest = frame_that_says(CHUNKS, 1, zeros.len() as u32, 64 << 20, &zeros);
    refused(&[forge.head_frame(), honest].concat(), "raw length is 67108864 bytes");
}

#[test]
fn a_raw_length_that_lies() {
    let forge = Forge::new();
    let raw = chunk_payload(&[vec![b'a'; 1000]]);
    let short = deflate(&raw);
    let start = [forge.head_frame(), forge.changes_frame()].concat();
    let says = |raw: usize| frame_that_says(CHUNKS, 1, short.len() as u32, raw as u32, &short);
    refused(&[start.clone(), says(raw.len() - 1)].concat(), "inflates to more than");
    refused(&[start.clone(), says(raw.len() + 1)].concat(), "inflates to 1004");
    refused(&[start.clone(), says(1)].concat(), "says it stands for 1");
    let padded = [short.as_slice(), b"xx"].concat();
    let padded = frame_that_says(CHUNKS, 1, padded.len() as u32, raw.len() as u32, &padded);
    refused(&[start.clone(), padded].concat(), "behind its compressed data");
    let cut = &short[..short.len() - 1];
    let cut = frame_that_says(CHUNKS, 1, cut.len() as u32, raw.len() as u32, cut);
    refused(&[start.clone(), cut].concat(), "inflates to more than");
    let stored = frame_that_says(CHUNKS, 0, 10, 11, &[0; 10]);
    refused(&[start, stored].concat(), "says it stands for 11");
}

#[test]
fn a_huge_payload_is_refused_by_its_header() {
    let forge = Forge::new();
    for length in [0, limits::FRAME as u32 + 1, u32::MAX] {
        let header = frame_that_says(CHUNKS, 0, length, length, &[]);
        refused(&[forge.head_frame(), header].concat(), &format!("payload is {length} bytes"));
    }
}

#[test]
fn counts_that_lie() {
    let forge = Forge::new();
    let with_head = |lie: &dyn Fn(&mut v1::PackHead)| {
        let mut head = forge.head();
        lie(&mut head);
        let head = frame(HEAD, &head.encode_to_vec());
        [head, forge.changes_frame(), forge.chunks_frame(), forge.end_frame()].concat()
    };
    refused(&with_head(&|head| head.changes = 1), "more changes than the 1");
    refused(&with_head(&|head| head.changes = 3), "2 changes; its head says 3");
    refused(&with_head(&|head| head.chunks = 2), "more chunks than its changes use");
    refused(&with_head(&|head| head.chunk_bytes = 7), "more chunks than its changes use");
    refused(&with_head(&|head| head.chunk_bytes = 5), "more than the 1 chunks of 5 bytes");
    refused(&with_head(&|head| (head.chunks, head.chunk_bytes) = (0, 0)), "more than the 0 chunks");
    refused(&with_head(&|head| head.chunk_bytes = 0), "1 chunks of 0 bytes");
    refused(&with_head(&|head| head.chunk_bytes = u64::MAX), "1 chunks of 18446744073709551615 bytes");
    refused(&with_head(&|head| head.changes = u64::MAX), "18446744073709551615 changes; the limit");
    let end = frame(END, &[2u64, 1, 7].map(u64::to_le_bytes).concat());
    let pack = [forge.head_frame(), forge.changes_frame(), forge.chunks_frame(), end].concat();
    refused(&pack, "end frame whose counts");
    let pack = [forge.head_frame(), forge.changes_frame(), forge.end_frame()].concat();
    refused(&pack, "0 chunks of 0 bytes; its head says 1 of 6");
    refused(&[forge.head_frame(), frame(END, b"short")].concat(), "an end frame of 5 bytes");
}

#[test]
fn frames_out_of_order() {
    let forge = Forge::new();
    let (head, changes) = (forge.head_frame(), forge.changes_frame());
    let (chunks, end) = (forge.chunks_frame(), forge.end_frame());
    let of = |frames: &[&Vec<u8>]| frames.iter().flat_map(|frame| frame.iter().copied()).collect::<Vec<u8>>();
    refused(&of(&[&changes, &head]), "does not begin with its head");
    refused(&of(&[&end]), "does not begin with its head");
    refused(&of(&[&head, &head]), "a second head");
    refused(&of(&[&head, &chunks, &changes, &end]), "0 changes; its head says 2");
    refused(&of(&[&head, &end]), "0 changes; its head says 2");
    refused(&of(&[&head, &changes, &chunks, &changes]), "changes after chunks");
    refused(&of(&[&head, &changes, &chunks, &end, &end]), "after the end");
    let trailing = of(&[&head, &changes, &chunks, &end, &b"x".to_vec()]);
    refused(&trailing, "bytes after the end");
    let mut reader = Reader::default();
    reader.push(&forge.pack()).unwrap();
    assert_eq!(reader.whole(), forge.pack().len() as u64);
    assert!(reader.push(b"x").is_err());
    assert!(reader.push(b"").unwrap_err().to_string().contains("refused already"));
}

#[test]
fn changes_that_are_not_sorted() {
    refused_with(|forge| forge.changes.swap(0, 1), "not sorted: '' after 'index.html'");
    refused_with(|forge| forge.changes.push(forge.changes[1].clone()), "not sorted");
    // Paths are sorted by component, so a directory's content comes before its neighbours.
    let unsorted = |forge: &mut Forge| {
        forge.changes = vec![change("a", directory()), change("a-b", directory()), change("a/b", directory())];
    };
    refused_with(unsorted, "'a/b' after 'a-b'");
    let forge = Forge::new();
    let one = |at: usize| frame(CHANGES, &v1::Changes { changes: vec![forge.changes[at].clone()] }.encode_to_vec());
    refused(&[forge.head_frame(), one(1), one(0)].concat(), "not sorted");
    assert!(unpack(&[forge.head_frame(), one(0), one(1), forge.chunks_frame(), forge.end_frame()].concat()).is_ok());
}

#[test]
fn paths_that_lead_out() {
    for (path, why) in [
        ("..", "leads elsewhere"),
        ("a/../../etc/passwd", "leads elsewhere"),
        ("/etc/passwd", "is empty"),
        ("a//b", "is empty"),
        ("a/./b", "leads elsewhere"),
        ("a\0b", "NUL"),
    ] {
        refused_with(|forge| forge.changes[1].path = Bytes::copy_from_slice(path.as_bytes()), why);
    }
    refused_with(|forge| forge.changes[1].path = vec![b'a'; 256].into(), "is too long");
    refused_with(|forge| forge.changes[1].path = b"a/".repeat(2500).into(), "the limit is 4000");
}

#[test]
fn entries_that_no_tree_can_have() {
    refused_with(|forge| forge.changes[1].set = 1, "set number 1 of 1");
    refused_with(|forge| forge.changes[1].entry = None, "removes web:index.html");
    refused_with(|forge| forge.changes[0].entry = Some(file(&[])), "web: is the set's root");
    let link = |mode| entry(mode, v1::entry::Kind::Link(Bytes::from_static(b"x")));
    refused_with(|forge| forge.changes[0].entry = Some(link(0o777)), "web: is the set's root");
    refused_with(|forge| forge.changes.push(change("l", link(0o755))), "a link with a mode");
    for mode in [0o4755, 0o2755] {
        refused_with(|forge| forge.changes[1].entry.as_mut().unwrap().mode = mode, "index.html is setuid or setgid");
    }
    let capability = v1::Xattr { name: Bytes::from_static(b"security.capability"), value: Bytes::from_static(b"x") };
    let attach = |forge: &mut Forge| forge.changes[1].entry.as_mut().unwrap().xattrs.push(capability.clone());
    refused_with(attach, "index.html has capabilities");
    let mut allowed = Forge::new();
    attach(&mut allowed);
    allowed.changes[1].entry.as_mut().unwrap().mode = 0o4755;
    (allowed.sets[0].allow_capabilities, allowed.sets[0].allow_setuid) = (true, true);
    unpack(&allowed.pack()).unwrap();
}

#[test]
fn heads_that_cannot_be() {
    refused_with(|forge| forge.sets.push(forge.sets[0].clone()), "sets are not sorted");
    refused_with(|forge| forge.sets[0].name = "../etc".into(), "not a set name");
    let many = |forge: &mut Forge| forge.sets = vec![forge.sets[0].clone(); limits::SETS + 1];
    refused_with(many, "more than 256 sets");
    let none = v1::PackHead { header: None, ..Forge::new().head() };
    refused(&frame(HEAD, &none.encode_to_vec()), "without a revision header");
    refused(&frame(HEAD, b"\xff\xff\xff"), "");
}

#[test]
fn chunks_that_cannot_be() {
    let forge = Forge::new();
    let start = [forge.head_frame(), forge.changes_frame()].concat();
    let with = |payload: &[u8]| [start.clone(), frame(CHUNKS, payload)].concat();
    refused(&with(&[0; 4]), "a chunk of 0 bytes");
    refused(&with(&[1, 0]), "length is cut short");
    refused(&with(&[9, 0, 0, 0, 1]), "9 bytes that its frame does not hold");
    refused(&with(&chunk_payload(&[vec![1; limits::CHUNK + 1]])), "a chunk of 1048577 bytes");
    let twice = |forge: &mut Forge| {
        forge.chunks.push(forge.chunks[0].clone());
        let same = forge.chunks[0].clone();
        forge.changes[1].entry = Some(file(&[&same, &same]));
    };
    refused_with(twice, "twice");
    refused_with(
        |forge| forge.chunks.push(b"a chunk that nobody asked for".to_vec()),
        "more chunks than its changes use",
    );
}

/// Messages of two bytes that would take fifty times that in memory are refused before they are decoded.
#[test]
fn messages_that_swell() {
    let forge = Forge::new();
    let with = |payload: &[u8]| [forge.head_frame(), frame(CHANGES, payload)].concat();
    refused(&with(&[0x0a, 0].repeat(1 << 20)), "not sorted");
    let many_chunks = [0x0a, 0].repeat(1000);
    let nested = |number: u8, inner: &[u8]| {
        let mut bytes = vec![number << 3 | 2];
        prost::encode_length_delimiter(inner.len(), &mut bytes).unwrap();
        [bytes, inner.to_vec()].concat()
    };
    refused(&with(&nested(1, &nested(3, &nested(7, &many_chunks)))), "a chunk that has no hash");
    let many_xattrs = [0x2a, 0].repeat(1000);
    refused(&with(&nested(1, &nested(3, &many_xattrs))), "1000 extended attributes");
}

#[test]
fn frame_headers_that_are_not() {
    let forge = Forge::new();
    let good = forge.head_frame();
    for at in 0..24 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(unpack(&bad).is_err(), "byte {at} of the header does not matter");
    }
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    refused(&bad, "checksum");
    refused(&frame(9, b"x"), "a frame of kind 9");
    refused(&frame_that_says(HEAD, 2, 1, 1, b"x"), "codec 2");
}

#[test]
fn chunks_outside_a_pack() {
    let chunks = frame(CHUNKS, &chunk_payload(&[b"a".to_vec(), b"b".to_vec()]));
    let read = pack::read_chunks(&chunks).unwrap();
    assert_eq!(read.iter().map(|(_, bytes)| bytes.as_ref()).collect::<Vec<_>>(), [b"a", b"b"]);
    let refused = |bytes: &[u8], why: &str| {
        let error = pack::read_chunks(bytes).expect_err(why).to_string();
        assert!(error.contains(why), "'{error}' does not say '{why}'");
    };
    refused(&chunks[..chunks.len() - 1], "cut short");
    refused(&Forge::new().pack(), "a head frame among chunks");
    let megabyte = chunk_payload(&[vec![0; 1 << 20]]);
    let small = deflate(&megabyte);
    let bombs = frame_that_says(CHUNKS, 1, small.len() as u32, megabyte.len() as u32, &small).repeat(16);
    refused(&bombs, "more than 16777216 bytes");
}
