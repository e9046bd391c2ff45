//! What commands print: one JSON document, or text for people.

use std::io::{self, IsTerminal, Write};

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

/// Seconds since 1970 as `2026-11-21 21:29:32` in UTC.
pub fn utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date of the proleptic Gregorian calendar, in eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (h, m, s) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{of_month:02} {h:02}:{m:02}:{s:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_date_prints() {
        // date -u -d @N
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_296_572, "2026-11-21 21:29:32"),
            (-1, "1969-12-31 23:59:59"),
            (4_102_444_800, "2100-01-01 00:00:00"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_text() {
        let rows = [["NAME", "ROLE"], ["long-name", "member"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "NAME       ROLE\nlong-name  member");
    }
}
