//! Random edits of random trees: a scan of everything, or of the touched paths, finds the same as a scan without a known tree.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use bellwether_proto::entry::EntryPath;
use bellwether_store::{
    scan::{Depth, Look},
    tree::Tree,
};
use proptest::prelude::*;
use rustix::fs::{XattrFlags, setxattr};

use super::{Set, entry, name};

#[derive(Debug, Clone)]
enum Op {
    Write(EntryPath, u8, usize),
    Append(EntryPath, u8),
    Mkdir(EntryPath),
    Link(EntryPath, EntryPath),
    Remove(EntryPath),
    Rename(EntryPath, EntryPath),
    Mode(EntryPath, u32),
    Attribute(EntryPath, u8),
}

type Touched = BTreeMap<EntryPath, Depth>;

fn path() -> impl Strategy<Value = EntryPath> {
    let component = prop::sample::select(vec!["a".as_bytes(), b"b", b"a-b", b"c.log", b"cache", b"\xff\x01"]);
    prop::collection::vec(component, 1..4).prop_map(|components| entry(components.join(&b'/')))
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![8 => 0usize..40, 1 => Just(70_000), 1 => Just(200_000)];
    prop_oneof![
        6 => (path(), any::<u8>(), size).prop_map(|(path, byte, size)| Op::Write(path, byte, size)),
        2 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::Append(path, byte)),
        2 => path().prop_map(Op::Mkdir),
        2 => (path(), path()).prop_map(|(path, target)| Op::Link(path, target)),
        2 => path().prop_map(Op::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (path(), 0u32..8).prop_map(|(path, bits)| Op::Mode(path, 0o700 | bits)),
        1 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::Attribute(path, byte)),
    ]
}

fn on_disk(set: &Set, path: &EntryPath) -> PathBuf {
    set.path("").join(OsStr::from_bytes(path.as_bytes()))
}

/// Makes each possible edit, and notes the paths that a watch would name.
fn run(set: &Set, op: &Op, touched: &mut Touched) {
    let disk = |path: &EntryPath| on_disk(set, path);
    let no_link = |path: &EntryPath| !fs::symlink_metadata(disk(path)).is_ok_and(|found| found.is_symlink());
    let mut touch = |path: &EntryPath, depth: Depth| {
        let noted = touched.entry(path.clone()).or_insert(depth);
        *noted = depth.max(*noted);
    };
    match op {
        Op::Write(path, byte, size) => {
            let _ = fs::create_dir_all(disk(path).parent().unwrap());
            let _ = no_link(path).then(|| fs::write(disk(path), vec![*byte; *size]));
            touch(path, Depth::Entry);
        }
        Op::Append(path, byte) => {
            let append = |file: &mut fs::OpenOptions| file.append(true).open(disk(path));
            let _ = no_link(path).then(|| append(&mut fs::OpenOptions::new())?.write_all(&[*byte]));
            touch(path, Depth::Entry);
        }
        Op::Mkdir(path) => {
            let _ = fs::create_dir_all(disk(path));
            touch(path, Depth::Entry);
        }
        Op::Link(path, target) => {
            let _ = symlink(OsStr::from_bytes(target.as_bytes()), disk(path));
            touch(path, Depth::Entry);
        }
        Op::Remove(path) => {
            walk(&disk(path), path, &mut |below| touch(below, Depth::Entry));
            let _ = fs::remove_dir_all(disk(path)).or_else(|_| fs::remove_file(disk(path)));
        }
        Op::Rename(from, to) => {
            let _ = fs::rename(disk(from), disk(to));
            touch(from, Depth::All);
            touch(to, Depth::All);
        }
        Op::Mode(path, mode) => {
            let _ = no_link(path).then(|| fs::set_permissions(disk(path), fs::Permissions::from_mode(*mode)));
            touch(path, Depth::Entry);
        }
        Op::Attribute(path, byte) => {
            let _ = no_link(path).then(|| setxattr(disk(path), "user.test", &[*byte], XattrFlags::empty()));
            touch(path, Depth::Entry);
        }
    }
}

/// Everything at `path` and below it.
fn walk(disk: &Path, path: &EntryPath, visit: &mut dyn FnMut(&EntryPath)) {
    visit(path);
    if fs::symlink_metadata(disk).is_ok_and(|found| found.is_dir()) {
        for found in fs::read_dir(disk).unwrap() {
            let name = found.unwrap().file_name();
            walk(&disk.join(&name), &path.join(name.as_bytes()), visit);
        }
    }
}

/// Links to directories inside could lead an operation to a place that is noted under another name.
fn through_a_link(set: &Set, path: &EntryPath) -> bool {
    let mut disk = set.path("");
    let above = path.split().map(|(above, _)| above).unwrap_or_default();
    above.components().any(|component| {
        disk.push(OsStr::from_bytes(component));
        fs::symlink_metadata(&disk).is_ok_and(|found| found.is_symlink())
    })
}

fn run_all(set: &Set, ops: &[Op]) -> Touched {
    let mut touched = Touched::new();
    for op in ops {
        let (Op::Write(path, ..)
        | Op::Append(path, _)
        | Op::Mkdir(path)
        | Op::Link(path, _)
        | Op::Remove(path)
        | Op::Rename(path, _)
        | Op::Mode(path, _)
        | Op::Attribute(path, _)) = op;
        let target = if let Op::Rename(_, to) = op { to } else { path };
        if !through_a_link(set, path) && !through_a_link(set, target) {
            run(set, op, &mut touched);
        }
    }
    touched
}

fn same(expected: &Tree, found: &Tree) -> Result<(), TestCaseError> {
    prop_assert_eq!(expected.diff(found), vec![]);
    prop_assert_eq!(expected.root(), found.root());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn looking_again_finds_what_a_scan_from_nothing_finds(
        first in prop::collection::vec(op(), 0..24),
        rounds in prop::collection::vec(prop::collection::vec(op(), 0..8), 1..4),
    ) {
        let set = Set::with(|rules| rules.exclude = vec!["*.log".into(), "cache/".into()]);
        set.mkdir("");
        run_all(&set, &first);
        let (mut stats, mut named) = (set.fresh().tree, set.fresh().tree);
        for ops in rounds {
            let touched = run_all(&set, &ops);
            let fresh = set.fresh().tree;
            let again = set.scan(&stats, &Look::Stats).tree;
            same(&fresh, &again)?;
            same(&again, &stats.apply(stats.diff(&again)).unwrap())?;
            same(&fresh, &set.scan(&stats, &Look::Bytes).tree)?;
            let at = touched.into_iter().map(|(path, depth)| ((name(), path), depth)).collect();
            named = set.scan(&named, &Look::At(at)).tree;
            same(&fresh, &named)?;
            stats = again;
        }
    }
}
