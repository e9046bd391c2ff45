//! The differences on this server, path by path.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    path::Path,
};

use bellwether_member::{Looked, SetPath, selected};
use bellwether_proto::{
    entry::{Content, Entry, Kind},
    hash::Hash,
    limits, v1,
};
use bellwether_store::{
    beneath::Root,
    scan::Source,
    secret::SecretPaths,
    tree::{Change, Dir, Node},
};
use bytes::Bytes;

use super::{points, text};

/// The most bytes of a file that is shown as a diff.
const FILE: u64 = 512 << 10;
/// The reason why a large content is not shown.
pub(crate) const TOO_LARGE: &str = "too large for a diff: the limit is 512 KiB";
/// The reason why the content of a file that somebody writes is not shown.
pub(crate) const CHANGED: &str = "it changed while it was read";
/// The reason why the content of a secret file is not shown.
pub const SECRET: &str = "content is secret";
/// The most bytes of all files that are read for diffs.
const READ: u64 = 16 << 20;
/// The most bytes of one diff.
const ONE: usize = 64 << 10;

/// The old and the new text.
pub(crate) type Texts = (Vec<u8>, Vec<u8>);

/// The differences at `places` (none: everywhere), up to an answer's limits, and the kept copies. The content of `secrets` is
/// not shown. Blocks.
pub(crate) fn server_drift(
    looked: &Looked,
    places: &[SetPath],
    secrets: &SecretPaths,
    recovery: &Path,
) -> v1::ServerDrift {
    let edits = selected(looked.edits.clone(), places);
    let listed = &edits[..edits.len().min(limits::DRIFT.0)];
    let before = old_contents(looked, listed);
    let mut left = limits::DRIFT.1;
    let first = listed.iter().map(|edit| entry(looked, edit, secrets, &before, &mut left)).collect();
    let (points, points_total) = points::newest(recovery);
    v1::ServerDrift {
        server: String::new(),
        revision: looked.at.number().to_string(),
        entries: edits.len() as u64,
        first,
        policy: looked.policy.word().to_owned(),
        held: looked.held,
        points,
        points_total,
        error: String::new(),
    }
}

fn entry(
    looked: &Looked,
    edit: &Change,
    secrets: &SecretPaths,
    old: &HashMap<Hash, Bytes>,
    left: &mut usize,
) -> v1::DriftEntry {
    let before = looked.tree.get(&edit.set, &edit.path);
    let name = format!("{}:{}", edit.set, edit.path);
    let old_name = format!("{name} at {}", looked.at.number());
    let shown = shown(looked, edit, secrets, before.as_ref(), old);
    let entry = described((before.as_ref(), edit), shown, (&old_name, &name), *left);
    *left -= entry.diff.len();
    entry
}

/// An entry that differs: the node before and the edit of it; the texts, or the reason why they are not shown (none: there
/// is no content to show); their names; the most bytes of its diff.
pub(crate) fn described(
    (before, edit): (Option<&Node>, &Change),
    shown: Option<Result<Texts, &'static str>>,
    (old_name, name): (&str, &str),
    most: usize,
) -> v1::DriftEntry {
    let kinds = kinds(before.map(Node::entry).as_ref(), edit.entry.as_ref());
    let (diff, note) = match shown {
        None => (String::new(), note(before, &kinds)),
        Some(Err(why)) => (String::new(), why.to_owned()),
        Some(Ok((before, now))) => {
            let text::Diff { text, cut } = text::diff((old_name, &before), (name, &now), ONE.min(most));
            let note = if cut { "the rest of the diff is not shown" } else { "" };
            (text, note.to_owned())
        }
    };
    v1::DriftEntry {
        set: edit.set.to_string(),
        path: Bytes::copy_from_slice(edit.path.as_bytes()),
        kinds: kinds.into_iter().map(str::to_owned).collect(),
        before: before.map(|node| side(&node.entry())),
        now: edit.entry.as_ref().map(side),
        diff,
        note,
    }
}

fn kinds(before: Option<&Entry>, now: Option<&Entry>) -> Vec<&'static str> {
    let (before, now) = match (before, now) {
        (None, _) => return vec!["added"],
        (Some(_), None) => return vec!["removed"],
        (Some(before), Some(now)) => (before, now),
    };
    let mut kinds = Vec::new();
    if std::mem::discriminant(&before.kind) != std::mem::discriminant(&now.kind) {
        kinds.push("kind");
    } else if before.kind != now.kind {
        kinds.push("changed");
    }
    let (old, new) = (&before.meta, &now.meta);
    let metas =
        [(old.mode != new.mode, "mode"), (old.owner != new.owner, "owner"), (old.xattrs != new.xattrs, "attributes")];
    kinds.extend(metas.into_iter().filter(|(differs, _)| *differs).map(|(_, kind)| kind));
    if kinds.is_empty() {
        kinds.push("time");
    }
    kinds
}

fn side(entry: &Entry) -> v1::TreeEntry {
    crate::services::admin::tree_entry(entry)
}

fn note(before: Option<&Node>, kinds: &[&str]) -> String {
    match before {
        Some(Node::Directory(dir)) if kinds == ["removed"] => {
            format!("a directory with {} entries in it", entries(dir))
        }
        _ => String::new(),
    }
}

/// The number of entries of a directory, at any depth.
fn entries(dir: &Dir) -> u64 {
    dir.children().iter().map(|child| 1 + child.node.directory().map_or(0, |dir| entries(dir))).sum()
}

/// Both texts; none if there is no content to show. The error says why a text is not shown.
fn shown(
    looked: &Looked,
    edit: &Change,
    secrets: &SecretPaths,
    before: Option<&Node>,
    old: &HashMap<Hash, Bytes>,
) -> Option<Result<Texts, &'static str>> {
    let (before, now) = contents(before, edit)?;
    if secrets.covers(&edit.set, &edit.path) {
        return Some(Err(SECRET));
    }
    Some(texts(looked, edit, before, now, old))
}

/// Both contents, if at least one side is a file and they differ.
pub(crate) fn contents<'a>(
    before: Option<&'a Node>,
    edit: &'a Change,
) -> Option<(Option<&'a Content>, Option<&'a Content>)> {
    let before = match before {
        Some(Node::File { content, .. }) => Some(content),
        Some(Node::Directory(_) | Node::Link { .. }) | None => None,
    };
    let now = match edit.entry.as_ref().map(|entry| &entry.kind) {
        Some(Kind::File(content)) => Some(content),
        Some(Kind::Directory | Kind::Link(_)) | None => None,
    };
    (before != now).then_some((before, now))
}

fn texts(
    looked: &Looked,
    edit: &Change,
    before: Option<&Content>,
    now: Option<&Content>,
    old: &HashMap<Hash, Bytes>,
) -> Result<Texts, &'static str> {
    if too_large(before) || too_large(now) {
        return Err(TOO_LARGE);
    }
    let before = match before {
        None => Vec::new(),
        Some(content) => {
            joined(content, old).ok_or("the old content is not read: it is too large, or not in the history")?
        }
    };
    let now = match now {
        None => Vec::new(),
        Some(content) => live(&looked.sources, edit, content).ok_or(CHANGED)?,
    };
    both_texts(before, now)
}

/// Both sides, if they are texts.
pub(crate) fn both_texts(before: Vec<u8>, now: Vec<u8>) -> Result<Texts, &'static str> {
    if text::is_text(&before) && text::is_text(&now) { Ok((before, now)) } else { Err("not a text") }
}

/// Whether a content is too large for a diff.
pub(crate) fn too_large(content: Option<&Content>) -> bool {
    content.is_some_and(|content| content.size() > FILE)
}

/// The bytes of a content; none if a chunk is missing.
pub(crate) fn joined(content: &Content, chunks: &HashMap<Hash, Bytes>) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    for chunk in content.chunks() {
        data.extend_from_slice(chunks.get(&chunk.hash)?);
    }
    Some(data)
}

/// A file's bytes as they were scanned.
pub(crate) fn live(sources: &[Source], edit: &Change, content: &Content) -> Option<Vec<u8>> {
    let source = sources.iter().find(|source| source.rules.name == edit.set)?;
    let file = Root::open(&source.path).ok()?.file(&edit.path).ok()?;
    file.metadata().ok().filter(|stat| stat.is_file())?;
    let mut data = Vec::new();
    file.take(content.size() + 1).read_to_end(&mut data).ok()?;
    is_content(&data, content).then_some(data)
}

/// Whether these bytes are the scanned ones: a diff of other bytes would not match the list, nor the kept content.
fn is_content(mut data: &[u8], content: &Content) -> bool {
    content.chunks().iter().all(|chunk| match data.split_at_checked(chunk.length as usize) {
        Some((bytes, rest)) => {
            data = rest;
            Hash::of(bytes) == chunk.hash
        }
        None => false,
    }) && data.is_empty()
}

/// The replaced chunks, as far as they are needed and within the limit.
fn old_contents(looked: &Looked, edits: &[Change]) -> HashMap<Hash, Bytes> {
    let (mut wanted, mut left) = (HashSet::new(), READ);
    for edit in edits {
        let node = looked.tree.get(&edit.set, &edit.path);
        let Some((Some(before), now)) = contents(node.as_ref(), edit) else { continue };
        if too_large(Some(before)) || too_large(now) || before.size() > left {
            continue;
        }
        left -= before.size();
        wanted.extend(before.chunks().iter().map(|chunk| chunk.hash));
    }
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return found;
    }
    let read = looked.packs.chunks(&wanted, &mut |chunk, bytes| {
        found.insert(chunk.hash, bytes);
    });
    if let Err(error) = read {
        tracing::warn!(error = bellwether_proto::error::chain(&error), "the history cannot be read for a diff");
    }
    found
}

#[cfg(test)]
mod tests {
    use bellwether_proto::entry::Chunk;

    use super::*;

    #[test]
    fn a_diff_is_of_the_bytes_that_were_scanned() {
        let chunk = |bytes: &[u8]| Chunk { hash: Hash::of(bytes), length: bytes.len() as u32 };
        let content: Content = [chunk(b"one "), chunk(b"two")].into_iter().collect();
        assert!(is_content(b"one two", &content));
        assert!(is_content(b"", &Content::Empty));
        for other in ["one twx", "one tw", "one two ", "", "two one "] {
            assert!(!is_content(other.as_bytes(), &content), "{other:?}");
        }
        assert!(!is_content(b"x", &Content::Empty));
    }
}
