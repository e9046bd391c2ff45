use std::fs;

use bellwether_proto::{
    entry::{Content, Kind, Owner},
    level::Level,
};

use super::*;
use crate::state::file::tests::Any;

fn entry(kind: Kind) -> Entry {
    let owner = Owner { user: "root".into(), group: "www-data".into() };
    let xattrs: bellwether_proto::entry::Xattrs =
        Box::new([(b"user.a".as_slice().into(), b"\xff\0".as_slice().into())]);
    let mtime = if kind == Kind::Directory { 0 } else { -5 };
    Entry { meta: Meta { mode: 0o4755, owner: owner.into(), mtime, xattrs: Some(Box::new(xattrs)) }, kind }
}

fn journal() -> Journal {
    let path = |bytes: &[u8]| EntryPath::new(bytes).unwrap();
    let chunk = |n: u8| bellwether_proto::entry::Chunk { hash: Hash::of(&[n]), length: u32::from(n) + 1 };
    let kinds =
        [Kind::Directory, Kind::File((0..3).map(chunk).collect::<Content>()), Kind::Link(b"\xfe/x".as_slice().into())];
    let operation =
        |act, was| Operation { set: 0, path: path(b"a/\xff"), act, staged: 7, inode: u64::MAX, was, keep: true };
    let was = Was { inode: 3, size: 4, mtime: (-1, 999), directory: false, entry: Some(entry(kinds[1].clone())) };
    let meta = entry(Kind::Directory).meta;
    Journal {
        revision: Hash::of(b"revision"),
        label: "1.7".to_owned(),
        when: "20261121T213000Z".to_owned(),
        phase: Phase::Forward,
        sets: vec![JournalSet {
            name: "web".parse().unwrap(),
            path: "/etc/web".into(),
            inside: true,
            beside: ".bellwether.web.0123".to_owned(),
        }],
        operations: vec![
            operation(Act::Put, Some(was)),
            operation(Act::Remove, None),
            operation(Act::Meta { old: meta.clone(), new: meta.clone() }, None),
            operation(Act::Unmake { old: meta }, None),
        ],
        wanted: ["", "a", "a/b"]
            .iter()
            .zip(kinds)
            .map(|(name, kind)| Wanted { set: 0, path: path(name.as_bytes()), entry: Some(entry(kind)), stays: false })
            .collect(),
    }
}

/// Notes it in the log of `directory`.
fn save(directory: &Path, journal: &impl State) {
    Log::open(directory).unwrap().begin(None, journal).unwrap();
}

/// What the log of `directory` has.
fn load(directory: &Path) -> Result<Option<Journal>, StateFileError> {
    Journal::load(&Log::open(directory)?)
}

#[test]
fn what_was_noted_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(load(directory.path()).unwrap(), None);
    save(directory.path(), &journal());
    assert_eq!(load(directory.path()).unwrap(), Some(journal()));
}

#[test]
fn what_is_wanted_is_found_by_set_and_path() {
    let journal = journal();
    let path = |text: &str| EntryPath::new(text.as_bytes()).unwrap();
    assert_eq!(journal.wanted(0, &path("a")), journal.wanted[1].entry.as_ref());
    assert_eq!(journal.wanted(0, &path("b")), None);
    assert_eq!(journal.wanted_within(0, &path("a")).len(), 2);
    assert_eq!(journal.wanted_within(0, &EntryPath::root()).len(), 3);
    assert!(journal.wanted_within(1, &EntryPath::root()).is_empty());
}

/// `tests/compat` has one of each level; with this variable, that of the present level is written anew.
#[test]
fn compat_the_journal_of_each_level_is_read() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compat");
    let of = |level: u32| all.join(format!("level-{level}/others"));
    if std::env::var_os("BELLWETHER_WRITE_COMPAT").is_some() {
        fs::create_dir_all(of(Level::NEWEST.0)).unwrap();
        let _ = fs::remove_file(crate::log::path(&of(Level::NEWEST.0)));
        save(&of(Level::NEWEST.0), &journal());
    }
    let kept: Vec<_> = (Level::FIRST.0..=Level::NEWEST.0).map(of).filter(|directory| directory.exists()).collect();
    assert!(!kept.is_empty(), "nothing of any level is in {}", all.display());
    for directory in kept {
        assert_eq!(load(&directory).unwrap(), Some(journal()), "{}", directory.display());
    }
}

#[test]
fn what_leads_out_of_a_set_is_damage() {
    let good = serde_json::to_value(journal()).unwrap();
    let read = |body: &serde_json::Value| {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), &Any(body.clone()));
        load(directory.path())
    };
    assert!(read(&good).is_ok());
    for (pointer, value) in [
        ("/operations/0/path", "../x".into()),
        ("/operations/0/path", "/etc/passwd".into()),
        ("/operations/0/set", 1.into()),
        ("/wanted/1/path", "a/./b".into()),
        ("/wanted/1/set", 9.into()),
        ("/wanted/1/entry/mode", 0o20_000.into()),
        ("/wanted/1/entry/user", "a/b".into()),
        ("/wanted/1/entry/kind", serde_json::json!({"file": [["00", 1]]})),
        ("/sets/0/name", "../web".into()),
        ("/phase", "sideways".into()),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert!(matches!(read(&bad), Err(StateFileError::Damaged { .. })), "{pointer}: {bad}");
    }
}
