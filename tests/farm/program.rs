//! Runs a program to its end, with a deadline.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::wait::wait_for;

/// The time limit of any command.
const DEADLINE: Duration = Duration::from_secs(300);

/// The result of a program.
#[derive(Debug)]
pub(crate) struct Output {
    what: String,
    /// The exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// The standard output.
    pub(crate) stdout: String,
    /// The standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// Asserts exit code 0.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.exits(0)
    }

    /// Asserts exit code 3: the command was refused, and nothing was changed.
    #[track_caller]
    pub(crate) fn refused(self) -> Self {
        self.exits(3)
    }

    /// Asserts this exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "the exit code of: {self}");
        self
    }

    /// Asserts that the output for people has each of these words.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stdout.contains(word) || self.stderr.contains(word), "no '{word}' in what it says: {self}");
        }
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} → {:?}\n--- stdout\n{}\n--- stderr\n{}", self.what, self.code, self.stdout, self.stderr)
    }
}

/// The program under test, which was just built.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");

/// The program under test.
pub(crate) fn bellwether() -> Command {
    alone(Command::new(PROGRAM))
}

/// That program in that network namespace; none: in the tests' own.
pub(super) fn bellwether_inside(namespace: Option<&Path>, program: &Path) -> Command {
    let Some(namespace) = namespace else { return alone(Command::new(program)) };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg(program);
    alone(command)
}

/// Removes the variables that would change the program's behaviour.
fn alone(mut command: Command) -> Command {
    command.env_remove("BELLWETHER_CONFIG").env_remove("BELLWETHER_LOG").env("NO_COLOR", "1");
    command
}

/// Runs `command` to its end, without input.
pub(crate) fn run(command: &mut Command) -> Output {
    run_with_input(command, "")
}

/// Runs `command` to its end with this input. A command that does not end is killed, and the test fails.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Output {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let what = format!("{} {}", command.get_program().to_string_lossy(), arguments.join(" "));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {what}: {e}"));
    // A program may end without reading its input, which closes the pipe.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let stdout = reader(child.stdout.take().expect("piped"));
    let stderr = reader(child.stderr.take().expect("piped"));
    let mut child = KilledOnDrop(child);
    let status = wait_for(&format!("the end of {what}"), DEADLINE, || match child.0.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("it still runs".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    let text = |reader: JoinHandle<String>| reader.join().expect("a reader does not panic");
    Output { what, code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn reader(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
