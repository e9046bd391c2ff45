//! What commands print: one JSON document, or text for people.

use std::io::{self, IsTerminal, Write};

pub use bellwether_proto::time::utc;
use serde::Serialize;

use crate::error::{CommandError, Kind};

/// Writes one JSON document and a newline to standard output.
pub fn document(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(e) => eprintln!("bellwether: the answer has no JSON: {e}"),
    }
}

/// Writes one line of text to standard output. A reader that has gone away (`| head`) is no error.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints `value` as JSON, or as the text that `plain` makes of it.
pub fn show<T: Serialize>(as_json: bool, value: &T, plain: impl FnOnce(&T) -> String) {
    if as_json {
        document(value);
    } else {
        line(plain(value).trim_end());
    }
}

/// Asks `question` on the terminal, where there is one; `yes` answers it.
///
/// # Errors
/// Refused: the answer was no, or there is no terminal to ask on.
pub fn confirm(question: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CommandError::new(Kind::Refused, "this asks first, and there is no terminal to ask on")
            .hint("look at what it would do, then run it again with --yes"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|e| CommandError::failed(&e))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::new(Kind::Refused, "the answer was no")),
    }
}

/// Text that another server gave, without what a terminal would obey: control characters but newlines and tabs.
pub fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Rows as aligned columns, two spaces apart.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|t| t.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_text() {
        let rows = [["NAME", "ROLE"], ["long-name", "member"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "NAME       ROLE\nlong-name  member");
    }
}
