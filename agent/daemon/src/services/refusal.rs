//! Turns an error into the answer to the caller: its code, which sets a command's exit code, and its text.

use bellwether_group::{edits::GroupRefused, roles::RoleRefused, takeover};
use bellwether_manager::{
    AdoptError, BatchError, ChangeError, ConfirmError, DecideError, DiscardError, EditError, EnterError, ForgetError,
    HandOverError, PreviewError, PublishError, ReadError, RollbackError, past::FindError,
};
use bellwether_member::AskError;
use bellwether_proto::{
    Malformed,
    advice::{self, Advice, Advise, Outcome},
    error::chain,
    name::ServerName,
};
use bellwether_store::{replace::ReplaceError, scan::ScanError, state::record::SaveError};
use tonic::{Code, Status};

use crate::drift::ContentError;

/// An error with a code. The refusal of a rule is a failed precondition (nothing was changed); the system's is
/// internal.
pub(crate) trait Refusal: Advise + Sized + 'static {
    fn code(&self) -> Code;

    /// How the request ended.
    fn outcome(&self) -> Outcome {
        Outcome::of_code(self.code())
    }
}

/// The answer for `error`.
pub(crate) fn refusal<E: Refusal>(error: E) -> Status {
    advice::status(error.code(), error.outcome(), &chain(&error), error.advice().as_ref())
}

/// The answer to a request that was refused before anything was changed, with what to do.
pub(crate) fn refused(code: Code, message: impl AsRef<str>, advice: impl Into<Option<Advice>>) -> Status {
    advice::status(code, Outcome::Refused, message.as_ref(), advice.into().as_ref())
}

/// Another server's answer, in its name. Its advice is marked as its own, and its commands are not offered to be run.
pub(crate) fn of(server: &ServerName, status: &Status) -> Status {
    let clean = |text: &str| -> String {
        text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
    };
    let (outcome, advice) = advice::read(status);
    let advice = advice.map(|advice| Advice::say(format!("{server} says: {}", clean(&advice.hint))));
    advice::status(status.code(), outcome, &format!("{server}: {}", clean(status.message())), advice.as_ref())
}

impl Refusal for GroupRefused {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
}

impl Refusal for EditError {
    fn code(&self) -> Code {
        match self {
            Self::Refused(_) => Code::FailedPrecondition,
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Save(save) => save.code(),
            Self::Tokens(_) => Code::Internal,
            Self::Disputed(_) => Code::FailedPrecondition,
            Self::Stopping => Code::Unavailable,
        }
    }

    fn outcome(&self) -> Outcome {
        if matches!(self, Self::Stopping) { Outcome::Refused } else { Outcome::of_code(self.code()) }
    }
}

impl Refusal for SaveError {
    fn code(&self) -> Code {
        match self {
            Self::Superseded(_) => Code::FailedPrecondition,
            Self::State(_) => Code::Internal,
        }
    }
}

impl Refusal for RoleRefused {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
}

impl Refusal for HandOverError {
    fn code(&self) -> Code {
        match self {
            Self::Refused(_) | Self::Unpublished(_) | Self::UnderWay(_) | Self::Held(_) | Self::Behind { .. } => {
                Code::FailedPrecondition
            }
            Self::Publish(publish) => publish.code(),
            Self::Malformed(_) => Code::Internal,
            Self::Save(save) => save.code(),
        }
    }
}

impl Refusal for takeover::Refused {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
}

impl Refusal for EnterError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Token(_) => Code::PermissionDenied,
            Self::Edit(edit) => edit.code(),
            Self::Set(_) | Self::Level { .. } | Self::OutOfReach { .. } | Self::LongAddress(_) => {
                Code::FailedPrecondition
            }
            Self::Save(_) => Code::Internal,
        }
    }
}

impl Refusal for PreviewError {
    fn code(&self) -> Code {
        match self {
            Self::Enter(enter) => enter.code(),
            Self::Make(publish) => publish.code(),
        }
    }
}

impl Refusal for PublishError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Frightening(_)
            | Self::Level(_)
            | Self::Rejected(_)
            | Self::NoPath(_)
            | Self::Waits(_)
            | Self::InBatch(_)
            | Self::Checkout(_)
            | Self::Edited(_)
            | Self::Disputed(_)
            | Self::Scan(ScanError::Elsewhere { .. }) => Code::FailedPrecondition,
            Self::Scan(_) | Self::Tree(_) | Self::Pack(_) | Self::History(_) | Self::Live(_) => Code::Internal,
            Self::Stopping => Code::Unavailable,
        }
    }
}

impl Refusal for ChangeError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            // The file was changed but not published, so this is not a refusal without effect.
            Self::Replace(ReplaceError::Io(..)) => Code::Internal,
            Self::Rejected(_) => Code::FailedPrecondition,
            Self::Publish(_) => Code::Internal,
            Self::Disputed(_)
            | Self::InBatch(_)
            | Self::NoSet(_)
            | Self::Excluded(_)
            | Self::Local(_)
            | Self::Conflict(..)
            | Self::Replace(_)
            | Self::Unpublished(_)
            | Self::Held(_)
            | Self::Frightening(..)
            | Self::Rules(_) => Code::FailedPrecondition,
        }
    }
}

impl Refusal for AdoptError {
    fn code(&self) -> Code {
        match self {
            Self::Disputed(_)
            | Self::InBatch(_)
            | Self::Conflict(_)
            | Self::Unpublished(_)
            | Self::Held(_)
            | Self::Unknown(_)
            | Self::Unfit(_)
            | Self::Frightening(_)
            | Self::Rejected(_)
            | Self::Refused(_) => Code::FailedPrecondition,
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Scan(_) | Self::Failed(_) | Self::Publish(_) => Code::Internal,
        }
    }
}

impl Refusal for FindError {
    fn code(&self) -> Code {
        match self {
            Self::Newer { .. } | Self::Dropped { .. } | Self::Older { .. } | Self::Elsewhere { .. } => Code::NotFound,
            Self::History(_) => Code::Internal,
        }
    }
}

impl Refusal for RollbackError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Find(find) => find.code(),
            Self::Hold(edit) => edit.code(),
            Self::Disputed(_)
            | Self::InBatch(_)
            | Self::NotHead(_)
            | Self::NoSet(_)
            | Self::NoPlace { .. }
            | Self::Unfit { .. }
            | Self::Unpublished { .. }
            | Self::OtherRules
            | Self::Frightening { .. }
            | Self::Refused(_) => Code::FailedPrecondition,
            Self::Rejected(_) => Code::FailedPrecondition,
            Self::History(..) | Self::Scan(_) | Self::Failed(_) | Self::Publish(_) => Code::Internal,
        }
    }
}

impl Refusal for DiscardError {
    fn code(&self) -> Code {
        match self {
            Self::Disputed(_)
            | Self::InBatch(_)
            | Self::Checkout(_)
            | Self::NoSet(_)
            | Self::Unfit(_)
            | Self::OtherRules
            | Self::Refused(_) => Code::FailedPrecondition,
            Self::History(_) | Self::Scan(_) | Self::Failed(_) | Self::Live(_) => Code::Internal,
            Self::Stopping => Code::Unavailable,
        }
    }
}

impl Refusal for BatchError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Disputed(_)
            | Self::InBatch(_)
            | Self::Held(_)
            | Self::HeldByRollout(_)
            | Self::Stale
            | Self::Over => Code::FailedPrecondition,
            Self::Begin(publish) | Self::Publish(publish) => publish.code(),
            Self::Save(_) | Self::PutBack(_) => Code::Internal,
            Self::Stopping => Code::Unavailable,
        }
    }
}

impl Refusal for ForgetError {
    fn code(&self) -> Code {
        match self {
            Self::NoPlace(_) => Code::NotFound,
            Self::Find(find) => find.code(),
            Self::Disputed(_)
            | Self::Only { .. }
            | Self::Empty(_)
            | Self::Present { .. }
            | Self::Unpublished { .. }
            | Self::Large { .. }
            | Self::Rollout(_) => Code::FailedPrecondition,
            Self::Edit(edit) => edit.code(),
            // The note is in the record, so this is not a refusal without effect.
            Self::NotYet(_) | Self::History(_) => Code::Internal,
            Self::Stopping => Code::Unavailable,
        }
    }
}

impl Refusal for DecideError {
    fn code(&self) -> Code {
        match self {
            Self::Disputed(_) | Self::NotDecided(_) => Code::FailedPrecondition,
            Self::Save(_) => Code::Internal,
            Self::Stopping => Code::Unavailable,
        }
    }
}

impl Refusal for ConfirmError {
    fn code(&self) -> Code {
        match self {
            Self::Nothing(_) | Self::NotTheHead { .. } | Self::Late(_) => Code::FailedPrecondition,
            Self::Edit(edit) => edit.code(),
        }
    }
}

impl Refusal for AskError {
    fn code(&self) -> Code {
        match self {
            Self::NoRevision | Self::Fault(_) | Self::Missing(_) | Self::Refused(_) | Self::Receive(_) => {
                Code::FailedPrecondition
            }
            Self::Busy => Code::ResourceExhausted,
            Self::Stopping => Code::Unavailable,
            Self::Failed(_) | Self::Scan(_) => Code::Internal,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(_) => Outcome::Failed,
            Self::NoRevision
            | Self::Fault(_)
            | Self::Missing(_)
            | Self::Busy
            | Self::Stopping
            | Self::Scan(_)
            | Self::Receive(_)
            | Self::Refused(_) => Outcome::Refused,
        }
    }
}

impl Refusal for ContentError {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
}

impl Refusal for Malformed {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl Refusal for ReadError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            Self::NoFile { .. } => Code::NotFound,
            Self::Find(find) => find.code(),
            _ => Code::FailedPrecondition,
        }
    }
}
