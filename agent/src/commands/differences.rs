//! Entries that differ, as text and as JSON: edits on a member, changes of a revision, differences between two.

use bellwether_daemon::drift::SECRET;
use bellwether_monitor::text::plain;
use bellwether_proto::{
    entry::EntryPath,
    v1::{DriftEntry, TreeEntry},
};
use serde_json::{Value, json};

/// A path for people; unprintable bytes are escaped.
pub(super) fn path(bytes: &[u8]) -> String {
    EntryPath::new(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), |path| path.to_string())
}

/// A name as JSON: its text, and its bytes in base64 where they are no UTF-8. The text is exact in every other case, control
/// characters included, because JSON has its own escapes for them; where the bytes are no UTF-8, it is for people.
pub(super) fn exact(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (bytes.escape_ascii().to_string(), Some(data_encoding::BASE64.encode(bytes))),
    }
}

/// The target of a link as JSON, as [`exact`]; none: the entry is no link.
pub(super) fn exact_link(entry: &TreeEntry) -> (Option<String>, Option<String>) {
    match entry.kind.as_str() {
        "link" => {
            let (text, base64) = exact(&entry.link);
            (Some(text), base64)
        }
        _ => (None, None),
    }
}

/// An entry as JSON.
pub(super) fn as_json(entry: &DriftEntry) -> Value {
    let side = |side: &TreeEntry| {
        let (link, link_base64) = exact_link(side);
        json!({
            "kind": side.kind,
            "mode": format!("{:04o}", side.mode),
            "user": side.user,
            "group": side.group,
            "mtime": side.mtime,
            "size": side.size,
            "hash": side.hash,
            "link": link,
            "link_base64": link_base64,
        })
    };
    let (path, path_base64) = exact(&entry.path);
    json!({
        "set": entry.set,
        "path": path,
        "path_base64": path_base64,
        "kinds": entry.kinds,
        "before": entry.before.as_ref().map(side),
        "now": entry.now.as_ref().map(side),
        "diff": (!entry.diff.is_empty()).then_some(&entry.diff),
        "note": (!entry.note.is_empty()).then_some(&entry.note),
    })
}

/// In what an entry differs, besides a diff.
pub(super) fn facts(entry: &DriftEntry) -> Vec<String> {
    let sides = (entry.before.as_ref(), entry.now.as_ref());
    let fact = |kind: &String| match (kind.as_str(), sides) {
        ("mode", (Some(b), Some(n))) => Some(format!("{:04o} → {:04o}", b.mode, n.mode)),
        ("owner", (Some(b), Some(n))) => Some(format!("{}:{} → {}:{}", b.user, b.group, n.user, n.group)),
        ("kind", (Some(b), Some(n))) => Some(format!("{} → {}", b.kind, n.kind)),
        ("changed", (Some(b), Some(n))) if b.kind == "link" => {
            Some(format!("{} → {}", b.link.escape_ascii(), n.link.escape_ascii()))
        }
        ("changed", (Some(b), Some(n))) if entry.diff.is_empty() => {
            Some(format!("{} bytes {} → {} bytes {}", b.size, short(&b.hash), n.size, short(&n.hash)))
        }
        _ => None,
    };
    let note = (!entry.note.is_empty()).then(|| entry.note.clone());
    entry.kinds.iter().filter_map(fact).chain(note).collect()
}

fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

/// One line of a list of changes: `A`, `M` or `D`, the place, and the sizes or what else differs.
pub(super) fn line(entry: &DriftEntry) -> String {
    let (letter, mut facts) = match (entry.before.as_ref(), entry.now.as_ref()) {
        (None, Some(now)) => ('A', sized(now)),
        (Some(before), None) => ('D', sized(before)),
        _ => ('M', Vec::new()),
    };
    facts.extend(self::facts(entry));
    if entry.kinds.iter().any(|kind| kind == "time" || kind == "attributes") {
        facts.extend(entry.kinds.iter().filter(|kind| *kind == "time" || *kind == "attributes").cloned());
    }
    plain(&format!("{letter} {}:{}{}", entry.set, path(&entry.path), in_brackets(&facts)))
}

fn in_brackets(facts: &[String]) -> String {
    if facts.is_empty() { String::new() } else { format!("  ({})", facts.join("; ")) }
}

fn sized(side: &TreeEntry) -> Vec<String> {
    match side.kind.as_str() {
        "file" if side.size == 1 => vec!["1 byte".to_owned()],
        "file" => vec![format!("{} bytes", side.size)],
        "link" => vec![format!("a link to {}", side.link.escape_ascii())],
        kind => vec![format!("a {kind}")],
    }
}

/// An entry in the output of `diff`: a unified diff, or one line that says what differs.
pub(super) fn block(entry: &DriftEntry) -> String {
    let (before, now) = (entry.before.as_ref(), entry.now.as_ref());
    let name = format!("{}:{}", entry.set, path(&entry.path));
    let mut facts = Vec::new();
    if entry.note == SECRET {
        facts.push(secret(before, now));
    }
    for kind in &entry.kinds {
        facts.extend(match (kind.as_str(), before, now) {
            ("added" | "removed" | "changed", ..) if entry.note == SECRET => None,
            ("added", _, Some(now)) if entry.diff.is_empty() => Some(format!("added, {}", sized(now).join(""))),
            ("removed", Some(before), _) if entry.diff.is_empty() => {
                Some(format!("removed, {}", sized(before).join("")))
            }
            ("changed", Some(b), Some(n)) if b.kind == "file" && entry.diff.is_empty() => {
                let binary = if entry.note == NOT_A_TEXT { "binary, " } else { "" };
                Some(format!("{binary}{} → {} bytes", b.size, n.size))
            }
            ("changed", Some(b), Some(n)) if b.kind == "link" => {
                Some(format!("link {} → {}", b.link.escape_ascii(), n.link.escape_ascii()))
            }
            ("mode", Some(b), Some(n)) => Some(format!("mode {:04o} → {:04o}", b.mode, n.mode)),
            ("owner", Some(b), Some(n)) => Some(format!("owner {}:{} → {}:{}", b.user, b.group, n.user, n.group)),
            ("kind", Some(b), Some(n)) => Some(format!("{} → {}", b.kind, n.kind)),
            ("attributes" | "time", ..) => Some(kind.clone()),
            _ => None,
        });
    }
    if !entry.note.is_empty() && ![NOT_A_TEXT, SECRET].contains(&entry.note.as_str()) {
        facts.push(entry.note.clone());
    }
    let said = (!facts.is_empty()).then(|| plain(&format!("{name}: {}", facts.join("; "))));
    let diff = (!entry.diff.is_empty()).then(|| entry.diff.trim_end_matches('\n').to_owned());
    said.into_iter().chain(diff).collect::<Vec<_>>().join("\n")
}

/// The change of a secret file.
fn secret(before: Option<&TreeEntry>, now: Option<&TreeEntry>) -> String {
    let how = match (before, now) {
        (Some(before), Some(now)) => format!("changed ({} → {} bytes)", before.size, now.size),
        (None, Some(now)) => format!("added ({} bytes)", now.size),
        (Some(before), None) => format!("removed ({} bytes)", before.size),
        (None, None) => "changed".to_owned(),
    };
    format!("{SECRET}: {how}")
}

/// The note of an entry whose content is not a text.
const NOT_A_TEXT: &str = "not a text";

#[cfg(test)]
mod tests {
    use super::*;

    fn side(mode: u32, size: u64) -> TreeEntry {
        TreeEntry { kind: "file".into(), mode, size, hash: "0123456789ab".into(), ..TreeEntry::default() }
    }

    fn entry(kinds: &[&str], before: Option<TreeEntry>, now: Option<TreeEntry>) -> DriftEntry {
        let kinds = kinds.iter().map(|&kind| kind.to_owned()).collect();
        DriftEntry { set: "web".into(), path: "a.conf".into(), kinds, before, now, ..DriftEntry::default() }
    }

    #[test]
    fn a_list_has_a_letter_and_the_sizes() {
        assert_eq!(line(&entry(&["added"], None, Some(side(0o644, 7)))), "A web:a.conf  (7 bytes)");
        assert_eq!(line(&entry(&["removed"], Some(side(0o644, 7)), None)), "D web:a.conf  (7 bytes)");
        let changed = entry(&["changed", "mode"], Some(side(0o644, 7)), Some(side(0o600, 8)));
        assert_eq!(line(&changed), "M web:a.conf  (7 bytes 01234567 → 8 bytes 01234567; 0644 → 0600)");
    }

    #[test]
    fn a_diff_is_the_text_or_says_what_differs() {
        let text = DriftEntry {
            diff: "--- a\n+++ b\n".into(),
            ..entry(&["changed", "mode"], Some(side(0o644, 7)), Some(side(0o600, 8)))
        };
        assert_eq!(block(&text), "web:a.conf: mode 0644 → 0600\n--- a\n+++ b");
        let binary =
            DriftEntry { note: NOT_A_TEXT.into(), ..entry(&["changed"], Some(side(0o644, 7)), Some(side(0o644, 8))) };
        assert_eq!(block(&binary), "web:a.conf: binary, 7 → 8 bytes");
        let secret = DriftEntry { note: SECRET.into(), ..binary.clone() };
        assert_eq!(block(&secret), "web:a.conf: content is secret: changed (7 → 8 bytes)");
        let large = DriftEntry { note: "too large for a diff".into(), ..binary };
        assert_eq!(block(&large), "web:a.conf: 7 → 8 bytes; too large for a diff");
    }
}
