//! Edits of one line, like a person's.

/// The text with another line, of another length, near its middle; `number` makes each edit different.
pub(crate) fn change_line(text: &[u8], number: usize) -> Vec<u8> {
    let (start, end) = middle_line(text);
    let line = format!("# changed {number}: {:x}", number.wrapping_mul(0x9e37_79b9));
    [&text[..start], line.as_bytes(), &text[end..]].concat()
}

/// The text with one more line in its middle.
pub(crate) fn insert_line(text: &[u8], number: usize) -> Vec<u8> {
    let (start, _) = middle_line(text);
    let line = format!("# inserted {number}\n");
    [&text[..start], line.as_bytes(), &text[start..]].concat()
}

/// The beginning and the end of the line in the middle of the text.
fn middle_line(text: &[u8]) -> (usize, usize) {
    let middle = text.len() / 2;
    let start = text[..middle].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let end = text[middle..].iter().position(|&byte| byte == b'\n').map_or(text.len(), |at| middle + at);
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"one\ntwo\nthree\nfour\n";

    #[test]
    fn one_line_becomes_another() {
        let changed = String::from_utf8(change_line(TEXT, 7)).expect("text");
        let lines: Vec<_> = changed.lines().collect();
        assert!(lines[2].starts_with("# changed 7"), "{lines:?}");
        assert_eq!([lines[0], lines[1], lines[3]], ["one", "two", "four"]);
        assert_ne!(change_line(TEXT, 7), change_line(TEXT, 8));
    }

    #[test]
    fn one_line_comes_between() {
        let inserted = String::from_utf8(insert_line(TEXT, 7)).expect("text");
        assert_eq!(inserted, "one\ntwo\n# inserted 7\nthree\nfour\n");
    }

    #[test]
    fn a_text_without_lines_is_one() {
        assert!(change_line(b"x", 1).starts_with(b"# changed 1"));
        assert_eq!(insert_line(b"", 1), b"# inserted 1\n");
    }
}
