//! Puts or removes one file by compare-and-swap (W5): checks the request, and compares the set's directory on this server with
//! the caller's expectation. The store replaces the file, and the publisher calls this and publishes at once.

use std::time::Instant;

use bellwether_group::rollout::Hold;
use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    entry::EntryPath,
    hash::Hash,
    limits,
    name::SetName,
    revision::{SignedHeader, check_message},
    v1,
};
use bellwether_store::{
    replace::{LookedAt, ReplaceError, Replaced},
    scan::{Excludes, LeftAlone, ScanError, Source, content},
    state::record::decide,
    tree::{Change, Edit, Node},
};

use crate::{
    publish::{
        batch::InBatch,
        rejection::Rejection,
        round::{Prepared, PublishError, back_or_accept, decide_rollout, publish_or_discard},
        safety::{Fright, Step},
    },
    shared::Shared,
};

/// A checked request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) set: SetName,
    pub(crate) path: EntryPath,
    pub(crate) expected: Expected,
    pub(crate) what: Operation,
    pub(crate) author: String,
    pub(crate) message: String,
    /// Whether a person confirms the change even if most of the set is gone after it.
    pub(crate) accept: bool,
}

/// The caller's expectation of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Anything,
    Nothing,
    File(Hash),
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Put { data: bytes::Bytes, mode: Option<u16> },
    Remove,
}

/// The result of a change.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The revision with the change; none if nothing had to be changed.
    pub revision: Option<SignedHeader>,
}

/// Nothing was changed, unless the error says otherwise. A file is named `SET:PATH`.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The request is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(std::sync::Arc<str>),
    /// The group has no such set.
    #[error("there is no set {0} in this group")]
    NoSet(SetName),
    /// The group does not manage the file.
    #[error("{0} is excluded from the group")]
    Excluded(String),
    /// The file belongs to each server alone.
    #[error("{0} is local: each server has its own file there; nothing was changed")]
    Local(String),
    /// The file was changed by somebody else, with its present state.
    #[error("{0} is not as expected ({1})")]
    Conflict(String, String),
    /// The file is unchanged.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// A batch holds publishing.
    #[error(transparent)]
    InBatch(#[from] InBatch),
    /// The rollout of the head is stopped, or waits for a confirmation: only a publish, a rollback or a discard goes on.
    #[error("{0}")]
    Held(Hold),
    /// The manager has unpublished edits.
    #[error("there are edits at the manager that are not published ({0})")]
    Unpublished(String),
    /// Most of the set would be gone.
    #[error("with this change, {1}")]
    Frightening(String, Fright),
    /// The set's patterns cannot be used.
    #[error("the rules of the set cannot be used")]
    Rules(#[from] ScanError),
    /// The file was changed at the manager, but there is no revision of it yet.
    #[error("the file was changed at the manager, but is not published yet")]
    Publish(#[source] PublishError),
    /// A command of the set on this server refuses the content, and the manager's sets are as they were.
    #[error("{}", .0.of_change())]
    Rejected(Rejection),
}

impl From<PublishError> for ChangeError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Rejected(rejection) => Self::Rejected(rejection),
            other => Self::Publish(other),
        }
    }
}

impl Advise for ChangeError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::NoSet(_) => Some(Advice::run("see", "bellwether group show")),
            Self::Conflict(file, _) | Self::Replace(ReplaceError::Changed(file)) => {
                Some(Advice::run("read it again and repeat the change", format!("bellwether get {file}")))
            }
            Self::InBatch(batch) => batch.advice(),
            Self::Held(hold) => Some(decide_rollout(*hold)),
            Self::Unpublished(_) => Some(publish_or_discard()),
            Self::Publish(publish) => publish.advice(),
            Self::Rejected(rejection) => Some(rejection.advice_for_change()),
            Self::Frightening(file, _) => {
                Some(Advice::run("if that is meant", format!("bellwether rm --accept {file}")))
            }
            Self::Replace(ReplaceError::Elsewhere(_)) => Some(back_or_accept()),
            Self::Disputed(_) => Some(decide()),
            Self::Local(_) => Some(Advice::say("edit the file on the server that it belongs to")),
            Self::Malformed(_) | Self::Excluded(_) | Self::Replace(_) | Self::Rules(_) => None,
        }
    }
}

impl TryFrom<v1::ChangeRequest> for Asked {
    type Error = Malformed;

    fn try_from(wire: v1::ChangeRequest) -> Result<Self, Malformed> {
        let path = EntryPath::new(&wire.path)?;
        if path.is_root() {
            return Err(Malformed::new("the root of a set is not a file"));
        }
        let expected = match wire.expected {
            None => Expected::Anything,
            Some(empty) if empty.is_empty() => Expected::Nothing,
            Some(hash) => Expected::File(Hash::try_from(hash.as_ref())?),
        };
        let what = match wire.change {
            Some(v1::change_request::Change::Put(v1::FileContent { data, mode })) => {
                Operation::Put { data, mode: mode.map(check_mode).transpose()? }
            }
            Some(v1::change_request::Change::Remove(true)) => Operation::Remove,
            Some(v1::change_request::Change::Remove(false)) | None => {
                return Err(Malformed::new("a change that changes nothing"));
            }
        };
        if let Operation::Put { data, .. } = &what
            && data.len() > limits::PUT
        {
            return Err(Malformed::new(format!(
                "{} bytes; a file put this way has at most {}",
                data.len(),
                limits::PUT
            )));
        }
        check_message(&wire.message)?;
        let (author, message, accept) = (wire.author, wire.message, wire.accept);
        Ok(Self { set: wire.set.parse()?, path, expected, what, author, message, accept })
    }
}

fn check_mode(mode: u32) -> Result<u16, Malformed> {
    u16::try_from(mode)
        .ok()
        .filter(|mode| mode & !0o777 == 0)
        .ok_or_else(|| Malformed::new(format!("mode {mode:o}; a file put this way may have 0 to 777")))
}

/// Checks whether the change may be made: a row of changes must not empty a set. Only a removal takes content away.
pub(crate) fn judge(shared: &Shared, asked: &Asked) -> Result<(), ChangeError> {
    if asked.accept || !matches!(asked.what, Operation::Remove) {
        return Ok(());
    }
    let head = shared.head.borrow().tree.clone();
    // The removal of a missing file takes nothing away.
    let Ok(now) = head.edit([(asked.set.clone(), asked.path.clone(), Edit::Remove)]) else { return Ok(()) };
    let change = Change { set: asked.set.clone(), path: asked.path.clone(), entry: None };
    let mut step = Step::new(&head, &now, &[change]);
    match shared.guard().judge(&mut step, &now, Instant::now()) {
        None => Ok(()),
        Some(fright) => Err(ChangeError::Frightening(asked.file(), fright)),
    }
}

/// Makes the change in the set's directory. The bytes are durable when this returns, and the name is after [`Replaced::sync`].
/// None if nothing had to be changed.
pub(crate) fn make(shared: &Shared, asked: &Asked) -> Result<Option<Replaced>, ChangeError> {
    let source = shared.sources().into_iter().find(|source| source.rules.name == asked.set);
    make_in(&source.ok_or_else(|| ChangeError::NoSet(asked.set.clone()))?, asked)
}

fn make_in(source: &Source, asked: &Asked) -> Result<Option<Replaced>, ChangeError> {
    match Excludes::new(&source.rules)?.reason(&asked.path, false) {
        Some(LeftAlone::Local) => return Err(ChangeError::Local(asked.file())),
        Some(LeftAlone::Excluded | LeftAlone::Staging) => return Err(ChangeError::Excluded(asked.file())),
        None => {}
    }
    let there = LookedAt::open(source, &asked.path)?;
    asked.check(&there)?;
    Ok(match &asked.what {
        Operation::Put { data, mode } => there.replace(data, *mode)?,
        Operation::Remove => there.remove()?,
    })
}

impl Asked {
    fn file(&self) -> String {
        format!("{}:{}", self.set, self.path)
    }

    /// The error if the tree that is to be published has other content than this change has made.
    pub(crate) fn check_found(&self, prepared: &Prepared) -> Result<(), ChangeError> {
        let found = prepared.tree().get(&self.set, &self.path);
        let is_found = match (&self.what, &found) {
            (Operation::Put { data, .. }, Some(Node::File { content: found, .. })) => {
                content::cut(&data[..], data.len() as u64).is_ok_and(|made| made == *found)
            }
            (Operation::Remove, None) => true,
            (Operation::Put { .. }, Some(Node::Directory(_) | Node::Link { .. }) | None)
            | (Operation::Remove, Some(_)) => false,
        };
        if is_found || prepared.is_unread(&self.set, &self.path) {
            return Ok(());
        }
        let found = "it was edited while this change was published, and the edit stays".to_owned();
        Err(ChangeError::Conflict(self.file(), found))
    }

    fn check(&self, there: &LookedAt) -> Result<(), ChangeError> {
        let found = match self.expected {
            Expected::Nothing if there.is_there() => "there is a file".to_owned(),
            Expected::Anything | Expected::Nothing => return Ok(()),
            Expected::File(expected) => match there.hash()? {
                Some(hash) if hash == expected => return Ok(()),
                Some(hash) => format!("its BLAKE3 is {hash}"),
                // Removing twice is removing once.
                None if matches!(self.what, Operation::Remove) => return Ok(()),
                None => "there is none".to_owned(),
            },
        };
        Err(ChangeError::Conflict(self.file(), found))
    }
}

#[cfg(test)]
mod tests;
