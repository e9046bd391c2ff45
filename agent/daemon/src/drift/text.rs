//! The unified diff of two texts, bounded in time and length.

use std::time::Duration;

use similar::TextDiff;

/// The time to look for a short diff; after that a longer one is taken.
const PATIENCE: Duration = Duration::from_millis(200);
/// Lines around each change.
const CONTEXT: usize = 3;
/// The bytes of a file that are examined for a NUL.
const PROBE: usize = 8 << 10;

/// A diff, and whether it was cut.
#[derive(Debug, PartialEq, Eq)]
pub struct Diff {
    pub text: String,
    pub cut: bool,
}

/// Whether the bytes are text: no NUL near the beginning.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    !bytes[..bytes.len().min(PROBE)].contains(&0)
}

/// The diff from `old` to `new` (each a name and bytes): at most about `most` bytes, in whole lines. Invalid UTF-8 is
/// replaced.
pub fn diff(old: (&str, &[u8]), new: (&str, &[u8]), most: usize) -> Diff {
    let (before, after) = (String::from_utf8_lossy(old.1), String::from_utf8_lossy(new.1));
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(before.as_ref(), after.as_ref());
    let mut text = diff.unified_diff().context_radius(CONTEXT).header(old.0, new.0).to_string();
    let cut = text.len() > most;
    if cut {
        let end = text.as_bytes()[..most].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        text.truncate(end);
    }
    Diff { text, cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_is_unified() {
        let Diff { text, cut } = diff(("a", b"one\ntwo\nthree\n"), ("b", b"one\n2\nthree\n"), 1_000);
        assert_eq!(text, "--- a\n+++ b\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
        assert!(!cut);
    }

    #[test]
    fn a_long_diff_is_cut_at_a_line() {
        let new = "a line\n".repeat(1_000);
        let Diff { text, cut } = diff(("a", b""), ("b", new.as_bytes()), 500);
        assert!(cut && text.len() <= 500 && text.ends_with("+a line\n"), "{text}");
        let one = diff(("a", b""), ("b", "ü".repeat(1_000).as_bytes()), 501);
        assert!(one.cut && one.text.ends_with("@@\n"), "{}", one.text);
    }

    #[test]
    fn a_nul_is_no_text() {
        assert!(is_text(b"") && is_text("größe\n".as_bytes()) && is_text(b"\xff latin"));
        assert!(!is_text(b"\x7fELF\0"));
    }
}
