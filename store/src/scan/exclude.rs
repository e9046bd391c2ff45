//! The paths that are never looked at nor touched: the group's excludes, each server's own files, and our staging.

use std::path::Path;

use bellwether_proto::{entry::EntryPath, record::SetRules};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::ScanError;
use crate::beneath::os;

/// The first component of everything that this program makes inside a set: `.bellwether`, `.bellwether.…`.
const STAGING: &[u8] = b".bellwether";

/// The reason why an entry is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftAlone {
    /// This program made it.
    Staging,
    /// A pattern of `exclude`.
    Excluded,
    /// A pattern of `local`: the entry belongs to one server.
    Local,
}

/// A set's compiled patterns. Each of the two lists has gitignore semantics; everything below an excluded directory is
/// excluded, and no pattern brings it back.
#[derive(Debug, Clone)]
pub struct Excludes {
    lists: [Gitignore; 2],
}

impl Excludes {
    /// Compiles `exclude` and `local`.
    ///
    /// # Errors
    /// [`ScanError::Pattern`] names the pattern.
    pub fn new(rules: &SetRules) -> Result<Self, ScanError> {
        let compile = |patterns: &[String]| {
            compile(patterns).map_err(|what| ScanError::Pattern { set: rules.name.clone(), what })
        };
        Ok(Self { lists: [compile(&rules.exclude)?, compile(&rules.local)?] })
    }

    /// Whether the entry, or a directory above it, is excluded. The root of a set never is.
    pub fn excluded(&self, path: &EntryPath, is_dir: bool) -> bool {
        is_within(path, is_dir, &|bytes, is_dir| self.matches(bytes, is_dir))
    }

    /// The reason why the entry is left alone; none: it is not. A pattern of `exclude` comes before one of `local`.
    pub fn reason(&self, path: &EntryPath, is_dir: bool) -> Option<LeftAlone> {
        let [excluded, local] = &self.lists;
        let by = |list: &Gitignore| {
            is_within(path, is_dir, &|bytes, is_dir| list.matched(Path::new(os(bytes)), is_dir).is_ignore())
        };
        if path.components().any(is_staging) {
            Some(LeftAlone::Staging)
        } else if by(excluded) {
            Some(LeftAlone::Excluded)
        } else {
            by(local).then_some(LeftAlone::Local)
        }
    }

    /// Whether the entry is excluded, given that no directory above it is.
    pub(super) fn excluded_itself(&self, path: &EntryPath, is_dir: bool) -> bool {
        self.matches(path.as_bytes(), is_dir)
    }

    fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        is_staging(name) || self.lists.iter().any(|list| list.matched(Path::new(os(path)), is_dir).is_ignore())
    }
}

/// Whether the entry, or a directory above it, is one that `matches`. The root of a set never is.
pub(crate) fn is_within(path: &EntryPath, is_dir: bool, matches: &dyn Fn(&[u8], bool) -> bool) -> bool {
    let bytes = path.as_bytes();
    let mut slashes = (0..bytes.len()).filter(|&at| bytes[at] == b'/');
    let above = slashes.any(|at| matches(&bytes[..at], true));
    !path.is_root() && (above || matches(bytes, is_dir))
}

fn is_staging(name: &[u8]) -> bool {
    name.strip_prefix(STAGING).is_some_and(|rest| matches!(rest.first(), None | Some(b'.')))
}

/// Compiles gitignore patterns.
///
/// # Errors
/// A pattern is none.
pub(crate) fn compile(patterns: &[String]) -> Result<Gitignore, String> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|error| error.to_string())?;
    }
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(exclude: &[&str], local: &[&str]) -> Excludes {
        let owned = |list: &[&str]| list.iter().map(|&p| p.to_owned()).collect();
        let mut rules = SetRules::new("nginx".parse().unwrap());
        (rules.exclude, rules.local) = (owned(exclude), owned(local));
        Excludes::new(&rules).unwrap()
    }

    fn path(bytes: impl AsRef<[u8]>) -> EntryPath {
        EntryPath::new(bytes.as_ref()).unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let e = excludes(&["*.log", "!keep.log", "/top", "cache/", "a/**/z"], &["conf.d/local-*.conf"]);
        let cases = [
            ("x.log", false, true),
            ("d/x.log", false, true),
            ("d/keep.log", false, false),
            ("top", false, true),
            ("d/top", false, false),
            ("cache", true, true),
            ("cache", false, false),
            ("d/cache/x", false, true),
            ("a/b/c/z", false, true),
            ("conf.d/local-1.conf", false, true),
            ("conf.d/site.conf", false, false),
            ("", true, false),
        ];
        for (text, is_dir, expected) in cases {
            assert_eq!(e.excluded(&path(text), is_dir), expected, "{text}");
        }
    }

    #[test]
    fn nothing_comes_back_below_an_excluded_directory() {
        let e = excludes(&["cache", "!cache/keep"], &["!*"]);
        assert!(e.excluded(&path("cache/keep"), false));
    }

    #[test]
    fn staging_is_always_excluded() {
        let e = excludes(&["!.bellwether"], &[]);
        assert!(e.excluded(&path(".bellwether"), true));
        assert!(e.excluded(&path("d/.bellwether.7/x"), false));
        assert!(!e.excluded(&path(".bellwether-not"), false));
    }

    #[test]
    fn a_reason_is_given_for_what_is_left_alone_and_for_nothing_else() {
        let e = excludes(&["*.log", "cache/"], &["local-*", "own/", "*.both", "x.log"]);
        for (text, is_dir, reason) in [
            ("d/x.log", false, Some(LeftAlone::Excluded)),
            ("cache/local-1", false, Some(LeftAlone::Excluded)),
            ("local-1", false, Some(LeftAlone::Local)),
            ("own/d/x", false, Some(LeftAlone::Local)),
            ("own", true, Some(LeftAlone::Local)),
            ("d/.bellwether/x.log", false, Some(LeftAlone::Staging)),
            ("site.conf", false, None),
        ] {
            assert_eq!(e.reason(&path(text), is_dir), reason, "{text}");
            assert_eq!(e.excluded(&path(text), is_dir), reason.is_some(), "{text}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_match() {
        let e = excludes(&["*.log"], &[]);
        assert!(e.excluded(&path(b"\xff\xfe.log"), false));
        assert!(!e.excluded(&path(b"\xff\xfe.conf"), false));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let mut rules = SetRules::new("nginx".parse().unwrap());
        rules.exclude = vec!["a{b".to_owned()];
        let error = Excludes::new(&rules).unwrap_err();
        assert!(error.to_string().contains("a{b"), "{error}");
    }
}
