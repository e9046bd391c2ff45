//! The tree: all sets at one moment, hashed by directory. It is immutable; an edit copies the path to its change and
//! shares the rest, so one changed file rehashes only its ancestors.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use bellwether_proto::{
    entry::{Content, Entry, EntryPath, Kind, Meta},
    hash::{FieldHasher, Hash},
    limits,
    name::SetName,
    record::SetRules,
};

/// The file system's status of an entry at its last read: while it is equal, so is the content. Never hashed or
/// compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// The inode's number; 0: never read here, or too young to be trusted.
    pub inode: u64,
    /// Seconds of the status change.
    pub ctime: i64,
    /// Nanoseconds of the status change.
    pub ctime_ns: u32,
    /// Nanoseconds of the modification; its seconds are in [`Meta::mtime`].
    pub mtime_ns: u32,
}

impl Stat {
    /// Unknown: the entry has to be read.
    pub const UNKNOWN: Self = Self { inode: 0, ctime: 0, ctime_ns: 0, mtime_ns: 0 };

    /// Whether the entry has been read here and can be trusted.
    pub fn is_known(&self) -> bool {
        self.inode != 0
    }
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub struct Child {
    /// Its name in the directory.
    pub name: Box<[u8]>,
    /// Its node.
    pub node: Node,
}

/// A file, a link, or a directory with its entries.
#[derive(Debug, Clone)]
pub enum Node {
    /// A directory.
    Directory(Arc<Dir>),
    /// A regular file.
    File {
        /// Mode, owner, time, attributes.
        meta: Meta,
        /// Its chunks.
        content: Content,
        /// The stat as last read here.
        stat: Stat,
    },
    /// A symbolic link.
    Link {
        /// Owner and time; the mode is 0o777.
        meta: Meta,
        /// Its target.
        target: Box<[u8]>,
        /// The stat as last read here.
        stat: Stat,
    },
}

impl Node {
    /// A leaf or an empty directory from an entry; its stat is unknown.
    pub fn new(entry: Entry) -> Self {
        let Entry { meta, kind } = entry;
        match kind {
            Kind::Directory => Self::Directory(Arc::new(Dir::new(meta, Box::default()))),
            Kind::File(content) => Self::File { meta, content, stat: Stat::UNKNOWN },
            Kind::Link(target) => Self::Link { meta, target, stat: Stat::UNKNOWN },
        }
    }

    /// Mode, owner, time, attributes.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Directory(dir) => &dir.meta,
            Self::File { meta, .. } | Self::Link { meta, .. } => meta,
        }
    }

    /// The entry without its place and without a directory's entries.
    pub fn entry(&self) -> Entry {
        let meta = self.meta().clone();
        let kind = match self {
            Self::Directory(_) => Kind::Directory,
            Self::File { content, .. } => Kind::File(content.clone()),
            Self::Link { target, .. } => Kind::Link(target.clone()),
        };
        Entry { meta, kind }
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Arc<Dir>> {
        match self {
            Self::Directory(dir) => Some(dir),
            Self::File { .. } | Self::Link { .. } => None,
        }
    }

    /// The same node, which the next scan reads whatever its stat; directories are always looked at.
    pub(crate) fn unbelieved(self) -> Self {
        match self {
            Self::Directory(dir) => Self::Directory(dir),
            Self::File { meta, content, stat: _ } => Self::File { meta, content, stat: Stat::UNKNOWN },
            Self::Link { meta, target, stat: _ } => Self::Link { meta, target, stat: Stat::UNKNOWN },
        }
    }

    /// The number of entries, with all below a directory.
    pub fn entries(&self) -> u64 {
        self.directory().map_or(1, |dir| dir.entries)
    }

    /// Whether both are the same except for their stats; directories with all their entries.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory(a), Self::Directory(b)) => a.hash == b.hash,
            (Self::File { meta, content, .. }, Self::File { meta: m, content: c, .. }) => meta == m && content == c,
            (Self::Link { meta, target, .. }, Self::Link { meta: m, target: t, .. }) => meta == m && target == t,
            (Self::Directory(_) | Self::File { .. } | Self::Link { .. }, _) => false,
        }
    }

    fn hash_into(&self, hasher: &mut FieldHasher) {
        match self {
            Self::Directory(dir) => {
                hasher.number(1).hash(&dir.hash);
            }
            Self::File { meta, content, .. } => {
                hasher.number(2);
                hash_meta(meta, hasher);
                hasher.number(content.chunks().len() as u64);
                for chunk in content.chunks() {
                    hasher.hash(&chunk.hash).number(chunk.length.into());
                }
            }
            Self::Link { meta, target, .. } => {
                hasher.number(3);
                hash_meta(meta, hasher);
                hasher.bytes(target);
            }
        }
    }
}

fn hash_meta(meta: &Meta, hasher: &mut FieldHasher) {
    hasher.number(meta.mode.into()).bytes(meta.owner.user.as_bytes()).bytes(meta.owner.group.as_bytes());
    hasher.number(meta.mtime as u64);
    let xattrs = meta.xattrs.iter().flat_map(|list| list.iter());
    hasher.number(xattrs.clone().count() as u64);
    for (name, value) in xattrs {
        hasher.bytes(name).bytes(value);
    }
}

/// A directory and its entries.
#[derive(Debug, Clone)]
pub struct Dir {
    meta: Meta,
    children: Box<[Child]>,
    hash: Hash,
    entries: u64,
}

impl Dir {
    /// Hashes a directory. `children` are sorted by name, none twice.
    pub fn new(meta: Meta, children: Box<[Child]>) -> Self {
        debug_assert!(children.is_sorted_by(|a, b| a.name < b.name));
        let mut hasher = FieldHasher::new("bellwether v1 directory");
        hash_meta(&meta, &mut hasher);
        hasher.number(children.len() as u64);
        let mut entries = 1;
        for child in &children {
            hasher.bytes(&child.name);
            child.node.hash_into(&mut hasher);
            entries += child.node.entries();
        }
        Self { hash: hasher.finish(), meta, children, entries }
    }

    /// Mode, owner, attributes.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its entries, sorted by name.
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// The hash of it and of everything below.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The number of entries, itself and all below included. No walk is needed.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The child of that name.
    pub fn child(&self, name: &[u8]) -> Option<&Node> {
        let at = self.children.binary_search_by(|child| child.name.as_ref().cmp(name)).ok()?;
        Some(&self.children[at].node)
    }
}

/// One set: its rules and its root directory. `root` is none if the directory is missing.
#[derive(Debug, Clone)]
pub struct SetTree {
    /// The group's rules for it.
    pub rules: Arc<SetRules>,
    /// Its root.
    pub root: Option<Arc<Dir>>,
}

/// All sets, sorted by name.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    sets: Vec<SetTree>,
}

/// One difference between two trees: `entry` is that of the newer, none if it has nothing there. Sorted by (set, path).
/// A removed or replaced directory stands for everything below it; a new one is followed by its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The set.
    pub set: SetName,
    /// The path in it.
    pub path: EntryPath,
    /// The new entry.
    pub entry: Option<Entry>,
}

/// The edit of one path in [`Tree::edit`].
#[derive(Debug, Clone)]
pub enum Edit {
    /// Removes it, with everything below.
    Remove,
    /// Makes it a file, a link, or a directory with its entries.
    Put(Node),
    /// Makes it a directory with this meta; an existing one keeps its entries.
    Directory(Meta),
}

/// Changes do not fit the tree to which they are applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// They are not sorted, or a path occurs twice.
    #[error("changes that are not in order at {set}:{path}")]
    Order {
        /// The set.
        set: SetName,
        /// The second of the two.
        path: EntryPath,
    },
    /// The entry's directory does not exist.
    #[error("{set}:{path} is in no directory")]
    Orphan {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
    },
    /// The removed entry does not exist.
    #[error("{set}:{path} is removed but was not there")]
    Missing {
        /// The set.
        set: SetName,
        /// The entry.
        path: EntryPath,
    },
    /// A set's root is not a directory.
    #[error("the root of set {0} is not a directory")]
    Root(SetName),
    /// The tree does not have the set.
    #[error("there is no set {0}")]
    NoSet(SetName),
    /// Over [`limits::ENTRIES`].
    #[error("a tree of more than {} entries", limits::ENTRIES)]
    TooMany,
}

impl Tree {
    /// A tree of these sets; sorts them.
    pub fn new(mut sets: Vec<SetTree>) -> Self {
        sets.sort_by(|a, b| a.rules.name.cmp(&b.rules.name));
        Self { sets }
    }

    /// A tree of empty sets (their roots missing) under these rules.
    pub fn empty(rules: impl IntoIterator<Item = Arc<SetRules>>) -> Self {
        Self::new(rules.into_iter().map(|rules| SetTree { rules, root: None }).collect())
    }

    /// The sets, sorted by name.
    pub fn sets(&self) -> &[SetTree] {
        &self.sets
    }

    /// One set.
    pub fn set(&self, name: &SetName) -> Option<&SetTree> {
        self.sets.iter().find(|set| set.rules.name == *name)
    }

    /// The root hash: of every set's name, rules and root directory.
    pub fn root(&self) -> Hash {
        let mut hasher = FieldHasher::new("bellwether v1 tree");
        hasher.number(self.sets.len() as u64);
        for SetTree { rules, root } in &self.sets {
            hasher.bytes(rules.name.as_str().as_bytes());
            for patterns in [&rules.exclude, &rules.local] {
                hasher.number(patterns.len() as u64);
                for pattern in patterns {
                    hasher.bytes(pattern.as_bytes());
                }
            }
            hasher.number(rules.allow_setuid.into()).number(rules.allow_capabilities.into());
            match root {
                None => hasher.number(0),
                Some(dir) => hasher.number(1).hash(&dir.hash),
            };
        }
        hasher.finish()
    }

    /// The node at a path.
    pub fn get(&self, set: &SetName, path: &EntryPath) -> Option<Node> {
        let root = self.set(set)?.root.as_ref()?;
        let mut node = Node::Directory(root.clone());
        for component in path.components() {
            node = node.directory()?.child(component)?.clone();
        }
        Some(node)
    }

    /// This tree with the entry at a path, and everything below, as in `other`: present or absent.
    ///
    /// # Errors
    /// Its parent is no directory here.
    pub fn with_entry_of(&self, other: &Self, set: &SetName, path: &EntryPath) -> Result<Self, TreeError> {
        let edit = match other.get(set, path) {
            Some(node) => Edit::Put(node.unbelieved()),
            None if self.get(set, path).is_some() => Edit::Remove,
            None => return Ok(self.clone()),
        };
        self.edit([(set.clone(), path.clone(), edit)])
    }

    /// Calls `visit` with every entry, sorted by (set, path).
    pub fn visit(&self, visit: &mut dyn FnMut(&SetName, &EntryPath, &Node)) {
        for set in &self.sets {
            if let Some(root) = &set.root {
                let name = &set.rules.name;
                visit_node(&EntryPath::root(), &Node::Directory(root.clone()), &mut |path, node| {
                    visit(name, path, node)
                });
            }
        }
    }

    /// The first place, as `SET:PATH`, at which a file has one of these chunks.
    pub fn holder(&self, chunks: &HashSet<Hash>) -> Option<String> {
        let mut found = None;
        self.visit(&mut |set, path, node| {
            if let (None, Node::File { content, .. }) = (&found, node)
                && content.chunks().iter().any(|chunk| chunks.contains(&chunk.hash))
            {
                found = Some(format!("{set}:{path}"));
            }
        });
        found
    }

    /// The number of entries.
    pub fn entries(&self) -> u64 {
        self.sets.iter().filter_map(|set| set.root.as_ref()).map(|root| root.entries).sum()
    }

    /// The changes from `self` to `newer`. A set that only one has is missing in the other; equal directories are
    /// skipped.
    pub fn diff(&self, newer: &Tree) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut names: Vec<&SetName> = self.sets.iter().chain(&newer.sets).map(|set| &set.rules.name).collect();
        names.sort();
        names.dedup();
        for name in names {
            let root = |tree: &Tree| tree.set(name).and_then(|set| set.root.clone()).map(Node::Directory);
            let (old, new) = (root(self), root(newer));
            diff_node(&EntryPath::root(), old.as_ref(), new.as_ref(), &mut |path, entry| {
                changes.push(Change { set: name.clone(), path: path.clone(), entry });
            });
        }
        changes
    }

    /// This tree under `rules`, which name its sets from now on: a set that they lack is dropped; a new one is empty.
    pub fn with_rules(&self, rules: &[Arc<SetRules>]) -> Self {
        let root = |name: &SetName| self.set(name).and_then(|set| set.root.clone());
        Self::new(rules.iter().map(|r| SetTree { rules: r.clone(), root: root(&r.name) }).collect())
    }

    /// Applies changes of [`Tree::diff`].
    ///
    /// # Errors
    /// They do not fit; nothing is changed.
    pub fn apply(&self, changes: Vec<Change>) -> Result<Self, TreeError> {
        self.edit(changes.into_iter().map(|Change { set, path, entry }| {
            let edit = match entry {
                None => Edit::Remove,
                Some(Entry { meta, kind: Kind::Directory }) => Edit::Directory(meta),
                Some(entry) => Edit::Put(Node::new(entry)),
            };
            (set, path, edit)
        }))
    }

    /// Applies edits that are sorted by (set, path).
    ///
    /// # Errors
    /// They do not fit; nothing is changed.
    pub fn edit(&self, edits: impl IntoIterator<Item = (SetName, EntryPath, Edit)>) -> Result<Self, TreeError> {
        let mut sets = self.sets.clone();
        let mut edits = edits.into_iter().peekable();
        while let Some((name, path, edit)) = edits.next() {
            let mut group = vec![(path, edit)];
            while let Some((_, path, edit)) = edits.next_if(|(set, ..)| *set == name) {
                if group.last().is_some_and(|(before, _)| *before >= path) {
                    return Err(TreeError::Order { set: name, path });
                }
                group.push((path, edit));
            }
            if group.len() as u64 > limits::ENTRIES {
                return Err(TreeError::TooMany);
            }
            let set = sets.iter_mut().find(|set| set.rules.name == name).ok_or(TreeError::NoSet(name.clone()))?;
            let old = set.root.take().map(Node::Directory);
            set.root = match rebuild(&name, 0, old.as_ref(), group)? {
                None => None,
                Some(Node::Directory(dir)) => Some(dir),
                Some(Node::File { .. } | Node::Link { .. }) => return Err(TreeError::Root(name)),
            };
        }
        Ok(Self { sets })
    }
}

/// The node that `edits` make of `old`; all of them are at or below the path of their first `at` bytes.
fn rebuild(
    set: &SetName,
    at: usize,
    old: Option<&Node>,
    edits: Vec<(EntryPath, Edit)>,
) -> Result<Option<Node>, TreeError> {
    let mut edits = edits.into_iter().peekable();
    let here = edits.next_if(|(path, _)| path.as_bytes().len() == at);
    let now = match here {
        None => old.cloned(),
        Some((path, Edit::Remove)) if old.is_none() => return Err(TreeError::Missing { set: set.clone(), path }),
        Some((_, Edit::Remove)) => None,
        Some((_, Edit::Put(node))) => Some(node),
        Some((_, Edit::Directory(meta))) => {
            let children = old.and_then(Node::directory).map(|dir| dir.children.clone()).unwrap_or_default();
            if edits.peek().is_none() {
                return Ok(Some(Node::Directory(Arc::new(Dir::new(meta, children)))));
            }
            // Hashed below, once, with the children's edits.
            return Ok(Some(merge(set, at, &meta, &children, edits)?));
        }
    };
    match (now, edits.peek()) {
        (now, None) => Ok(now),
        (Some(Node::Directory(dir)), Some(_)) => Ok(Some(merge(set, at, &dir.meta, &dir.children, edits)?)),
        (_, Some((path, _))) => Err(TreeError::Orphan { set: set.clone(), path: path.clone() }),
    }
}

/// A directory of `meta` whose `children` are edited; every edit is below the path of `at` bytes.
fn merge(
    set: &SetName,
    at: usize,
    meta: &Meta,
    children: &[Child],
    mut edits: std::iter::Peekable<std::vec::IntoIter<(EntryPath, Edit)>>,
) -> Result<Node, TreeError> {
    let start = if at == 0 { 0 } else { at + 1 };
    let mut merged = Vec::with_capacity(children.len() + 1);
    let mut olds = children.iter().peekable();
    while let Some((path, edit)) = edits.next() {
        let name = path.as_bytes()[start..].split(|&b| b == b'/').next().unwrap_or_default().to_vec();
        while let Some(old) = olds.next_if(|old| *old.name < *name) {
            merged.push(old.clone());
        }
        let old = olds.next_if(|old| *old.name == *name);
        let below = |path: &EntryPath| {
            let rest = &path.as_bytes()[start..];
            rest.starts_with(&name) && matches!(rest.get(name.len()), None | Some(b'/'))
        };
        let mut group = vec![(path, edit)];
        while let Some(next) = edits.next_if(|(path, _)| below(path)) {
            group.push(next);
        }
        if let Some(node) = rebuild(set, start + name.len(), old.map(|old| &old.node), group)? {
            merged.push(Child { name: name.into(), node });
        }
    }
    merged.extend(olds.cloned());
    Ok(Node::Directory(Arc::new(Dir::new(meta.clone(), merged.into()))))
}

fn visit_node(path: &EntryPath, node: &Node, visit: &mut dyn FnMut(&EntryPath, &Node)) {
    visit(path, node);
    if let Node::Directory(dir) = node {
        for child in dir.children() {
            visit_node(&path.join(&child.name), &child.node, visit);
        }
    }
}

fn diff_node(
    path: &EntryPath,
    old: Option<&Node>,
    new: Option<&Node>,
    emit: &mut dyn FnMut(&EntryPath, Option<Entry>),
) {
    match (old, new) {
        (None, None) => {}
        (Some(_), None) => emit(path, None),
        (None, Some(new)) => visit_node(path, new, &mut |path, node| emit(path, Some(node.entry()))),
        (Some(Node::Directory(old)), Some(Node::Directory(new))) => {
            if Arc::ptr_eq(old, new) || old.hash == new.hash {
                return;
            }
            if old.meta != new.meta {
                emit(path, Some(Entry { meta: new.meta.clone(), kind: Kind::Directory }));
            }
            diff_children(path, &old.children, &new.children, emit);
        }
        (Some(old), Some(new)) if old.same(new) => {}
        (Some(_), Some(new)) => visit_node(path, new, &mut |path, node| emit(path, Some(node.entry()))),
    }
}

fn diff_children(path: &EntryPath, old: &[Child], new: &[Child], emit: &mut dyn FnMut(&EntryPath, Option<Entry>)) {
    let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let old = if order.is_le() { olds.next() } else { None };
        let new = if order.is_ge() { news.next() } else { None };
        let Some(name) = old.or(new).map(|child| &child.name) else { return };
        let same = matches!((old, new), (Some(o), Some(n)) if o.node.same(&n.node));
        if !same {
            diff_node(&path.join(name), old.map(|c| &c.node), new.map(|c| &c.node), emit);
        }
    }
}
