//! What an error of the manager is to the one who asked: the code that sets a command's exit code, and the text.

use bellwether_manager::{
    AdoptError, ChangeError, EditError, EnterError, HandOverError, PreviewError, PublishError, ReadError, RoleRefused,
    SaveError, group::GroupRefused,
};
use bellwether_proto::Malformed;
use tonic::{Code, Status};

use crate::{drift::ContentError, error::chain, member::AskError};

/// Characters of an answer's text.
const SAID: usize = 4_000;

/// An error that has a code. What a rule refused is a failed precondition (nothing was changed); what the system refused
/// is internal.
pub(crate) trait Refusal: std::error::Error + Sized + 'static {
    /// Its code.
    fn code(&self) -> Code;
}

/// The answer for `error`.
pub(crate) fn refusal<E: Refusal>(error: E) -> Status {
    // It travels in a header, and may name a path of 4,000 escaped bytes.
    Status::new(error.code(), chain(&error).chars().take(SAID).collect::<String>())
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
            Self::Stopping => Code::Unavailable,
        }
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
            Self::Refused(_) | Self::Unpublished(_) | Self::Behind { .. } => Code::FailedPrecondition,
            Self::Publish(publish) => publish.code(),
            Self::Malformed(_) => Code::Internal,
            Self::Save(save) => save.code(),
        }
    }
}

impl Refusal for crate::reform::Refused {
    fn code(&self) -> Code {
        match self {
            Self::NotManager { .. } => Code::FailedPrecondition,
            Self::Reform(_) => Code::Internal,
            Self::Stopping(_) => Code::Unavailable,
        }
    }
}

impl Refusal for EnterError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Token(_) => Code::PermissionDenied,
            Self::Edit(edit) => edit.code(),
            Self::Set(_) => Code::FailedPrecondition,
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
            Self::Frightening(_) | Self::NoPath(_) => Code::FailedPrecondition,
            Self::Scan(_) | Self::Pack(_) | Self::History(_) => Code::Internal,
            Self::Stopping => Code::Unavailable,
        }
    }
}

impl Refusal for ChangeError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::InvalidArgument,
            // The file was changed: whatever kept it from being published, this is no refusal that left all as it was.
            Self::Io { .. } | Self::Publish(_) => Code::Internal,
            Self::NoSet(_)
            | Self::Excluded { .. }
            | Self::Conflict { .. }
            | Self::Held { .. }
            | Self::Unpublished(_)
            | Self::Frightening { .. }
            | Self::Elsewhere { .. }
            | Self::Rules(_) => Code::FailedPrecondition,
        }
    }
}

impl Refusal for AdoptError {
    fn code(&self) -> Code {
        match self {
            Self::Conflict(_)
            | Self::Unpublished(_)
            | Self::Unknown(_)
            | Self::Unfit(_)
            | Self::Frightening(_)
            | Self::Refused(_) => Code::FailedPrecondition,
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Scan(_) | Self::Failed(_) | Self::Publish(_) => Code::Internal,
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
            _ => Code::FailedPrecondition,
        }
    }
}
