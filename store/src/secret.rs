//! The secret files of the sets: which paths they are, and their content, so that it can be left out of other texts.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bellwether_proto::{entry::EntryPath, name::SetName, record::SecretFiles};
use ignore::gitignore::Gitignore;

use crate::{
    beneath::{Root, os},
    scan::{compile, is_within},
};

/// The most bytes of secret files that are read to be left out of a text.
const MOST: u64 = 256 << 10;
/// The most entries among which secret files are looked for.
const ENTRIES: usize = 200_000;

/// The paths of the secret files.
#[derive(Debug, Clone, Default)]
pub struct SecretPaths(BTreeMap<SetName, Option<Gitignore>>);

impl SecretPaths {
    /// Compiles the patterns of the record. A set with a pattern that cannot be compiled has only secret files.
    pub fn new(list: &[SecretFiles]) -> Self {
        Self(list.iter().map(|files| (files.set.clone(), compile(&files.patterns).ok())).collect())
    }

    /// Checks that patterns can be compiled.
    ///
    /// # Errors
    /// The reason, with the pattern.
    pub fn check(patterns: &[String]) -> Result<(), String> {
        compile(patterns).map(drop)
    }

    /// Whether no file is secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that file is secret: it matches, or a directory above it does.
    pub fn covers(&self, set: &SetName, path: &EntryPath) -> bool {
        self.is_secret(set, path, false)
    }

    fn is_secret(&self, set: &SetName, path: &EntryPath, is_dir: bool) -> bool {
        match self.0.get(set) {
            None => false,
            Some(None) => true,
            Some(Some(list)) => {
                is_within(path, is_dir, &|bytes, is_dir| list.matched(Path::new(os(bytes)), is_dir).is_ignore())
            }
        }
    }
}

/// The content of secret files, read within a limit.
#[derive(Debug, Default)]
pub struct SecretContents {
    /// The files' bytes.
    pub files: Vec<Vec<u8>>,
    bytes: u64,
    /// Not all secret files could be read, or they have more bytes than the limit.
    pub incomplete: bool,
}

impl SecretContents {
    /// Adds the secret files of a set, as they are in its directory now.
    pub fn add_live(&mut self, paths: &SecretPaths, set: &SetName, root: &Path) {
        if self.incomplete || !paths.0.contains_key(set) {
            return;
        }
        match Root::open(root) {
            Ok(held) => self.incomplete |= self.walk(paths, set, root, &held).is_err(),
            Err(error) => self.incomplete |= error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn walk(&mut self, paths: &SecretPaths, set: &SetName, root: &Path, held: &Root) -> io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let mut directories = vec![PathBuf::new()];
        let mut entries = 0;
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(root.join(&directory))? {
                entries += 1;
                if entries > ENTRIES {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, directory.join(entry.file_name()));
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file()
                    && let Ok(path) = EntryPath::new(path.as_os_str().as_bytes())
                    && paths.covers(set, &path)
                {
                    self.add(held.file(&path)?)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a file.
    ///
    /// # Errors
    /// It cannot be read, or the limit is exceeded.
    pub(crate) fn add(&mut self, file: fs::File) -> io::Result<()> {
        let mut bytes = Vec::new();
        file.take(MOST + 1 - self.bytes).read_to_end(&mut bytes)?;
        self.bytes += bytes.len() as u64;
        if self.bytes > MOST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.files.push(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(patterns: &[&str]) -> SecretPaths {
        let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        SecretPaths::new(&[SecretFiles { set: name(), patterns }])
    }

    fn name() -> SetName {
        "web".parse().unwrap()
    }

    #[test]
    fn a_file_is_secret_by_its_name_or_by_a_directory_above() {
        let paths = paths(&["*.key", "tokens/", "!public.key"]);
        for (path, secret) in [
            ("a.key", true),
            ("d/a.key", true),
            ("tokens/a", true),
            ("tokens/d/a", true),
            ("tokens", false),
            ("public.key", false),
            ("a.conf", false),
        ] {
            assert_eq!(paths.covers(&name(), &EntryPath::new(path.as_bytes()).unwrap()), secret, "{path}");
            assert!(!paths.covers(&"other".parse().unwrap(), &EntryPath::new(path.as_bytes()).unwrap()));
        }
    }

    #[test]
    fn where_a_pattern_is_unusable_every_file_is_secret() {
        assert!(SecretPaths::check(&["a{b".to_owned()]).unwrap_err().contains("a{b"));
        assert!(paths(&["a{b"]).covers(&name(), &EntryPath::new(b"x").unwrap()));
    }

    #[test]
    fn secret_files_are_read_and_nothing_else() {
        let set = tempfile::tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| {
            let path = set.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("d/a.key", b"one");
        write("b.key", b"two");
        write("c.conf", b"three");
        std::os::unix::fs::symlink("c.conf", set.path().join("link.key")).unwrap();
        let read = |paths: &SecretPaths| {
            let mut contents = SecretContents::default();
            contents.add_live(paths, &name(), set.path());
            contents.files.sort();
            contents
        };
        let found = read(&paths(&["*.key"]));
        assert_eq!((found.files, found.incomplete), (vec![b"one".to_vec(), b"two".to_vec()], false));
        write("large.key", &vec![b'x'; MOST as usize]);
        assert!(read(&paths(&["*.key"])).incomplete);
        assert!(!read(&paths(&["b.key"])).incomplete);
        let mut gone = SecretContents::default();
        gone.add_live(&paths(&["*"]), &name(), &set.path().join("gone"));
        assert!(!gone.incomplete && gone.files.is_empty());
    }
}
