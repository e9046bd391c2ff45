//! Files with holes: they stay holes, and take no space.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use bellwether_proto::{
    entry::{Chunk, Content, Entry, Kind, Meta, Owners},
    hash::Hash,
    limits,
};

use super::farm::{Farm, build};
use crate::{apply::stage, scan::content, tree::Tree};

const SIZE: u64 = 400 << 20;
/// What a file of a few bytes of data may take on the disk: some blocks, and what a file system keeps of them.
const FEW: u64 = 1 << 20;

/// A file of `size` bytes: holes, and these data.
fn sparse(path: &Path, size: u64, data: &[(u64, &[u8])]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in data {
        file.write_all_at(bytes, *at).unwrap();
    }
}

fn on_disk(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[track_caller]
fn assert_sparse(path: &Path) {
    let (taken, size) = (on_disk(path), fs::metadata(path).unwrap().len());
    assert!(taken < FEW && size >= SIZE, "{} takes {taken} bytes of {size}", path.display());
}

#[test]
fn holes_stay_holes_by_every_way() {
    for (beside, exchange) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut farm = Farm::new();
        (farm.ways.beside, farm.ways.exchange) = (beside, exchange);
        build(&farm.live(), &["index=old", "grows=old"]);
        sparse(&farm.model().join("index"), SIZE, &[(SIZE - 4, b"end\n")]);
        sparse(&farm.model().join("grows"), SIZE + 1, &[(0, b"begin"), (SIZE / 2 + 17, b"middle")]);
        sparse(&farm.model().join("new"), SIZE, &[]);
        farm.sync_and_commit().unwrap();
        farm.assert_is_model();
        for name in ["index", "grows", "new"] {
            assert_sparse(&farm.live().join(name));
        }
    }
}

#[test]
fn what_is_put_back_has_its_holes() {
    let farm = Farm::new();
    sparse(&farm.live().join("index"), SIZE, &[(SIZE - 4, b"old\n")]);
    let before = farm.tree(&farm.live());
    sparse(&farm.model().join("index"), SIZE, &[(SIZE - 4, b"new\n")]);
    farm.sync().unwrap().take_back().unwrap();
    assert_eq!(farm.tree(&farm.live()).root(), before.root());
    assert_sparse(&farm.live().join("index"));
}

/// The state directory is on another file system: what is kept is copied.
#[test]
fn a_kept_copy_has_the_holes() {
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut farm = Farm::new();
    farm.state = elsewhere.path().to_owned();
    let same = fs::metadata(elsewhere.path()).unwrap().dev() == fs::metadata(farm.live()).unwrap().dev();
    if same {
        return bellwether_skip::skip("a kept copy on another file system", "there is one only");
    }
    sparse(&farm.live().join("index"), SIZE, &[(5, b"an edit")]);
    build(&farm.model(), &["index=new"]);
    let nothing = Tree::empty(farm.tree(&farm.live()).sets().iter().map(|set| set.rules.clone()));
    let live = farm.tree(&farm.live());
    farm.sync_expecting(&nothing, &live).unwrap().commit();
    farm.assert_is_model();
    assert_eq!(farm.kept(), ["web/index"]);
    let point = fs::read_dir(elsewhere.path().join("recovery")).unwrap().next().unwrap().unwrap().path();
    assert_sparse(&point.join("web/index"));
    let mut edit = [0; 7];
    File::open(point.join("web/index")).unwrap().read_exact_at(&mut edit, 5).unwrap();
    assert_eq!(&edit, b"an edit");
}

/// As large as a file can be: nothing of it is read, held or written.
#[test]
fn the_largest_hole_costs_nothing() {
    let farm = Farm::new();
    let size = limits::FILE_CHUNKS as u64 * content::MOST as u64;
    sparse(&farm.model().join("bomb"), size, &[]);
    farm.sync_and_commit().unwrap();
    farm.assert_is_model();
    assert_eq!(fs::metadata(farm.live().join("bomb")).unwrap().len(), size);
    assert!(on_disk(&farm.live().join("bomb")) < FEW);
}

/// The check of free space counts what will be written; what only claims to be zeros is counted whole.
#[test]
fn only_holes_need_no_space() {
    let farm = Farm::new();
    sparse(&farm.model().join("f"), SIZE, &[(SIZE - 1, b"x")]);
    let tree = farm.tree(&farm.model());
    let path = bellwether_proto::entry::EntryPath::new(b"f").unwrap();
    let entry = tree.get(&farm.rules.name, &path).unwrap().entry();
    assert!(stage::size(&entry) <= content::MOST as u64, "{}", stage::size(&entry));
    let chunk = |length: usize| Chunk { hash: Hash::of(&vec![0; length]), length: length as u32 };
    let content: Content = std::iter::repeat_n(chunk(limits::CHUNK), 1_000).collect();
    let owner = Owners::default().get("root", "root").unwrap();
    let meta = Meta { mode: 0o644, owner, mtime: 0, xattrs: None };
    let claimed = Entry { meta, kind: Kind::File(content) };
    assert_eq!(stage::size(&claimed), 1_000 * limits::CHUNK as u64);
}
