//! One entry of a tree: its attributes, which are identical on every server, and its place.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    Malformed,
    hash::{FieldHasher, Hash},
    limits, v1,
};

/// A path relative to its set's root: components that are neither empty nor `.` nor `..`, joined by `/`; empty for the
/// root itself. Any bytes but NUL; not necessarily UTF-8.
///
/// Sorted by component, so that a directory's entries follow it without a gap (`a`, `a/b`, `a-b`).
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryPath(Box<[u8]>);

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // No component has a NUL, so a slash may rank as one.
        let rank = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(rank).cmp(other.0.iter().map(rank))
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl EntryPath {
    /// The root of a set.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks and wraps `bytes`.
    ///
    /// # Errors
    /// Absolute, too long, too deep, with NUL, or with a component that is empty, `.`, `..` or too long.
    pub fn new(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > limits::PATH {
            return Err(Malformed::new(format!("a path of {} bytes; the limit is {}", bytes.len(), limits::PATH)));
        }
        for component in bytes.split(|&b| b == b'/') {
            check_component(component)?;
        }
        let path = Self(bytes.into());
        if path.depth() > limits::DEPTH {
            return Err(Malformed::new(format!("a path {} deep; the limit is {}", path.depth(), limits::DEPTH)));
        }
        Ok(path)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the set's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, from the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// The number of components.
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { 1 + self.0.iter().filter(|&&b| b == b'/').count() }
    }

    /// This path and one more component, which must be valid (see [`check_component`]).
    pub fn join(&self, component: &[u8]) -> Self {
        debug_assert!(check_component(component).is_ok());
        if self.is_root() {
            return Self(component.into());
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + component.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(component);
        Self(bytes.into())
    }

    /// The parent directory and the name in it; none for the root.
    pub fn split(&self) -> Option<(EntryPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => (Self(self.0[..at].into()), &self.0[at + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// Whether it is `directory` or below it.
    pub fn is_within(&self, directory: &EntryPath) -> bool {
        directory.is_root()
            || (self.0.starts_with(&directory.0) && matches!(self.0.get(directory.0.len()), None | Some(b'/')))
    }
}

/// Checks whether `component` can be one path component.
///
/// # Errors
/// Empty, `.`, `..`, with `/` or NUL, or over [`limits::COMPONENT`] bytes.
pub fn check_component(component: &[u8]) -> Result<(), Malformed> {
    let wrong = match component {
        b"" => "is empty",
        b"." | b".." => "leads elsewhere",
        c if c.contains(&b'/') || c.contains(&0) => "has a slash or NUL",
        c if c.len() > limits::COMPONENT => "is too long",
        _ => return Ok(()),
    };
    Err(Malformed::new(format!("a path component that {wrong}: '{}'", component.escape_ascii())))
}

impl fmt::Display for EntryPath {
    /// For people: unprintable bytes are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// The owner of an entry, by name; for a number without a name, the number in decimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The user.
    pub user: Box<str>,
    /// The group.
    pub group: Box<str>,
}

/// Extended attributes (`user.*`, `system.posix_acl_*`, `security.capability` when allowed), sorted by name.
pub type Xattrs = Box<[(Box<[u8]>, Box<[u8]>)]>;

/// The attributes of every kind of entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The lower twelve bits: permissions, setuid, setgid, sticky. 0o777 for links.
    pub mode: u16,
    /// The owner.
    pub owner: Arc<Owner>,
    /// Seconds since 1970. Always 0 for directories, whose time changes with every save below and tells nothing.
    pub mtime: i64,
    /// None: there are none, which is nearly always so.
    pub xattrs: Option<Box<Xattrs>>,
}

/// A run of a file's bytes: content-defined, at most [`limits::CHUNK`] long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// BLAKE3 of the bytes.
    pub hash: Hash,
    /// The number of bytes, at least one.
    pub length: u32,
}

/// A file's bytes, as chunks. One chunk, the common case, needs no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// No byte.
    Empty,
    /// A small file.
    One(Chunk),
    /// A large file: at least two chunks.
    Many(Arc<[Chunk]>),
}

impl Content {
    /// The chunks in order.
    pub fn chunks(&self) -> &[Chunk] {
        match self {
            Self::Empty => &[],
            Self::One(chunk) => std::slice::from_ref(chunk),
            Self::Many(chunks) => chunks,
        }
    }

    /// The file's length in bytes.
    pub fn size(&self) -> u64 {
        self.chunks().iter().map(|c| u64::from(c.length)).sum()
    }

    /// The content's identity: the chunk's hash for a file in one chunk (what `b3sum` prints), of the list otherwise.
    pub fn hash(&self) -> Hash {
        match self {
            Self::Empty => Hash::of(b""),
            Self::One(chunk) => chunk.hash,
            Self::Many(chunks) => {
                let mut hasher = FieldHasher::new("bellwether v1 chunk list");
                for chunk in chunks.iter() {
                    hasher.hash(&chunk.hash).number(chunk.length.into());
                }
                hasher.finish()
            }
        }
    }
}

impl FromIterator<Chunk> for Content {
    fn from_iter<I: IntoIterator<Item = Chunk>>(chunks: I) -> Self {
        let mut chunks = chunks.into_iter();
        match (chunks.next(), chunks.next()) {
            (None, _) => Self::Empty,
            (Some(only), None) => Self::One(only),
            (Some(first), Some(second)) => Self::Many([first, second].into_iter().chain(chunks).collect()),
        }
    }
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link and its target, kept unchanged and never followed.
    Link(Box<[u8]>),
}

/// An entry without its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Mode, owner, time, attributes.
    pub meta: Meta,
    /// Directory, file or link.
    pub kind: Kind,
}

impl Entry {
    /// The message of this entry.
    pub fn to_wire(&self) -> v1::Entry {
        let xattrs = self.meta.xattrs.iter().flat_map(|list| list.iter());
        v1::Entry {
            mode: self.meta.mode.into(),
            user: self.meta.owner.user.to_string(),
            group: self.meta.owner.group.to_string(),
            mtime: self.meta.mtime,
            xattrs: xattrs
                .map(|(name, value)| v1::Xattr {
                    name: Bytes::copy_from_slice(name),
                    value: Bytes::copy_from_slice(value),
                })
                .collect(),
            kind: Some(match &self.kind {
                Kind::Directory => v1::entry::Kind::Directory(v1::Directory {}),
                Kind::File(content) => v1::entry::Kind::File(v1::File {
                    chunks: content
                        .chunks()
                        .iter()
                        .map(|c| v1::Chunk { hash: c.hash.into(), length: c.length })
                        .collect(),
                }),
                Kind::Link(target) => v1::entry::Kind::Link(Bytes::copy_from_slice(target)),
            }),
        }
    }

    /// Checks a message. `owner` makes equal owners one allocation.
    ///
    /// # Errors
    /// A field has a value that no entry can have.
    pub fn from_wire(wire: v1::Entry, owners: &mut Owners) -> Result<Self, Malformed> {
        let mode = u16::try_from(wire.mode)
            .ok()
            .filter(|mode| mode & !0o7777 == 0)
            .ok_or_else(|| Malformed::new(format!("mode {:o}", wire.mode)))?;
        let kind = match wire.kind.ok_or_else(|| Malformed::new("an entry of no kind"))? {
            v1::entry::Kind::Directory(_) => Kind::Directory,
            v1::entry::Kind::File(file) => Kind::File(content(file)?),
            v1::entry::Kind::Link(target) => {
                if target.is_empty() || target.len() > limits::LINK || target.contains(&0) {
                    return Err(Malformed::new(format!("a link target of {} bytes or with NUL", target.len())));
                }
                Kind::Link(target.as_ref().into())
            }
        };
        if matches!(kind, Kind::Directory) && wire.mtime != 0 {
            return Err(Malformed::new("a directory with a time"));
        }
        let meta =
            Meta { mode, owner: owners.get(&wire.user, &wire.group)?, mtime: wire.mtime, xattrs: xattrs(wire.xattrs)? };
        Ok(Self { meta, kind })
    }
}

fn content(file: v1::File) -> Result<Content, Malformed> {
    if file.chunks.len() > limits::FILE_CHUNKS {
        return Err(Malformed::new(format!(
            "a file of {} chunks; the limit is {}",
            file.chunks.len(),
            limits::FILE_CHUNKS
        )));
    }
    let mut size = 0u64;
    let chunks = file.chunks.into_iter().map(|c| {
        if c.length == 0 || c.length as usize > limits::CHUNK {
            return Err(Malformed::new(format!("a chunk of {} bytes", c.length)));
        }
        size += u64::from(c.length);
        Ok(Chunk { hash: Hash::try_from(c.hash.as_ref())?, length: c.length })
    });
    let content = chunks.collect::<Result<Content, _>>()?;
    if size > limits::FILE {
        return Err(Malformed::new(format!("a file of {size} bytes; the limit is {}", limits::FILE)));
    }
    Ok(content)
}

/// Whether an extended attribute may travel; `security.capability` needs the group's consent, too.
pub fn xattr_travels(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default" | b"security.capability")
}

fn xattrs(wire: Vec<v1::Xattr>) -> Result<Option<Box<Xattrs>>, Malformed> {
    if wire.is_empty() {
        return Ok(None);
    }
    let bytes: usize = wire.iter().map(|x| x.name.len() + x.value.len()).sum();
    if wire.len() > limits::XATTRS.0 || bytes > limits::XATTRS.1 {
        return Err(Malformed::new(format!("{} extended attributes of {bytes} bytes", wire.len())));
    }
    if !wire.is_sorted_by(|a, b| a.name < b.name) {
        return Err(Malformed::new("extended attributes that are not sorted"));
    }
    if let Some(bad) = wire.iter().find(|x| !xattr_travels(&x.name) || x.name.len() > 255 || x.name.contains(&0)) {
        return Err(Malformed::new(format!("extended attribute '{}'", bad.name.escape_ascii())));
    }
    let list: Xattrs = wire.iter().map(|x| (x.name.as_ref().into(), x.value.as_ref().into())).collect();
    Ok(Some(Box::new(list)))
}

/// Makes equal owners one allocation: a tree has millions of entries and a handful of owners.
#[derive(Debug, Default)]
pub struct Owners(std::collections::HashMap<(Box<str>, Box<str>), Arc<Owner>>);

impl Owners {
    /// The shared owner of these names.
    ///
    /// # Errors
    /// No account can have the name: empty, over 255 bytes, or with a control character, ':' or '/'.
    pub fn get(&mut self, user: &str, group: &str) -> Result<Arc<Owner>, Malformed> {
        let key = (user.into(), group.into());
        if let Some(owner) = self.0.get(&key) {
            return Ok(owner.clone());
        }
        for name in [user, group] {
            if name.is_empty() || name.len() > 255 || name.contains(|c: char| c.is_control() || c == ':' || c == '/') {
                return Err(Malformed::new(format!("owner '{}'", name.escape_debug())));
            }
        }
        let owner = Arc::new(Owner { user: user.into(), group: group.into() });
        self.0.insert(key, owner.clone());
        Ok(owner)
    }
}
