//! Encodes an index: each directory after its entries, so that neither direction needs recursion.

use std::{collections::HashMap, sync::Arc};

use bellwether_proto::{
    entry::{Content, Meta, Owner},
    record::SetRules,
};

use crate::tree::{Dir, Node, Stat, Tree};

pub(super) const DIRECTORY: u8 = 1;
pub(super) const FILE: u8 = 2;
pub(super) const LINK: u8 = 3;
pub(super) const END: u8 = 0;

#[derive(Default)]
pub(super) struct Writer {
    out: Vec<u8>,
    owners: HashMap<Arc<Owner>, u32>,
}

impl Writer {
    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Bytes after their length. (All of them are far shorter than 4 GiB.)
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    pub(super) fn tree(&mut self, tree: &Tree) {
        self.u32(tree.sets().len() as u32);
        for set in tree.sets() {
            self.rules(&set.rules);
            if let Some(root) = &set.root {
                self.directory(root);
            }
            self.raw(&[END]);
        }
    }

    fn rules(&mut self, rules: &SetRules) {
        self.bytes(rules.name.as_str().as_bytes());
        for list in [&rules.exclude, &rules.local] {
            self.u32(list.len() as u32);
            for pattern in list {
                self.bytes(pattern.as_bytes());
            }
        }
        self.raw(&[rules.allow_setuid.into(), rules.allow_capabilities.into()]);
    }

    /// A root with its entries; its name is empty.
    fn directory(&mut self, root: &Dir) {
        let mut open: Vec<(&[u8], &Dir, usize)> = vec![(b"", root, 0)];
        while let Some((name, dir, next)) = open.pop() {
            let Some(child) = dir.children().get(next) else {
                self.raw(&[DIRECTORY]).bytes(name).meta(dir.meta()).u32(dir.children().len() as u32);
                continue;
            };
            open.push((name, dir, next + 1));
            match &child.node {
                Node::Directory(below) => open.push((&child.name, below, 0)),
                Node::File { meta, content, stat } => {
                    self.raw(&[FILE]).bytes(&child.name).meta(meta).stat(stat).content(content);
                }
                Node::Link { meta, target, stat } => {
                    self.raw(&[LINK]).bytes(&child.name).meta(meta).stat(stat).bytes(target);
                }
            }
        }
    }

    fn meta(&mut self, meta: &Meta) -> &mut Self {
        self.raw(&meta.mode.to_le_bytes()).raw(&meta.mtime.to_le_bytes()).owner(&meta.owner);
        let xattrs = meta.xattrs.as_deref().map_or(&[][..], |list| list);
        self.u32(xattrs.len() as u32);
        for (name, value) in xattrs {
            self.bytes(name).bytes(value);
        }
        self
    }

    /// Its number among the owners so far; a new one is followed by its names.
    fn owner(&mut self, owner: &Arc<Owner>) {
        let new = self.owners.len() as u32;
        let number = *self.owners.entry(owner.clone()).or_insert(new);
        self.u32(number);
        if number == new {
            self.bytes(owner.user.as_bytes()).bytes(owner.group.as_bytes());
        }
    }

    fn stat(&mut self, stat: &Stat) -> &mut Self {
        self.u64(stat.inode).raw(&stat.ctime.to_le_bytes()).u32(stat.ctime_ns).u32(stat.mtime_ns)
    }

    fn content(&mut self, content: &Content) {
        self.u32(content.chunks().len() as u32);
        for chunk in content.chunks() {
            self.raw(chunk.hash.as_bytes()).u32(chunk.length);
        }
    }
}
