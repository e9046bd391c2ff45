//! `SET:FILE` on the command line.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use bellwether_proto::{entry::EntryPath, name::SetName};

use crate::error::{CommandError, Kind};

/// A path in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) set: SetName,
    pub(super) path: EntryPath,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.set, self.path)
    }
}

/// A file, such as `nginx:conf.d/a.conf`. The path need not be UTF-8.
pub(super) fn file(text: &OsStr) -> Result<Target, CommandError> {
    let target = parse(text)?;
    if target.path.is_root() {
        return Err(wrong(text, "it names no file, as in nginx:conf.d/a.conf"));
    }
    Ok(target)
}

/// A set, or a path in it, such as `nginx` or `nginx:conf.d`.
pub(super) fn parse(text: &OsStr) -> Result<Target, CommandError> {
    let bytes = text.as_bytes();
    let (set, path) = match bytes.iter().position(|&b| b == b':') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b""[..]),
    };
    let set = String::from_utf8_lossy(set).parse().map_err(|e| wrong(text, &format!("{e}")))?;
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let path = EntryPath::new(path).map_err(|e| wrong(text, &format!("{e}")))?;
    Ok(Target { set, path })
}

fn wrong(text: &OsStr, why: &str) -> CommandError {
    let text = OsString::from(text);
    CommandError::new(Kind::Usage, format!("'{}' is not SET:FILE: {why}", text.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_divides() {
        let target = file(OsStr::new("nginx:a:b/c.conf")).expect("it is one");
        assert_eq!(target.to_string(), "nginx:a:b/c.conf");
        assert_eq!(target.set.as_str(), "nginx");
        let odd = file(OsStr::from_bytes(b"nginx:\xff")).expect("names need not be UTF-8");
        assert_eq!(odd.path.as_bytes(), b"\xff");
    }

    #[test]
    fn a_tree_may_be_a_whole_set() {
        assert!(parse(OsStr::new("nginx")).expect("a set").path.is_root());
        assert_eq!(parse(OsStr::new("nginx:conf.d/")).expect("a directory").to_string(), "nginx:conf.d");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for text in ["nginx", "nginx:", "a b:c", ":c", "nginx:/etc/passwd", "nginx:../x", "nginx:a//b"] {
            assert_eq!(file(OsStr::new(text)).expect_err(text).kind, Kind::Usage);
        }
    }
}
