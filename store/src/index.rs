//! The persisted index: a tree with its stats, so that an unchanged tree is not read again after a restart.
//!
//! The index is only a cache: if it is damaged, the sets are scanned anew. The format (numbers little-endian):
//!
//! ```text
//! magic, 16 bytes | version, u32 | boot id | sets | BLAKE3 of all before, 32 bytes
//! ```

mod decode;
mod encode;
#[cfg(fuzzing)]
pub mod fuzzing;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use bellwether_proto::{Malformed, hash::Hash, record::SetRules};

use crate::{boot, tree::Tree};

const MAGIC: &[u8; 16] = b"bellwether index";
/// Counts up when the format, or its content, changes.
const VERSION: u32 = 1;
const CHECKSUM: usize = 32;

/// The content of the index.
#[derive(Debug)]
pub struct Loaded {
    /// The sets as they were known, under their rules at that time: a scan finds the changes.
    pub tree: Tree,
    /// Whether the kernel has run since. After another start, or if that is unknown, stats may be wrong (a restored
    /// disk, a power loss before a write reached it): every byte has to be read ([`Look::Bytes`](crate::scan::Look)).
    pub same_boot: bool,
}

/// An index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The system's error; also if there is no index yet.
    #[error("cannot read the index")]
    Io(#[from] io::Error),
    /// The format is later than this program's.
    #[error("the index was made by a newer bellwether (format {0}; this program reads {VERSION})")]
    Newer(u32),
    /// The content is not the written one, or of an earlier format.
    #[error("the index is damaged")]
    Damaged(#[from] Malformed),
}

/// Replaces the index in `path` (mode 0600) without fsync: after a power loss there may be none.
///
/// # Errors
/// It cannot be written; the one before is unchanged.
pub fn save(path: &Path, tree: &Tree) -> io::Result<()> {
    let bytes = to_bytes(tree, &boot::id().into_bytes());
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    fs::rename(&new, path)
}

/// Loads the index in `path`, with the sets that `rules` name. None if it cannot be used; the reason is logged.
pub fn load(path: &Path, rules: &[Arc<SetRules>]) -> Option<Loaded> {
    match read(path, rules) {
        Ok(loaded) => Some(loaded),
        Err(IndexError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "everything is scanned anew");
            None
        }
    }
}

/// As [`load`], with the reason.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn read(path: &Path, rules: &[Arc<SetRules>]) -> Result<Loaded, IndexError> {
    let (tree, boot) = from_bytes(&fs::read(path)?)?;
    let sets = tree.sets().iter().filter_map(|set| {
        let now = rules.iter().find(|now| now.name == set.rules.name)?;
        let mut set = set.clone();
        if *now == set.rules {
            set.rules = now.clone();
        }
        Some(set)
    });
    let now = boot::id().into_bytes();
    Ok(Loaded { tree: Tree::new(sets.collect()), same_boot: !now.is_empty() && now == boot })
}

fn to_bytes(tree: &Tree, boot: &[u8]) -> Vec<u8> {
    let mut out = encode::Writer::default();
    out.raw(MAGIC).u32(VERSION).bytes(boot);
    out.tree(tree);
    let mut bytes = out.finish();
    let checksum = Hash::of(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The tree, and the boot id at its writing.
fn from_bytes(bytes: &[u8]) -> Result<(Tree, Vec<u8>), IndexError> {
    let damaged = |what: &str| Malformed::new(what);
    let body = bytes.len().checked_sub(CHECKSUM).ok_or_else(|| damaged("it is cut short"))?;
    let (body, checksum) = bytes.split_at(body);
    let mut input = decode::Reader::new(body);
    if input.raw(MAGIC.len())? != MAGIC {
        return Err(damaged("it is not an index").into());
    }
    let version = input.u32()?;
    if version > VERSION {
        return Err(IndexError::Newer(version));
    }
    if version != VERSION {
        return Err(Malformed::new(format!("it is of format {version}; this program writes {VERSION}")).into());
    }
    if Hash::of(body).as_bytes() != checksum {
        return Err(damaged("its checksum does not match").into());
    }
    let boot = input.bytes()?.to_vec();
    let tree = input.tree()?;
    input.end()?;
    Ok((tree, boot))
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        entry::{Chunk, Content, Meta, Owner},
        name::SetName,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Child, Dir, Node, SetTree, Stat};

    fn meta(mode: u16, mtime: i64, xattr: Option<&[u8]>) -> Meta {
        let owner = Arc::new(Owner { user: "root".into(), group: mode.to_string().into() });
        let xattrs = xattr.map(|value| {
            let list: bellwether_proto::entry::Xattrs = [(b"user.x"[..].into(), value.into())].into();
            Box::new(list)
        });
        Meta { mode, owner, mtime, xattrs }
    }

    fn leaf() -> impl Strategy<Value = Node> {
        let stat = (any::<u64>(), any::<i64>(), any::<u32>(), any::<u32>())
            .prop_map(|(inode, ctime, ctime_ns, mtime_ns)| Stat { inode, ctime, ctime_ns, mtime_ns });
        let chunk = (any::<[u8; 32]>(), 1u32..=1 << 20).prop_map(|(hash, length)| Chunk { hash: hash.into(), length });
        let content = proptest::collection::vec(chunk, 0..4).prop_map(Content::from_iter);
        let link = proptest::collection::vec(1u8.., 1..9);
        let xattr = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9));
        (stat, content, link, xattr, 0u16..=0o7777, any::<i64>(), any::<bool>()).prop_map(
            |(stat, content, target, xattr, mode, mtime, is_link)| {
                let meta = meta(mode, mtime, xattr.as_deref());
                if is_link {
                    return Node::Link { meta, target: target.into(), stat };
                }
                Node::File { meta, content, stat }
            },
        )
    }

    fn directory(children: std::collections::BTreeMap<Vec<u8>, Node>) -> Arc<Dir> {
        let children = children.into_iter().map(|(name, node)| Child { name: name.into(), node }).collect();
        Arc::new(Dir::new(meta(0o755, 0, None), children))
    }

    fn root() -> impl Strategy<Value = Arc<Dir>> {
        let name = || proptest::string::bytes_regex("[^/.\\x00]{1,6}").unwrap();
        let node = leaf().prop_recursive(4, 24, 5, move |node| {
            proptest::collection::btree_map(name(), node, 0..5).prop_map(|map| Node::Directory(directory(map)))
        });
        proptest::collection::btree_map(name(), node, 0..5).prop_map(directory)
    }

    fn tree(roots: Vec<Option<Arc<Dir>>>) -> Tree {
        let set = |(at, root)| {
            let mut rules = SetRules::new(format!("set{at}").parse::<SetName>().unwrap());
            rules.exclude = vec!["*.log".to_owned()];
            SetTree { rules: Arc::new(rules), root }
        };
        Tree::new(roots.into_iter().enumerate().map(set).collect())
    }

    fn rules(tree: &Tree) -> Vec<Arc<SetRules>> {
        tree.sets().iter().map(|set| set.rules.clone()).collect()
    }

    /// Stats are not hashed, so the text of everything is compared.
    fn text(tree: &Tree) -> String {
        format!("{tree:?}")
    }

    proptest! {
        #[test]
        fn what_was_saved_is_loaded(roots in proptest::collection::vec(proptest::option::of(root()), 0..3)) {
            let directory = tempfile::tempdir().unwrap();
            let (path, tree) = (directory.path().join("index"), tree(roots));
            save(&path, &tree).unwrap();
            let loaded = read(&path, &rules(&tree)).unwrap();
            prop_assert_eq!(text(&loaded.tree), text(&tree));
            prop_assert_eq!(loaded.tree.root(), tree.root());
            prop_assert_eq!(loaded.same_boot, !boot::id().into_bytes().is_empty());
        }

        #[test]
        fn a_damaged_index_is_refused(root in root(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = to_bytes(&tree(vec![Some(root)]), b"boot");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(from_bytes(&bytes).is_err());
            prop_assert!(from_bytes(&bytes[..at]).is_err());
        }

        #[test]
        fn a_lying_index_is_no_panic(
            root in root(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = to_bytes(&tree(vec![Some(root)]), b"boot");
            let body = bytes.len() - CHECKSUM;
            for (at, byte) in edits {
                bytes[at.index(body)] = byte;
            }
            let checksum = Hash::of(&bytes[..body]);
            bytes[body..].copy_from_slice(checksum.as_bytes());
            if let Ok((tree, _)) = from_bytes(&bytes) {
                tree.visit(&mut |_, path, _| assert!(bellwether_proto::entry::EntryPath::new(path.as_bytes()).is_ok()));
            }
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("index");
            fs::write(&path, bytes).unwrap();
            prop_assert!(load(&path, &[]).is_none());
        }
    }

    #[test]
    fn another_boot_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        fs::write(&path, to_bytes(&Tree::default(), b"another boot")).unwrap();
        assert!(!load(&path, &[]).unwrap().same_boot);
    }

    #[test]
    fn sets_keep_the_rules_they_were_scanned_under() {
        let directory = tempfile::tempdir().unwrap();
        let (path, saved) = (directory.path().join("index"), tree(vec![None, None]));
        save(&path, &saved).unwrap();
        let mut changed = (*rules(&saved)[0]).clone();
        changed.exclude.clear();
        let new = SetRules::new("new".parse().unwrap());
        let loaded = load(&path, &[Arc::new(changed), Arc::new(new)]).unwrap();
        assert_eq!(rules(&loaded.tree), rules(&saved)[..1]);
    }

    #[test]
    fn none_yet_is_none() {
        assert!(load(Path::new("/nonexistent/index"), &[]).is_none());
    }
}
