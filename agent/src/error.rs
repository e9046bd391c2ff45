//! The error of a command: a kind (the exit code), one message, perhaps a hint.

use std::{error::Error, fmt, process::ExitCode};

use bellwether_daemon::run::Ended;
use bellwether_proto::{
    advice::{self, Advice, Outcome},
    error::chain,
};
use serde_json::json;

use crate::output;

/// The outcome of a command, which sets the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command failed: exit code 1.
    Failed,
    /// The command line or the configuration file is wrong: 2.
    Usage,
    /// The command was refused, and nothing was changed: 3.
    Refused,
    /// What the command did at the manager is not published, and no other server was changed: 3.
    NotPublished,
    /// The command was not done in time: 4.
    TimedOut,
    /// The command was done for some servers: 5.
    Partly,
}

impl Kind {
    /// The program's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused | Self::NotPublished => 3,
            Self::TimedOut => 4,
            Self::Partly => 5,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Failed | Self::Usage | Self::NotPublished => "",
            Self::Refused => "refused, nothing was changed: ",
            Self::TimedOut => "timed out: ",
            Self::Partly => "partly done: ",
        }
    }
}

/// The reason why a command did not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// The kind sets the exit code.
    pub kind: Kind,
    /// The message says what happened, to which server or file, and what was left unchanged.
    pub message: String,
    /// The next action, for people.
    pub hint: Option<String>,
    /// The command that helps, for scripts.
    pub next: Option<String>,
}

impl CommandError {
    /// An error of `kind` with this message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, next: None }
    }

    /// An error that the command's output has shown already: only the exit code is left.
    pub fn told(kind: Kind) -> Self {
        Self::new(kind, "")
    }

    /// A failure: the error with all its causes.
    pub fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::new(Kind::Failed, chain(error))
    }

    /// A refusal, after which nothing was changed: the error with all its causes.
    pub fn refused(error: &(dyn Error + 'static)) -> Self {
        Self::new(Kind::Refused, chain(error))
    }

    /// Adds a hint.
    #[must_use]
    pub fn advice(mut self, advice: Option<Advice>) -> Self {
        if let Some(Advice { hint, next }) = advice {
            (self.hint, self.next) = (Some(hint), next);
        }
        self
    }

    /// Adds an advice that is not a command by itself.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.message)
    }
}

impl Error for CommandError {}

/// The first cause.
fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root
}

impl From<Outcome> for Kind {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Refused => Self::Refused,
            Outcome::Failed => Self::Failed,
            Outcome::TimedOut => Self::TimedOut,
        }
    }
}

impl From<Ended> for CommandError {
    fn from(Ended { outcome, message, advice }: Ended) -> Self {
        Self::new(outcome.into(), message).advice(advice)
    }
}

impl From<tonic::Status> for CommandError {
    /// The agent's answer.
    fn from(status: tonic::Status) -> Self {
        let (outcome, advice) = advice::read(&status);
        // Only an error that was made on this side has a cause.
        if let Some(cause) = status.source().map(root) {
            return Self::new(outcome.into(), format!("the connection ended before there was an answer ({cause})"))
                .advice(Some(Advice::run("the request may be done all the same; see", "bellwether status")));
        }
        let message = match status.message() {
            "" => status.code().description(),
            text => text,
        };
        Self::new(outcome.into(), message).advice(advice)
    }
}

/// Prints the error, in JSON on standard output or as text on standard error, and returns the exit code.
pub fn report(as_json: bool, error: &CommandError) -> ExitCode {
    let code = error.kind.exit_code();
    if error.message.is_empty() {
        return ExitCode::from(code);
    }
    if as_json {
        output::document(&json!({ "error": error.to_string(), "hint": error.hint, "next": error.next, "exit": code }));
    }
    if !as_json || !output::is_read() {
        output::note(&format!("bellwether: {error}"));
        if let Some(hint) = &error.hint {
            output::note(&format!("  {}", hint.replace('\n', "\n  ")));
        }
    }
    ExitCode::from(code)
}

/// Prints an error of the command line, or the help that was asked for.
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
    use tonic::{Code, Status};

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
    fn a_refusal_says_that_nothing_was_changed() {
        assert_eq!(CommandError::new(Kind::Refused, "no").to_string(), "refused, nothing was changed: no");
    }

    #[test]
    fn an_answer_gives_its_kind_its_hint_and_the_next_command() {
        let advice = Advice::run("first", "bellwether server enable web2");
        let sent = advice::status(Code::Unavailable, Outcome::Refused, "web2 is disabled", Some(&advice));
        let error = CommandError::from(sent);
        assert_eq!(
            (error.kind, error.to_string()),
            (Kind::Refused, "refused, nothing was changed: web2 is disabled".into())
        );
        assert_eq!(error.hint.as_deref(), Some("first: bellwether server enable web2"));
        assert_eq!(error.next.as_deref(), Some("bellwether server enable web2"));
    }

    #[test]
    fn no_words_of_a_message_count() {
        let kind = |status| CommandError::from(status).kind;
        assert_eq!(kind(Status::deadline_exceeded("late")), Kind::TimedOut);
        assert_eq!(kind(Status::internal("refused; nothing was changed")), Kind::Failed);
        assert_eq!(
            kind(Status::unavailable("it does not answer; nothing was changed\nfirst: try again")),
            Kind::Failed
        );
        let error = CommandError::from(Status::failed_precondition("one line\nand another"));
        assert_eq!((error.message.as_str(), error.hint), ("one line\nand another", None));
    }

    #[test]
    fn a_lost_connection_says_that_the_request_may_be_done() {
        let error = CommandError::from(Status::from_error(Box::new(Outer(std::io::Error::other("broken pipe")))));
        assert_eq!(error.to_string(), "the connection ended before there was an answer (broken pipe)");
        assert_eq!(error.next.as_deref(), Some("bellwether status"));
    }
}
