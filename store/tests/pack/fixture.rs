//! A set on disk, a small scanner for it, and packs of its content.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{
    entry::{Chunk, Content, Kind, Meta, Owner},
    hash::Hash,
    key::KeyPair,
    record::{Codec, SetRules},
    revision::{Epoch, Header, Number, RevisionId, SignedHeader},
};
use bellwether_store::{
    history::{History, NewPack, Packs, Stored},
    pack::{self, Contents, Frame, Head, Outlines, PackError, Patch, Reader},
    scan::Source,
    tree::{Change, Child, Dir, Node, SetTree, Stat, Tree},
};
use bytes::Bytes;

/// One set named `web` in its own directory.
pub(crate) struct Site {
    directory: tempfile::TempDir,
    pub(crate) rules: Vec<Arc<SetRules>>,
    pub(crate) sources: Vec<Source>,
    key: KeyPair,
    /// The cache for patches, if increments may have them.
    pub(crate) outlines: Option<Outlines>,
    /// The packs with the chunks that the files no longer hold.
    pub(crate) history: Option<Packs>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rules = Arc::new(SetRules::new("web".parse().unwrap()));
        let path = directory.path().join("web");
        fs::create_dir(&path).unwrap();
        let sources = vec![Source::new(rules.clone(), path)];
        Self { directory, rules: vec![rules], sources, key: KeyPair::generate(), outlines: None, history: None }
    }

    /// From now on, chunks are remembered, and increments have patches where these are shorter.
    pub(crate) fn remember(&mut self) {
        self.outlines = Some(Outlines::open(&self.directory.path().join("outlines"), 1_000).unwrap());
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.sources[0].path.join(path)
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The directory of a history.
    pub(crate) fn history(&self) -> PathBuf {
        self.directory.path().join("history")
    }

    /// The present content of the set.
    pub(crate) fn scan(&self) -> Tree {
        let root = Node::Directory(Arc::new(scan_directory(&self.sources[0].path)));
        Tree::new(vec![SetTree { rules: self.rules[0].clone(), root: root.directory().cloned() }])
    }

    pub(crate) fn header(&self, parent: Option<&SignedHeader>, root: Hash) -> SignedHeader {
        self.header_in(1, parent, root)
    }

    pub(crate) fn header_in(&self, epoch: u64, parent: Option<&SignedHeader>, root: Hash) -> SignedHeader {
        let sequence = parent.map_or(1, |parent| parent.number().sequence + 1);
        let header = Header {
            group: [7; 16].into(),
            number: Number { epoch: Epoch(epoch), sequence },
            parent: parent.map(SignedHeader::id),
            manager: "web1".parse().unwrap(),
            incarnation: 1,
            time_ms: 1_700_000_000_000,
            author: "somebody".into(),
            message: String::new(),
            labels: Default::default(),
            root,
        };
        SignedHeader::sign(header, &self.key)
    }

    /// The pack of `header` from `parent` to `tree`; a base if the parent is an empty tree.
    pub(crate) fn pack(&self, header: &SignedHeader, parent: &Tree, tree: &Tree) -> Result<Vec<u8>, PackError> {
        self.pack_as(header, parent, tree, Codec::default())
    }

    pub(crate) fn pack_as(
        &self,
        header: &SignedHeader,
        parent: &Tree,
        tree: &Tree,
        codec: Codec,
    ) -> Result<Vec<u8>, PackError> {
        let mut bytes = Vec::new();
        let changes = parent.diff(tree);
        let contents = Contents {
            header,
            base: parent.sets().is_empty(),
            parent,
            rules: &self.rules,
            changes: &changes,
            sources: &self.sources,
            history: self.history.as_ref(),
            codec,
            outlines: self.outlines.as_ref(),
        };
        let size = pack::write(&contents, &mut bytes)?;
        assert_eq!(size, bytes.len() as u64);
        Ok(bytes)
    }
}

/// A line of revisions in a history, each made by writing a file.
pub(crate) struct Line {
    pub(crate) site: Site,
    pub(crate) history: History,
    pub(crate) head: Option<(SignedHeader, Tree)>,
}

impl Line {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        let history = History::open(&site.history()).unwrap();
        Self { site, history, head: None }
    }

    /// Publishes the content of the set: a base first, and increments after it.
    pub(crate) fn publish(&mut self) -> Arc<Stored> {
        let tree = self.site.scan();
        let parent = self.head.take();
        let header = self.site.header(parent.as_ref().map(|(header, _)| header), tree.root());
        let before = parent.map(|(_, tree)| tree).unwrap_or_default();
        let bytes = self.site.pack(&header, &before, &tree).unwrap();
        self.head = Some((header, tree));
        self.commit(&bytes)
    }

    /// Writes a file and publishes.
    pub(crate) fn edit(&mut self, path: &str, bytes: impl AsRef<[u8]>) -> Arc<Stored> {
        self.site.write(path, bytes);
        self.publish()
    }

    /// A base for the head.
    pub(crate) fn base(&mut self) -> Arc<Stored> {
        let (header, tree) = self.head.as_ref().unwrap();
        let bytes = self.site.pack(header, &Tree::default(), tree).unwrap();
        self.commit(&bytes)
    }

    pub(crate) fn commit(&mut self, bytes: &[u8]) -> Arc<Stored> {
        let new = new_pack(&self.history, bytes);
        self.history.commit(new).unwrap()
    }

    /// Closes the history and opens it again.
    pub(crate) fn reopen(&mut self) {
        self.history = History::open(&self.site.history()).unwrap();
    }

    pub(crate) fn head_id(&self) -> RevisionId {
        self.head.as_ref().unwrap().0.id()
    }
}

pub(crate) fn new_pack(history: &History, bytes: &[u8]) -> NewPack {
    let mut new = history.create();
    std::io::Write::write_all(&mut new, bytes).unwrap();
    new
}

/// The bytes of a stored pack.
pub(crate) fn bytes_of(stored: &Stored) -> Vec<u8> {
    let bytes = fs::read(&stored.path).unwrap();
    bytes[stored.at as usize..][..stored.size as usize].to_vec()
}

/// The content of a pack.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) head: Option<Head>,
    pub(crate) changes: Vec<Change>,
    pub(crate) chunks: Vec<(Chunk, Bytes)>,
    pub(crate) patches: Vec<Patch>,
    pub(crate) ended: bool,
}

impl Unpacked {
    pub(crate) fn add(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            match frame {
                Frame::Head(head) => self.head = Some(*head),
                Frame::Changes(list) => self.changes.extend(list),
                Frame::Chunks(list) => self.chunks.extend(list),
                Frame::Patches(list) => self.patches.extend(list),
                Frame::End => self.ended = true,
            }
        }
    }

    pub(crate) fn tree(&self, parent: &Tree) -> Tree {
        parent.with_rules(&self.head.as_ref().unwrap().rules).apply(self.changes.clone()).unwrap()
    }
}

/// Reads a pack in pieces of `size` bytes.
pub(crate) fn unpack_in(pack: &[u8], size: usize) -> Result<Unpacked, PackError> {
    let (mut reader, mut unpacked) = (Reader::default(), Unpacked::default());
    for piece in pack.chunks(size) {
        unpacked.add(reader.push(piece)?);
    }
    Ok(unpacked)
}

pub(crate) fn unpack(pack: &[u8]) -> Result<Unpacked, PackError> {
    unpack_in(pack, 256 << 10)
}

/// The chunks that a tree's files consist of.
pub(crate) fn chunks_of(tree: &Tree) -> HashMap<Hash, Chunk> {
    let mut chunks = HashMap::new();
    tree.visit(&mut |_, _, node| {
        if let Kind::File(content) = node.entry().kind {
            chunks.extend(content.chunks().iter().map(|chunk| (chunk.hash, *chunk)));
        }
    });
    chunks
}

/// A file's content, cut like in the format.
pub(crate) fn content(bytes: &[u8]) -> Content {
    let cuts = fastcdc::v2020::FastCDC::new(bytes, 16 << 10, 64 << 10, 256 << 10);
    cuts.map(|cut| {
        let bytes = &bytes[cut.offset..][..cut.length];
        Chunk { hash: Hash::of(bytes), length: cut.length as u32 }
    })
    .collect()
}

pub(crate) fn meta(mode: u16) -> Meta {
    let owner = Arc::new(Owner { user: "root".into(), group: "root".into() });
    Meta { mode, owner, mtime: 0, xattrs: None }
}

fn scan_directory(path: &Path) -> Dir {
    let mut children: Vec<Child> = fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_encoded_bytes().into_boxed_slice();
            let kind = entry.file_type().unwrap();
            let node = if kind.is_dir() {
                Node::Directory(Arc::new(scan_directory(&entry.path())))
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes();
                Node::Link { meta: meta(0o777), target: target.into(), stat: Stat::UNKNOWN }
            } else {
                let content = content(&fs::read(entry.path()).unwrap());
                Node::File { meta: meta(0o644), content, stat: Stat::UNKNOWN }
            };
            Child { name, node }
        })
        .collect();
    children.sort_by(|a, b| a.name.cmp(&b.name));
    Dir::new(meta(0o755), children.into())
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
