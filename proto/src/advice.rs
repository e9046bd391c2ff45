//! The outcome of a refused or failed request, and the next action, as fields from the rule to the exit code.
//!
//! They travel in the details of a gRPC status as `google.rpc.ErrorInfo` (domain `bellwether`; its reason is the
//! [`Outcome`], its metadata has `hint` and `next`), so that no program searches a message for words.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DOMAIN: &str = "bellwether";
const HINT: &str = "hint";
const NEXT: &str = "next";

/// Characters of an answer's message, and of its hint: they travel in headers, and may name a path of 4,000 escaped
/// bytes.
const SAID: usize = 4_000;

/// The outcome of a request that was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The request was refused before anything was changed.
    Refused,
    /// The request was tried and failed.
    Failed,
    /// There was no answer in time.
    TimedOut,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Refused, Self::Failed, Self::TimedOut];

    fn reason(self) -> &'static str {
        match self {
            Self::Refused => "REFUSED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
        }
    }

    /// The meaning of an answer with this code and no details, which another program has made.
    pub fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unauthenticated => Self::Refused,
            Code::DeadlineExceeded => Self::TimedOut,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Failed,
        }
    }
}

/// The advice for an error: a sentence for people, and the command in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The whole sentence, with the command; lines are separated by `\n`.
    pub hint: String,
    /// The command that helps, as it is typed; none: the action is no command.
    pub next: Option<String>,
}

impl Advice {
    /// An action that is no command.
    pub fn say(hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), next: None }
    }

    /// A command, after a few words for its place or purpose: `first`, `see`, `at the manager, web1`.
    pub fn run(before: &str, command: impl Into<String>) -> Self {
        let next = command.into();
        Self { hint: format!("{before}: {next}"), next: Some(next) }
    }

    /// Adds another way on its own line.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.hint = format!("{}\n{}", self.hint, other.hint);
        self.next = self.next.or_else(|| other.next.clone());
        self
    }
}

/// An error that has advice.
pub trait Advise: std::error::Error {
    /// The next action, if the message alone does not tell it.
    fn advice(&self) -> Option<Advice> {
        None
    }
}

/// The answer to a request that was not done.
pub fn status(code: Code, outcome: Outcome, message: &str, advice: Option<&Advice>) -> Status {
    let cut = |text: &str| text.chars().take(SAID).collect::<String>();
    let hint = advice.map(|advice| (HINT, cut(&advice.hint)));
    let next = advice.and_then(|advice| Some((NEXT, advice.next.clone()?)));
    let metadata = hint.into_iter().chain(next).map(|(key, value)| (key.to_owned(), value));
    let details =
        ErrorDetails::with_error_info(outcome.reason(), DOMAIN, metadata.collect::<std::collections::HashMap<_, _>>());
    Status::with_error_details(code, cut(message), details)
}

/// The outcome and the advice of a status; for another program's status, the outcome by its code alone.
pub fn read(status: &Status) -> (Outcome, Option<Advice>) {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    let Some(mut info) = info else { return (Outcome::of_code(status.code()), None) };
    let outcome = Outcome::ALL.into_iter().find(|outcome| outcome.reason() == info.reason);
    let next = info.metadata.remove(NEXT);
    let advice = info.metadata.remove(HINT).map(|hint| Advice { hint, next });
    (outcome.unwrap_or_else(|| Outcome::of_code(status.code())), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_says_arrives_as_fields() {
        let advice = Advice::run("first", "bellwether server enable web2").or(&Advice::say("or wait"));
        assert_eq!(advice.hint, "first: bellwether server enable web2\nor wait");
        for outcome in Outcome::ALL {
            let sent = status(Code::Unavailable, outcome, "web2 is disabled", Some(&advice));
            assert_eq!((sent.code(), sent.message()), (Code::Unavailable, "web2 is disabled"));
            assert_eq!(read(&sent), (outcome, Some(advice.clone())));
            assert_eq!(read(&status(Code::Internal, outcome, "", None)), (outcome, None));
        }
    }

    #[test]
    fn another_programs_answer_is_judged_by_its_code() {
        for (code, outcome) in [
            (Code::NotFound, Outcome::Refused),
            (Code::DeadlineExceeded, Outcome::TimedOut),
            (Code::Unavailable, Outcome::Failed),
        ] {
            // No words in the message count.
            let text = "refused; nothing was changed\nfirst: bellwether sync";
            assert_eq!(read(&Status::new(code, text)), (outcome, None));
            let garbage = Status::with_details(code, text, bytes::Bytes::from_static(b"\xff\xff\x07garbage"));
            assert_eq!(read(&garbage), (outcome, None));
            let foreign = ErrorDetails::with_error_info("FAILED", "example.com", std::collections::HashMap::new());
            assert_eq!(read(&Status::with_error_details(code, text, foreign)), (outcome, None));
        }
    }

    #[test]
    fn what_is_endless_is_cut() {
        let endless = "x".repeat(SAID * 2);
        let sent = status(Code::Internal, Outcome::Failed, &endless, Some(&Advice::say(endless.clone())));
        assert_eq!(sent.message().len(), SAID);
        assert_eq!(read(&sent).1.map(|advice| advice.hint.len()), Some(SAID));
    }
}
