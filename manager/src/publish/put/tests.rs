use std::{fs, path::Path, sync::Arc};

use bellwether_proto::record::SetRules;

use super::*;

struct Set {
    directory: tempfile::TempDir,
    source: Source,
}

impl Set {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("set")).unwrap();
        let mut rules = SetRules::new("nginx".parse().unwrap());
        rules.exclude = vec!["*.bak".into()];
        rules.local = vec!["local-*".into()];
        let source = Source::new(Arc::new(rules), directory.path().join("set"));
        Self { directory, source }
    }

    fn path(&self) -> &Path {
        &self.source.path
    }

    fn make(&self, request: v1::ChangeRequest) -> Result<Option<Replaced>, ChangeError> {
        make_in(&self.source, &Asked::try_from(request)?)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn request(path: &str, change: v1::change_request::Change, expected: Option<&[u8]>) -> v1::ChangeRequest {
    v1::ChangeRequest {
        set: "nginx".into(),
        path: path.to_owned().into(),
        expected: expected.map(bytes::Bytes::copy_from_slice),
        change: Some(change),
        author: String::new(),
        message: String::new(),
        accept: false,
    }
}

fn put(path: &str, data: &str, expected: Option<&[u8]>) -> v1::ChangeRequest {
    let content = v1::FileContent { data: data.to_owned().into(), mode: None };
    request(path, v1::change_request::Change::Put(content), expected)
}

fn remove(path: &str, expected: Option<&[u8]>) -> v1::ChangeRequest {
    request(path, v1::change_request::Change::Remove(true), expected)
}

#[test]
fn refuses_when_something_else_is_there() {
    let set = Set::new();
    fs::write(set.path().join("a"), "theirs").unwrap();
    for change in [
        put("a", "mine", Some(b"")),
        put("a", "mine", Some(Hash::of(b"old").as_bytes())),
        put("b", "mine", Some(Hash::of(b"old").as_bytes())),
        remove("a", Some(Hash::of(b"old").as_bytes())),
    ] {
        assert!(matches!(set.make(change), Err(ChangeError::Conflict(..))));
    }
    assert_eq!(fs::read_to_string(set.path().join("a")).unwrap(), "theirs");
    assert_eq!(set.names(), ["a"]);
}

#[test]
fn putting_twice_is_putting_once() {
    let set = Set::new();
    assert!(set.make(put("file", "text", Some(b""))).unwrap().is_some());
    assert!(set.make(put("file", "text", None)).unwrap().is_none());
    assert!(set.make(put("file", "text", Some(Hash::of(b"text").as_bytes()))).unwrap().is_none());
    assert!(set.make(put("file", "TEXT", None)).unwrap().is_some());
    assert_eq!(fs::read_to_string(set.path().join("file")).unwrap(), "TEXT");
    let mode = v1::FileContent { data: "TEXT".into(), mode: Some(0o600) };
    let chmod = request("file", v1::change_request::Change::Put(mode), None);
    assert!(set.make(chmod).unwrap().is_some(), "another mode is a change");
}

#[test]
fn removing_twice_is_removing_once() {
    let set = Set::new();
    fs::write(set.path().join("a"), "x").unwrap();
    let hash = *Hash::of(b"x").as_bytes();
    assert!(set.make(remove("a", Some(&hash))).unwrap().is_some());
    assert!(set.make(remove("a", Some(&hash))).unwrap().is_none());
    assert_eq!(set.names(), [""; 0]);
}

#[test]
fn nothing_is_written_outside_the_set_or_on_what_is_not_the_groups() {
    let set = Set::new();
    let outside = set.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, set.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), set.path().join("file")).unwrap();
    fs::create_dir(set.path().join("dir")).unwrap();
    for path in ["../outside/secret", "/etc/passwd", "a/../../b", "", "a//b", "."] {
        assert!(matches!(set.make(put(path, "y", None)), Err(ChangeError::Malformed(_))), "{path}");
    }
    for path in ["link/secret", "link/new", "file", "dir"] {
        let held = set.make(put(path, "y", None));
        assert!(matches!(held, Err(ChangeError::Replace(ReplaceError::Held(..)))), "{path}");
    }
    assert!(matches!(set.make(put("local-a", "y", None)), Err(ChangeError::Local(_))));
    for path in ["a.bak", ".bellwether/x", ".bellwether.put-1"] {
        assert!(matches!(set.make(put(path, "y", None)), Err(ChangeError::Excluded(_))), "{path}");
    }
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "x");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(set.names(), ["dir", "file", "link"]);
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let set = Set::new();
    let mut setuid = put("a", "x", None);
    if let Some(v1::change_request::Change::Put(content)) = &mut setuid.change {
        content.mode = Some(0o4755);
    }
    let mut nothing = put("a", "x", None);
    nothing.change = None;
    let large = put("a", &"x".repeat(limits::PUT + 1), None);
    for change in [setuid, nothing, large, put("a", "x", Some(b"short"))] {
        assert!(matches!(set.make(change), Err(ChangeError::Malformed(_))));
    }
    assert_eq!(set.names(), [""; 0]);
}
