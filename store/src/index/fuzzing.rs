//! Entry points for fuzzing the decoder of the index (`fuzz/`).

use std::sync::Arc;

use bellwether_proto::{entry::EntryPath, hash::Hash, record::SetRules};

use super::{CHECKSUM, MAGIC, VERSION, from_bytes, to_bytes};
use crate::tree::Tree;

/// Decodes the body of an index, with a valid frame, and encodes it again. Returns whether it was accepted.
pub fn index(body: &[u8]) -> bool {
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), body].concat();
    let checksum = Hash::of(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    let Ok((tree, boot)) = from_bytes(&bytes) else { return false };
    tree.visit(&mut |_, path, _| assert!(EntryPath::new(path.as_bytes()).is_ok()));
    let (again, _) = from_bytes(&to_bytes(&tree, &boot)).expect("what was written is read");
    assert_eq!(again.root(), tree.root());
    true
}

/// The seeds.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(home.path().join("d")).expect("made");
    std::fs::write(home.path().join("d/file"), "content").expect("written");
    std::os::unix::fs::symlink("file", home.path().join("d/link")).expect("made");
    let rules = Arc::new(SetRules::new("nginx".parse().expect("a name")));
    let source = crate::scan::Source::new(rules.clone(), home.path().to_owned());
    let empty = Tree::empty([rules]);
    let full = crate::scan::scan(&[source], &empty, &crate::scan::Look::Bytes).expect("scanned").tree;
    let body = |tree: &Tree| {
        let bytes = to_bytes(tree, b"boot");
        bytes[MAGIC.len() + 4..bytes.len() - CHECKSUM].to_vec()
    };
    vec![("index", vec![body(&empty), body(&full)])]
}
