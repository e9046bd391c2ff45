//! Decodes an index. Every field is checked despite the checksum, and no memory is reserved beyond the input's length.

use std::sync::Arc;

use bellwether_proto::{
    Malformed,
    entry::{Chunk, Content, Meta, Owner, Owners, Xattrs, check_component, xattr_travels},
    hash::Hash,
    limits,
    record::SetRules,
};

use super::encode::{DIRECTORY, END, FILE, LINK};
use crate::tree::{Child, Dir, Node, SetTree, Stat, Tree};

type Read<T> = Result<T, Malformed>;

pub(super) struct Reader<'a> {
    rest: &'a [u8],
    owners: Vec<Arc<Owner>>,
    known: Owners,
}

/// An entry whose directory has not come yet.
struct Loose {
    child: Child,
    /// Bytes of the longest path from here downwards.
    longest: usize,
}

fn damaged<T>(what: impl Into<String>) -> Read<T> {
    Err(Malformed::new(what))
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest, owners: Vec::new(), known: Owners::default() }
    }

    pub(super) fn end(&self) -> Read<()> {
        if self.rest.is_empty() { Ok(()) } else { damaged("bytes after its end") }
    }

    pub(super) fn raw(&mut self, length: usize) -> Read<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else { return damaged("it is cut short") };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else { return damaged("it is cut short") };
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i64(&mut self) -> Read<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn u8(&mut self) -> Read<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn bytes(&mut self) -> Read<&'a [u8]> {
        let length = self.u32()?;
        self.raw(length as usize)
    }

    fn text(&mut self) -> Read<&'a str> {
        std::str::from_utf8(self.bytes()?).or_else(|_| damaged("text that is not UTF-8"))
    }

    pub(super) fn tree(&mut self) -> Read<Tree> {
        let sets = (0..self.u32()?).map(|_| Ok(SetTree { rules: Arc::new(self.rules()?), root: self.root()? }));
        let sets = sets.collect::<Read<Vec<_>>>()?;
        if !sets.is_sorted_by(|a, b| a.rules.name < b.rules.name) {
            return damaged("sets that are not in order");
        }
        Ok(Tree::new(sets))
    }

    fn rules(&mut self) -> Read<SetRules> {
        let mut rules = SetRules::new(self.text()?.parse()?);
        for list in [&mut rules.exclude, &mut rules.local] {
            for _ in 0..self.u32()? {
                list.push(self.text()?.to_owned());
            }
        }
        rules.allow_setuid = self.u8()? != 0;
        rules.allow_capabilities = self.u8()? != 0;
        Ok(rules)
    }

    /// A root with its entries; none for a set without one.
    fn root(&mut self) -> Read<Option<Arc<Dir>>> {
        let mut loose: Vec<Loose> = Vec::new();
        loop {
            let (node, name, below) = match self.u8()? {
                END => break,
                DIRECTORY => self.directory(&mut loose)?,
                FILE => {
                    let (name, meta, stat) = (self.bytes()?, self.meta()?, self.stat()?);
                    (Node::File { meta, content: self.content()?, stat }, name, None)
                }
                LINK => {
                    let (name, meta, stat) = (self.bytes()?, self.meta()?, self.stat()?);
                    (Node::Link { meta, target: self.target()?, stat }, name, None)
                }
                other => return damaged(format!("an entry of kind {other}")),
            };
            let longest = name.len() + below.map_or(0, |below| 1 + below);
            loose.push(Loose { child: Child { name: name.into(), node }, longest });
        }
        match (loose.pop(), loose.is_empty()) {
            (None, _) => Ok(None),
            (Some(Loose { child: Child { name, node: Node::Directory(root) }, .. }), true) if name.is_empty() => {
                Ok(Some(root))
            }
            (Some(_), _) => damaged("an entry outside its root"),
        }
    }

    /// Reads a directory, which takes the last loose entries, and the longest path below it.
    fn directory(&mut self, loose: &mut Vec<Loose>) -> Read<(Node, &'a [u8], Option<usize>)> {
        let (name, meta, count) = (self.bytes()?, self.meta()?, self.u32()?);
        let Some(first) = loose.len().checked_sub(count as usize) else {
            return damaged("a directory that holds more than there is");
        };
        let below = loose[first..].iter().map(|entry| entry.longest).max();
        if below.is_some_and(|below| below > limits::PATH) {
            return damaged("a path that is too long");
        }
        let children: Box<[Child]> = loose.drain(first..).map(|entry| entry.child).collect();
        for child in &children {
            check_component(&child.name)?;
        }
        if !children.is_sorted_by(|a, b| a.name < b.name) {
            return damaged("entries that are not in order");
        }
        Ok((Node::Directory(Arc::new(Dir::new(meta, children))), name, below))
    }

    fn meta(&mut self) -> Read<Meta> {
        let mode = u16::from_le_bytes(self.array()?);
        if mode & !0o7777 != 0 {
            return damaged(format!("mode {mode:o}"));
        }
        Ok(Meta { mode, mtime: self.i64()?, owner: self.owner()?, xattrs: self.xattrs()? })
    }

    fn owner(&mut self) -> Read<Arc<Owner>> {
        let number = self.u32()? as usize;
        if number == self.owners.len() {
            let (user, group) = (self.text()?, self.text()?);
            let owner = self.known.get(user, group)?;
            self.owners.push(owner);
        }
        self.owners.get(number).cloned().ok_or_else(|| Malformed::new("an owner that was not named"))
    }

    fn xattrs(&mut self) -> Read<Option<Box<Xattrs>>> {
        let pairs = (0..self.u32()?).map(|_| Ok((self.bytes()?.into(), self.bytes()?.into())));
        let list = pairs.collect::<Read<Xattrs>>()?;
        if !list.is_sorted_by(|(a, _), (b, _)| a < b) || list.iter().any(|(name, _)| !xattr_travels(name)) {
            return damaged("extended attributes that no entry has");
        }
        Ok((!list.is_empty()).then(|| Box::new(list)))
    }

    fn stat(&mut self) -> Read<Stat> {
        let inode = u64::from_le_bytes(self.array()?);
        Ok(Stat { inode, ctime: self.i64()?, ctime_ns: self.u32()?, mtime_ns: self.u32()? })
    }

    fn content(&mut self) -> Read<Content> {
        let chunks = (0..self.u32()?).map(|_| {
            let (hash, length) = (Hash::from(self.array::<32>()?), self.u32()?);
            if length == 0 || length as usize > limits::CHUNK {
                return damaged(format!("a chunk of {length} bytes"));
            }
            Ok(Chunk { hash, length })
        });
        chunks.collect()
    }

    fn target(&mut self) -> Read<Box<[u8]>> {
        let target = self.bytes()?;
        if target.is_empty() || target.len() > limits::LINK || target.contains(&0) {
            return damaged("a link that leads nowhere");
        }
        Ok(target.into())
    }
}
