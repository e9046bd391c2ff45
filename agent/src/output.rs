//! All output of the commands: JSON documents or text on standard output, notes and the log on standard error.
//! [`guarded`] escapes all that a terminal would obey. [`ended`] makes an error of standard output the command's
//! failure.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use bellwether_monitor::{
    table::Painted,
    text::{guarded, guarded_json},
};
pub use bellwether_proto::time::utc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

use crate::error::{CommandError, Kind};

/// The first error of standard output. Both belong to the process.
static BROKEN: OnceLock<io::Error> = OnceLock::new();

/// Writes to standard output, unless an earlier write failed.
fn write(bytes: &[u8]) {
    if BROKEN.get().is_none() {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
            // Only this function sets `BROKEN`, and standard output is locked.
            let _ = BROKEN.set(error);
        }
    }
}

/// Whether standard output has a reader: false if its other end is closed, or after a write failed.
pub fn is_read() -> bool {
    if BROKEN.get().is_some() {
        return false;
    }
    let out = io::stdout();
    let mut asked = [PollFd::new(&out, PollFlags::empty())];
    // If `poll` fails, the next write finds the error.
    poll(&mut asked, Some(&Timespec::default())).is_err()
        || !asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// The outcome of the output; every command asks for it at its end.
///
/// # Errors
/// Failed: a write failed. A reader that has gone away (`| head`) is no error.
pub fn ended() -> Result<(), CommandError> {
    match BROKEN.get() {
        None => Ok(()),
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Some(error) => Err(CommandError::new(Kind::Failed, format!("cannot write to standard output: {error}"))
            .hint("the command did its work; only its output is lost")),
    }
}

/// Writes one JSON document and a newline to standard output.
pub fn document(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => json(&text),
        Err(e) => note(&format!("bellwether: the answer has no JSON: {e}")),
    }
}

/// Writes finished JSON, and a newline.
pub fn json(text: &str) {
    write(format!("{}\n", guarded_json(text)).as_bytes());
}

/// Writes one or more lines of text.
pub fn line(text: &str) {
    write(format!("{}\n", guarded(text)).as_bytes());
}

/// Writes the help that was asked for, which holds only the program's own words.
pub fn help(text: &clap::builder::StyledStr) {
    let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    write(if coloured { text.ansi().to_string() } else { text.to_string() }.as_bytes());
}

/// Writes text that has colours.
pub fn painted(text: &Painted) {
    write(format!("{}\n", text.trim_end()).as_bytes());
}

/// Writes a drawing of the monitor: a table that was guarded before, and the control sequences that keep it in place.
pub(crate) fn drawing(text: &str) {
    write(text.as_bytes());
}

/// Writes a file's content: byte for byte, but guarded on a terminal.
pub fn content(bytes: &[u8]) {
    if io::stdout().is_terminal() {
        write(guarded(&String::from_utf8_lossy(bytes)).as_bytes());
    } else {
        write(bytes);
    }
}

/// Writes a progress message, a hint or an error to standard error. If that fails, nobody is left to tell.
pub fn note(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{}\n", guarded(text)).as_bytes());
}

/// Asks on standard error; the answer is typed on the same line.
///
/// # Errors
/// Failed: standard input cannot be read.
pub fn ask(question: &str) -> Result<String, CommandError> {
    let _ = io::stderr().lock().write_all(guarded(question).as_bytes());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|e| CommandError::failed(&e))?;
    Ok(answer.trim().to_owned())
}

/// Prints `value` as JSON, or as the text that `plain` makes from it.
pub fn show<T: Serialize>(as_json: bool, value: &T, plain: impl FnOnce(&T) -> String) {
    if as_json {
        document(value);
    } else {
        line(plain(value).trim_end());
    }
}

/// Asks `question` on the terminal, if there is one; `yes` answers it.
///
/// # Errors
/// Refused: the answer was no, or there is no terminal to ask on.
pub fn confirm(question: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CommandError::new(Kind::Refused, "the command asks a question first, and there is no terminal")
            .hint("look at what it would do, then run it again with --yes"));
    }
    match ask(&format!("{question} [y/N] "))?.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::new(Kind::Refused, "the answer was no")),
    }
}

/// Standard error for the log: one line for each event, whatever its values hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    /// Whether the log's own colours pass; `tracing` writes those of values as escapes.
    pub(crate) coloured: bool,
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for Log {
    /// Takes one whole event of the log.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(logged(&String::from_utf8_lossy(event), self.coloured).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event as a line of the log.
fn logged(event: &str, coloured: bool) -> String {
    let line = event.trim_end_matches('\n').replace('\n', "\\n");
    let mut parts = line.split('\u{1b}');
    let mut text = guarded(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        // A colour: ESC [ digits and semicolons m (ECMA-48, 8.3.117).
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';' && c != '[').unwrap_or(part.len());
        let is_colour = coloured && part.starts_with('[') && part[end..].starts_with('m');
        text.push_str(if is_colour { "\u{1b}" } else { "\\u{1b}" });
        text.push_str(&guarded(part));
    }
    text + "\n"
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

    #[test]
    fn an_event_is_one_line_that_steers_nothing_but_its_own_colours() {
        let event = "\u{1b}[2m10:00\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m file=a\u{202e}b\u{9b}c\nforged\u{1b}]0;x\u{7}\n";
        let hidden = "file=a\\u{202e}b\\u{9b}c\\nforged\\u{1b}]0;x\\u{7}\n";
        assert_eq!(logged(event, true), format!("\u{1b}[2m10:00\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m {hidden}"));
        assert!(!logged(event, false).contains('\u{1b}'));
        assert_eq!(logged("plain 日本\n", false), "plain 日本\n");
    }
}
