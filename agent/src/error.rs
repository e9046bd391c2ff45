//! What a command says when it did not do what was asked: a kind (the exit code), one message, perhaps a hint.

use std::{error::Error, fmt, process::ExitCode};

use serde_json::json;
use tonic::Code;

use crate::output;

/// How a command ended; it sets the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It was tried and failed: exit code 1.
    Failed,
    /// The command line or the configuration file is wrong: 2.
    Usage,
    /// Refused, and nothing was changed: 3.
    Refused,
    /// Not done when the time was up: 4.
    TimedOut,
    /// Done for some: 5.
    Partly,
}

impl Kind {
    /// The program's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::TimedOut => 4,
            Self::Partly => 5,
        }
    }

    fn prefix(self, message: &str) -> &'static str {
        match self {
            Self::Failed | Self::Usage => "",
            Self::Refused if message.contains("nothing was changed") => "refused: ",
            Self::Refused => "refused, nothing was changed: ",
            Self::TimedOut => "timed out: ",
            Self::Partly => "partly done: ",
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// It sets the exit code.
    pub kind: Kind,
    /// What happened, to which server or file, what was left unchanged.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl CommandError {
    /// An error of `kind` with this message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// An error that the command's own output has told already: only the exit code is left.
    pub fn told(kind: Kind) -> Self {
        Self::new(kind, "")
    }

    /// Tried and failed: the error with all its causes.
    pub fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::new(Kind::Failed, chain(error))
    }

    /// Refused, nothing changed: the error with all its causes.
    pub fn refused(error: &(dyn Error + 'static)) -> Self {
        Self::new(Kind::Refused, chain(error))
    }

    /// The same with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(&self.message), self.message)
    }
}

impl Error for CommandError {}

/// An error's text and those of its causes, each once: `cannot read F: permission denied`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The first cause.
fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root
}

impl From<tonic::Status> for CommandError {
    /// The agent's answer. A hint travels in the message, after its first line.
    fn from(status: tonic::Status) -> Self {
        let kind = match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unauthenticated => Kind::Refused,
            // It says so itself: not even begun.
            Code::Unavailable if status.message().contains("nothing was changed") => Kind::Refused,
            Code::DeadlineExceeded => Kind::TimedOut,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Kind::Failed,
        };
        // Only what was made up on this side has a cause.
        if let Some(cause) = status.source().map(root) {
            return Self::new(kind, format!("the connection ended before there was an answer ({cause})"))
                .hint("what was asked may be done all the same; `bellwether status` shows it");
        }
        let (first, hint) = match status.message().split_once('\n') {
            Some((first, hint)) => (first, Some(hint.trim().to_owned())),
            None => (status.message(), None),
        };
        let message = match first {
            "" => status.code().description().to_owned(),
            text => text.to_owned(),
        };
        Self { kind, message, hint }
    }
}

/// Says how a command failed, in JSON on standard output or as text on standard error, and gives the exit code.
pub fn report(as_json: bool, error: &CommandError) -> ExitCode {
    let code = error.kind.exit_code();
    if error.message.is_empty() {
        return ExitCode::from(code);
    }
    if as_json {
        output::document(&json!({ "error": error.to_string(), "hint": error.hint, "exit": code }));
    }
    if !as_json || !output::is_read() {
        output::note(&format!("bellwether: {error}"));
        if let Some(hint) = &error.hint {
            output::note(&format!("  {}", hint.replace('\n', "\n  ")));
        }
    }
    ExitCode::from(code)
}

/// Says what is wrong with the command line, or prints the help that was asked for.
pub fn report_usage(usage: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|arg| arg == "--json");
    if !usage.use_stderr() {
        output::help(&usage.render());
        return output::ended().map_or_else(|e| report(false, &e), |()| ExitCode::SUCCESS);
    }
    let text = usage.to_string();
    if !wants_json {
        output::note(text.trim_end());
        return ExitCode::from(Kind::Usage.exit_code());
    }
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let error = CommandError::new(Kind::Usage, first.trim_start_matches("error: ")).hint(rest.trim());
    report(true, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_says_each_cause_once() {
        let error = Outer(std::io::Error::other("the disk is gone"));
        assert_eq!(chain(&error), "cannot read the file: the disk is gone");
    }

    #[test]
    fn exit_codes_are_those_of_the_documentation() {
        let codes = [Kind::Failed, Kind::Usage, Kind::Refused, Kind::TimedOut, Kind::Partly].map(Kind::exit_code);
        assert_eq!(codes, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn that_nothing_was_changed_is_said_once() {
        let said = |message| CommandError::new(Kind::Refused, message).to_string();
        assert_eq!(said("no"), "refused, nothing was changed: no");
        assert_eq!(said("no; nothing was changed"), "refused: no; nothing was changed");
    }

    #[test]
    fn an_answer_gives_its_kind_and_its_hint() {
        let error = CommandError::from(tonic::Status::failed_precondition("web1 is a member\nask web2, the manager"));
        assert_eq!(error.kind, Kind::Refused);
        assert_eq!(error.to_string(), "refused, nothing was changed: web1 is a member");
        assert_eq!(error.hint.as_deref(), Some("ask web2, the manager"));
        assert_eq!(CommandError::from(tonic::Status::deadline_exceeded("late")).kind, Kind::TimedOut);
        assert_eq!(CommandError::from(tonic::Status::internal("broken")).kind, Kind::Failed);
        let away = |text| CommandError::from(tonic::Status::unavailable(text)).kind;
        assert_eq!(away("web1 does not answer; nothing was changed\ntry again"), Kind::Refused);
        assert_eq!(away("the connection is lost"), Kind::Failed);
        let broken = tonic::Status::from_error(Box::new(Outer(std::io::Error::other("broken pipe"))));
        let error = CommandError::from(broken);
        assert_eq!(error.to_string(), "the connection ended before there was an answer (broken pipe)");
        assert!(error.hint.is_some_and(|hint| hint.contains("bellwether status")));
    }
}
