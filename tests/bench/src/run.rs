//! Runs a program to its end outside the measurements.

use std::process::{Command, Stdio};

use crate::problem::{Problem, Result};

/// The output of `command`.
///
/// # Errors
/// It cannot be started, or fails; the error has its output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let what = what(command);
    let output =
        command.stdin(Stdio::null()).output().map_err(|e| Problem::new(format!("cannot start {what}: {e}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Problem::new(format!("{what}: {}: {}", output.status, said.trim())))
}

/// The command in the form that a person would type.
pub(crate) fn what(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
