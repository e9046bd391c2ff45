//! From files on disk to a pack and back to the same tree.

use std::fs;

use bellwether_proto::record::Codec;
use bellwether_store::{
    pack::{self, Order, PackError, RawFrame, Splitter},
    tree::Tree,
};
use proptest::prelude::*;

use crate::fixture::{Site, chunks_of, noise, unpack, unpack_in};

/// A change of one of a few paths.
#[derive(Debug, Clone)]
enum Step {
    Write(usize, u64, usize),
    Directory(usize),
    Link(usize),
    Remove(usize),
    Rename(usize, usize),
}

const PATHS: [&str; 8] = ["a", "a/b", "a/b/c.conf", "a/d.conf", "a-b", "é", "z/y", "z/y/x.conf"];
const SIZES: [usize; 6] = [0, 1, 300, 5_000, 90_000, 700_000];

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    prop_oneof![
        4 => (path(), 0..5u64, 0..SIZES.len()).prop_map(|(path, seed, size)| Step::Write(path, seed, SIZES[size])),
        1 => path().prop_map(Step::Directory),
        1 => path().prop_map(Step::Link),
        1 => path().prop_map(Step::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
    ]
}

/// Makes each possible change; the file system refuses the others.
fn perform(site: &Site, steps: &[Step]) {
    for step in steps {
        let path = |at: usize| site.path(PATHS[at]);
        let prepare = |at: usize| {
            let _ = fs::create_dir_all(path(at).parent().unwrap());
        };
        let _ = match *step {
            Step::Write(at, seed, size) => {
                prepare(at);
                fs::write(path(at), noise(seed, size))
            }
            Step::Directory(at) => fs::create_dir_all(path(at)),
            Step::Link(at) => {
                prepare(at);
                std::os::unix::fs::symlink("../somewhere", path(at))
            }
            Step::Remove(at) => fs::remove_dir_all(path(at)).or_else(|_| fs::remove_file(path(at))),
            Step::Rename(from, to) => {
                prepare(to);
                fs::rename(path(from), path(to))
            }
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_of_a_tree(revisions in prop::collection::vec(prop::collection::vec(step(), 1..8), 1..4), codec in 0..3u8) {
        let codec = if codec == 0 { Codec::None } else { Codec::Deflate(codec) };
        let site = Site::new();
        let (mut parent, mut header) = (Tree::default(), None);
        for steps in revisions {
            perform(&site, &steps);
            let tree = site.scan();
            let signed = site.header(header.as_ref(), tree.root());
            let pack = site.pack_as(&signed, &parent, &tree, codec).unwrap();
            prop_assert_eq!(&pack, &site.pack_as(&signed, &parent, &tree, codec).unwrap());

            let unpacked = unpack_in(&pack, 10_000).unwrap();
            prop_assert!(unpacked.ended);
            prop_assert_eq!(unpacked.head.as_ref().unwrap().header.id(), signed.id());
            prop_assert_eq!(&unpacked.changes, &parent.diff(&tree));
            prop_assert_eq!(unpacked.tree(&parent).root(), tree.root());
            let mut have = chunks_of(&parent);
            for (chunk, bytes) in &unpacked.chunks {
                prop_assert_eq!(bellwether_proto::hash::Hash::of(bytes), chunk.hash);
                have.insert(chunk.hash, *chunk);
            }
            for (hash, chunk) in chunks_of(&tree) {
                prop_assert_eq!(have.get(&hash), Some(&chunk));
            }
            (parent, header) = (tree, Some(signed));
        }
    }
}

/// A tree of many frames of changes and chunks.
fn large() -> (Site, Tree) {
    let site = Site::new();
    for at in 0..300u64 {
        site.write(&format!("d{}/{at}.conf", at % 17), noise(at, 10_000));
    }
    let text: String = (0..60_000).map(|n| format!("server {n} {{ listen {}; }}\n", n % 7)).collect();
    site.write("big.conf", text);
    let tree = site.scan();
    (site, tree)
}

#[test]
fn many_frames_are_deterministic_and_decode_off_thread() {
    let (site, tree) = large();
    let header = site.header(None, tree.root());
    let pack = site.pack(&header, &Tree::default(), &tree).unwrap();
    assert_eq!(pack, site.pack(&header, &Tree::default(), &tree).unwrap());

    let mut splitter = Splitter::default();
    splitter.push(&pack);
    let frames: Vec<RawFrame> = std::iter::from_fn(|| splitter.take().unwrap()).collect();
    assert!(frames.len() > 5, "{} frames", frames.len());
    let decoded: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = frames.iter().map(|frame| scope.spawn(|| frame.decode().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (mut order, mut unpacked) = (Order::default(), crate::fixture::Unpacked::default());
    for frame in decoded {
        unpacked.add(vec![order.check(frame).unwrap()]);
    }
    assert!(order.ended() && unpacked.ended);
    assert_eq!(unpacked.tree(&Tree::default()).root(), tree.root());
    assert_eq!(unpacked.chunks.len(), chunks_of(&tree).len());
}

/// Chunks are slices of the inflated frame, not copies.
#[test]
fn chunks_share_their_frame() {
    let (site, tree) = large();
    let pack = site.pack(&site.header(None, tree.root()), &Tree::default(), &tree).unwrap();
    let chunks = unpack(&pack).unwrap().chunks;
    let neighbours = chunks
        .windows(2)
        .filter(|pair| pair[0].1.as_ptr() as usize + pair[0].1.len() + 4 == pair[1].1.as_ptr() as usize);
    assert!(neighbours.count() > chunks.len() / 2);
}

#[test]
fn a_file_that_changed_is_named() {
    type Spoil = fn(&Site);
    let spoils: [Spoil; 6] = [
        |site| fs::remove_file(site.path("d1/1.conf")).unwrap(),
        |site| site.write("d1/1.conf", "short"),
        |site| site.write("d1/1.conf", noise(7, 10_000)),
        |site| {
            fs::remove_file(site.path("d1/1.conf")).unwrap();
            fs::create_dir(site.path("d1/1.conf")).unwrap();
        },
        |site| {
            fs::remove_file(site.path("d1/1.conf")).unwrap();
            fs::copy(site.path("d2/2.conf"), site.path("copy")).unwrap();
            std::os::unix::fs::symlink("../copy", site.path("d1/1.conf")).unwrap();
        },
        |site| {
            // The directory is replaced by a link to another one with the same content.
            fs::rename(site.path("d1"), site.path("moved")).unwrap();
            std::os::unix::fs::symlink("moved", site.path("d1")).unwrap();
        },
    ];
    for spoil in spoils {
        let site = Site::new();
        site.write("d1/1.conf", noise(1, 10_000));
        site.write("d2/2.conf", noise(2, 10_000));
        let tree = site.scan();
        spoil(&site);
        let error = site.pack(&site.header(None, tree.root()), &Tree::default(), &tree).unwrap_err();
        assert!(matches!(&error, PackError::Changed { path, .. } if path.as_bytes() == b"d1/1.conf"), "{error:?}");
    }
}

#[test]
fn a_set_that_is_gone_leaves_the_pack() {
    let site = Site::new();
    site.write("a", "a");
    let tree = site.scan();
    let mut other = Site::new();
    other.rules = vec![std::sync::Arc::new(bellwether_proto::record::SetRules::new("other".parse().unwrap()))];
    let next = tree.with_rules(&other.rules);
    let header = site.header(Some(&site.header(None, tree.root())), next.root());
    let unpacked = unpack(&other.pack(&header, &tree, &next).unwrap()).unwrap();
    assert!(unpacked.ended && unpacked.changes.is_empty());
    assert_eq!(unpacked.tree(&tree).root(), next.root());
}

#[test]
fn chunks_travel_outside_a_pack() {
    let (site, tree) = large();
    let pack = site.pack(&site.header(None, tree.root()), &Tree::default(), &tree).unwrap();
    let chunks = unpack(&pack).unwrap().chunks;
    for codec in [Codec::None, Codec::Deflate(1), Codec::Deflate(9)] {
        let frames = pack::chunk_frames(&chunks, codec);
        assert_eq!(pack::read_chunks(&frames).unwrap(), chunks);
    }
    assert!(pack::read_chunks(&pack::chunk_frames(&[], Codec::None)).unwrap().is_empty());
}
