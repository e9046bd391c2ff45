//! Words and numbers for people.

use std::{borrow::Cow, fmt::Write as _};

use bellwether_proto::status::{Progress, State};

/// A duration for people: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`.
pub fn duration(ms: u64) -> String {
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match ms {
        0..SECOND => format!("{ms} ms"),
        SECOND..10_000 => format!("{}.{} s", ms / SECOND, ms % SECOND / 100),
        10_000..120_000 => format!("{} s", ms / SECOND),
        120_000..7_200_000 => format!("{} min", ms / MINUTE),
        7_200_000..172_800_000 => format!("{} h", ms / HOUR),
        _ => format!("{} d", ms / DAY),
    }
}

/// The time from `then_ms` to `now_ms`; after a clock went back, `just now`.
pub fn ago(now_ms: u64, then_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) {
        0..1_000 => "just now".to_owned(),
        ms => format!("{} ago", duration(ms / 1_000 * 1_000).replace(".0 s", " s")),
    }
}

/// A short time: `840 µs`, `12.4 ms`, `3.1 s`.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => duration(us / 1_000),
    }
}

/// Bytes: `999 B`, `1.4 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    let power = count.ilog10() / 3;
    let tenths = count / (10_u64.pow(3 * power) / 10);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power as usize - 1])
}

/// The progress of a sync or an update: `receiving 12/61 files, 1.5 kB of 1.0 MB, 512 B/s`.
pub fn progress(progress: &Progress) -> String {
    let Progress { phase, files, files_total, bytes: done, bytes_total, bytes_per_s } = progress;
    let rate = if *bytes_per_s == 0 { String::new() } else { format!(", {}/s", bytes(*bytes_per_s)) };
    format!("{} {files}/{files_total} files, {} of {}{rate}", plain(phase), bytes(*done), bytes(*bytes_total))
}

/// `line`, broken at spaces into lines of at most `width` characters, the later ones indented by two.
pub fn wrapped(line: &str, width: u16) -> String {
    let width = usize::from(width).max(10);
    let mut lines: Vec<String> = Vec::new();
    let mut current = String::new();
    for word in line.split(' ') {
        let length = |text: &str| text.chars().count();
        let fits = current.trim().is_empty() || length(&current) + 1 + length(word) <= width;
        if !fits {
            lines.push(std::mem::replace(&mut current, "  ".to_owned()));
        }
        if !current.trim().is_empty() {
            current.push(' ');
        }
        current.push_str(word);
        // A word longer than the line is cut.
        while length(&current) > width {
            let at = current.char_indices().nth(width).map_or(current.len(), |(at, _)| at);
            let rest = format!("  {}", &current[at..]);
            current.truncate(at);
            lines.push(std::mem::replace(&mut current, rest));
        }
    }
    lines.push(current);
    lines.join("\n")
}

/// Text for people that cannot steer a terminal or hide: control characters (but line feeds and tabs), overrides of the
/// writing direction and characters without a width are escaped. All output passes through it.
pub fn guarded(text: &str) -> Cow<'_, str> {
    match text.chars().any(misleads) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 8), escaped)),
    }
}

/// As [`guarded`], for text that must stay on one line, such as a name or a message.
pub fn plain(text: &str) -> String {
    guarded(&text.trim().replace(['\n', '\t'], " ")).into_owned()
}

/// A JSON document with such characters as JSON's own escapes: the same document.
pub fn guarded_json(json: &str) -> Cow<'_, str> {
    let units = |mut json: String, c: char| {
        c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(json, "\\u{unit:04x}"));
        json
    };
    match json.chars().any(misleads) {
        false => Cow::Borrowed(json),
        true => Cow::Owned(json.chars().fold(String::with_capacity(json.len() + 8), |mut json, c| {
            if misleads(c) {
                return units(json, c);
            }
            json.push(c);
            json
        })),
    }
}

fn escaped(mut text: String, c: char) -> String {
    if misleads(c) {
        text.extend(c.escape_default())
    } else {
        text.push(c)
    }
    text
}

/// Whether a terminal obeys the character, or a reader does not see it. Unicode 16: Cc, Bidi_Control,
/// Default_Ignorable_Code_Point, the line and paragraph separators, and the annotations of U+FFF9.
fn misleads(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        c if c.is_ascii() => c.is_ascii_control(),
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' => true,
        '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' => true,
        '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' => true,
        '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}' => true,
        _ => false,
    }
}

/// The first `limit` characters, with `…` if the text was cut.
pub fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// The ANSI colour (SGR) of a state: green, yellow, red, grey.
pub(crate) fn colour(state: State) -> u8 {
    match state {
        State::InSync => 32,
        State::AwaitingSync
        | State::Syncing
        | State::Updating
        | State::Drifted
        | State::Waiting
        | State::GroupChange => 33,
        State::Refused | State::Error | State::Superseded | State::Conflict | State::Unreachable => 31,
        State::Disabled | State::Unknown | State::Left => 90,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_one_unit() {
        let said: Vec<_> = [7, 999, 1_250, 12_900, 119_999, 120_000, 7_199_999, 7_200_000, 172_799_999, 1_000_000_000]
            .map(duration)
            .into();
        assert_eq!(said, ["7 ms", "999 ms", "1.2 s", "12 s", "119 s", "2 min", "119 min", "2 h", "47 h", "11 d"]);
        assert_eq!([micros(840), micros(12_450), micros(3_100_000)], ["840 µs", "12.4 ms", "3.1 s"]);
        assert_eq!([ago(500, 900), ago(9_000, 8_500), ago(5_400, 1_000)], ["just now", "just now", "4 s ago"]);
    }

    #[test]
    fn bytes_are_said_with_one_digit() {
        let said = [0, 999, 1_000, 1_440_000, 999_999, u64::MAX].map(bytes);
        assert_eq!(said, ["0 B", "999 B", "1.0 kB", "1.4 MB", "999.9 kB", "18.4 EB"]);
    }

    #[test]
    fn long_lines_are_broken() {
        assert_eq!(wrapped("one line", 20), "one line");
        assert_eq!(wrapped("a first line and more", 12), "a first line\n  and more");
        assert_eq!(wrapped("", 12), "");
        let cut = wrapped(&"x".repeat(30), 12);
        assert!(cut.lines().all(|line| line.len() <= 12) && cut.matches('x').count() == 30, "{cut}");
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\r\nc\u{202e}d"), "a\\u{1b}[2Jb\\r c\\u{202e}d");
        assert_eq!(guarded("\tä\n€ 日本 😀"), "\tä\n€ 日本 😀", "what is seen stays");
        for hidden in [
            "\u{7}",
            "\u{7f}",
            "\u{9b}31m",
            "\u{61c}",
            "\u{ad}",
            "\u{200b}",
            "\u{200f}",
            "\u{2028}",
            "\u{2066}",
            "\u{2069}",
            "\u{feff}",
            "\u{e0041}",
        ] {
            let first = hidden.chars().next().unwrap();
            assert!(!guarded(hidden).contains(first), "{hidden:?}");
            assert_eq!(guarded(&guarded(hidden)), guarded(hidden), "once is enough");
        }
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }

    #[test]
    fn guarded_json_is_the_same_document() {
        let hostile = serde_json::json!({ "a\u{202e}b": "\u{9b}\u{e0041}\u{1b}[2J\u{200b}ok" });
        let text = serde_json::to_string(&hostile).unwrap();
        let guarded = guarded_json(&text);
        assert_eq!(guarded, r#"{"a\u202eb":"\u009b\udb40\udc41\u001b[2J\u200bok"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&guarded).unwrap(), hostile);
    }
}
