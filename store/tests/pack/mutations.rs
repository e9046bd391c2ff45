//! Any bytes, and good packs with random damage, give an error or a correct prefix, and never a panic.

use std::sync::LazyLock;

use bellwether_store::{history::History, pack, tree::Tree};
use proptest::prelude::*;

use crate::{
    fixture::{Site, noise, unpack_in},
    frames::{Forge, frame},
};

/// Two good packs that are damaged and spliced.
static PACKS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let site = Site::new();
    site.write("a/one.conf", "listen 80;\n".repeat(50));
    site.write("a/two.conf", noise(1, 3000));
    let first = site.scan();
    let header = site.header(None, first.root());
    let base = site.pack(&header, &Tree::default(), &first).unwrap();
    site.write("a/one.conf", "listen 81;\n".repeat(50));
    let second = site.scan();
    let header = site.header(Some(&header), second.root());
    [base, site.pack(&header, &first, &second).unwrap()]
});

/// The frames of a good pack.
static FRAMES: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    let forge = Forge::new();
    [forge.head_frame(), forge.changes_frame(), forge.chunks_frame(), forge.end_frame()]
});

/// Reads the pack in every possible way.
fn feed(bytes: &[u8], piece: usize) {
    if let Ok(unpacked) = unpack_in(bytes, piece)
        && let Some(head) = &unpacked.head
    {
        let _ = Tree::default().with_rules(&head.rules).apply(unpacked.changes);
    }
    let _ = pack::read_chunks(bytes);
}

fn open_with(name: &str, bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(name), bytes).unwrap();
    let history = History::open(directory.path()).unwrap();
    if let Some(head) = history.head() {
        let _ = history.tree(head.header.id());
        let wanted = [bellwether_proto::hash::Hash::of(b"x")].into();
        history.chunks(&wanted, &mut |_, _| {}).unwrap();
    }
    assert!(directory.path().join(name).exists() || name.ends_with("part"), "a damaged pack was deleted");
}

#[derive(Debug, Clone)]
enum Spoil {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Splice(prop::sample::Index, prop::sample::Index),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Spoil::Byte(at, byte)),
        at().prop_map(Spoil::Cut),
        (at(), 1..64usize).prop_map(|(at, length)| Spoil::Remove(at, length)),
        (at(), prop::collection::vec(any::<u8>(), 1..32)).prop_map(|(at, bytes)| Spoil::Insert(at, bytes)),
        (at(), at()).prop_map(|(from, to)| Spoil::Splice(from, to)),
    ]
}

fn spoilt(mut pack: Vec<u8>, other: &[u8], spoils: Vec<Spoil>) -> Vec<u8> {
    for spoil in spoils {
        let at = |index: prop::sample::Index, pack: &[u8]| if pack.is_empty() { 0 } else { index.index(pack.len()) };
        match spoil {
            Spoil::Byte(index, byte) => {
                let at = at(index, &pack);
                pack.iter_mut().skip(at).take(1).for_each(|b| *b ^= byte);
            }
            Spoil::Cut(index) => pack.truncate(at(index, &pack)),
            Spoil::Remove(index, length) => {
                let start = at(index, &pack);
                let end = (start + length).min(pack.len());
                pack.drain(start..end);
            }
            Spoil::Insert(index, bytes) => {
                let at = at(index, &pack);
                pack.splice(at..at, bytes);
            }
            Spoil::Splice(from, to) => {
                pack.truncate(at(from, &pack));
                pack.extend(&other[to.index(other.len())..]);
            }
        }
    }
    pack
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1..100usize) {
        feed(&bytes, piece);
        // The bytes follow a good frame header, so that the decoders are reached.
        for kind in 1..=4 {
            if !bytes.is_empty() {
                feed(&[FRAMES[0].clone(), frame(kind, &bytes)].concat(), piece);
                feed(&frame(kind, &bytes), piece);
            }
        }
    }

    #[test]
    fn a_spoilt_pack(which in 0..2usize, spoils in prop::collection::vec(spoil(), 1..4), piece in 1..5000usize) {
        let bytes = spoilt(PACKS[which].clone(), &PACKS[1 - which], spoils);
        feed(&bytes, piece);
    }

    #[test]
    fn a_spoilt_payload_with_good_checksums(
        spoils in prop::collection::vec(spoil(), 1..4),
        kind in 1..=4usize,
    ) {
        let mut frames = FRAMES.clone();
        let payload = spoilt(frames[kind - 1][24..].to_vec(), &frames[kind % 4][24..], spoils);
        frames[kind - 1] = frame(kind as u8, &payload);
        feed(&frames.concat(), 4096);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_spoilt_history(which in 0..2usize, spoils in prop::collection::vec(spoil(), 0..3), name in 0..4usize) {
        let bytes = spoilt(PACKS[which].clone(), &PACKS[1 - which], spoils);
        // The file has the good base's name, so that damage behind the head is found, too.
        let header = unpack_in(&PACKS[0], 4096).unwrap().head.unwrap().header;
        let good = format!("{:016}.1.{}.base", 1, header.id().0.short());
        let names = [good.as_str(), "0000000000000002.1.00000000.inc", "x.base", "incoming-0.part"];
        open_with(names[name], &bytes);
    }

    #[test]
    fn a_spoilt_segment(spoils in prop::collection::vec(spoil(), 0..3)) {
        let header = unpack_in(&PACKS[0], 4096).unwrap().head.unwrap().header;
        open_with(&format!("{:016}.1.{}.base", 1, header.id().0.short()), &spoilt(PACKS.concat(), &PACKS[1], spoils));
    }
}
