//! Makes a member's edits the manager's own (W3, `drift keep`): all of them or none, each only if the head still has
//! what was edited. A journalled switch puts them into the sets here; the publisher calls this and publishes at once.

use std::time::Instant;

use bellwether_group::rollout::Hold;
use bellwether_proto::{
    advice::{Advice, Advise},
    entry::Chunk,
    revision::{RevisionId, SignedHeader},
};
use bellwether_store::{
    apply::{self, Failed, Recovered, Refused, Site},
    history::{History, HistoryError},
    scan::ScanError,
    state::record::decide,
    tree::{Change, Tree},
};
use bytes::Bytes;

use crate::{
    publish::{
        batch::InBatch,
        head::Head,
        own_sets::{self, Live, SwitchError, entry, lines, named, same},
        rejection::Rejection,
        round::{PublishError, decide_rollout, publish_or_discard},
        safety::{Fright, Step},
    },
    shared::Shared,
};

/// The label of kept copies that this makes.
const LABEL: &str = "kept";

/// A request.
#[derive(Debug)]
pub struct Adopt {
    /// The revision that was edited.
    pub at: RevisionId,
    /// The edits, sorted by (set, path), none twice.
    pub edits: Vec<Change>,
    /// The content of their files; the hashes were computed from the bytes.
    pub chunks: Vec<(Chunk, Bytes)>,
    /// The author.
    pub author: String,
    /// The reason.
    pub message: String,
    /// Whether to only show the result.
    pub dry_run: bool,
    /// Whether a person confirms that most of a set goes.
    pub accept: bool,
}

/// The result.
#[derive(Debug, Clone, Default)]
pub struct Adopted {
    /// The revision that has the edits; none if nothing changed, or with `dry_run`.
    pub revision: Option<SignedHeader>,
    /// The number of entries that became, or would become, the manager's.
    pub count: u64,
    /// The first hundred, as `~ SET:PATH`.
    pub first: Vec<String>,
}

/// The edits did not become a revision. Nothing was changed, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(std::sync::Arc<str>),
    /// The message is malformed.
    #[error(transparent)]
    Malformed(#[from] bellwether_proto::Malformed),
    /// The manager has other content there by now.
    #[error("the manager has changed {0} since")]
    Conflict(String),
    /// A batch holds publishing.
    #[error(transparent)]
    InBatch(#[from] InBatch),
    /// The rollout of the head is stopped, or waits for a confirmation: only a publish, a rollback or a discard goes on.
    #[error("{0}")]
    Held(Hold),
    /// The manager has unpublished edits.
    #[error("there are edits at the manager that are not published ({0})")]
    Unpublished(String),
    /// The revision that was edited is too old.
    #[error("the revision that was edited is no longer in the manager's history")]
    Unknown(#[source] HistoryError),
    /// The edits do not fit the head.
    #[error("the edits do not fit the manager's content ({0})")]
    Unfit(String),
    /// Most of a set would be gone.
    #[error("with these edits, {0}")]
    Frightening(Fright),
    /// The sets cannot be read here.
    #[error("nothing was changed: the manager's sets cannot be read")]
    Scan(#[from] ScanError),
    /// They cannot be put into the sets here.
    #[error("the edits cannot be put into the manager's sets")]
    Refused(#[from] Refused),
    /// The switch failed.
    #[error("the edits could not be put into the manager's sets")]
    Failed(#[from] Failed),
    /// They are in the manager's sets, but there is no revision of them yet.
    #[error("the edits are in the manager's sets, but are not published yet")]
    Publish(#[source] PublishError),
    /// A command of the set on this server refuses the content, and the manager's sets are as they were.
    #[error("{}", .0.of_change())]
    Rejected(Rejection),
}

impl From<SwitchError> for AdoptError {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::Refused(refused) => refused.into(),
            SwitchError::Failed(failed) => failed.into(),
        }
    }
}

impl From<PublishError> for AdoptError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Rejected(rejection) => Self::Rejected(rejection),
            other => Self::Publish(other),
        }
    }
}

impl Advise for AdoptError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Conflict(_) => Some(
                Advice::run("apply the edit to the manager's file", "bellwether edit SET:FILE")
                    .or(&Advice::run("or undo the edit, at the server", "bellwether drift revert NAME")),
            ),
            Self::InBatch(batch) => batch.advice(),
            Self::Held(hold) => Some(decide_rollout(*hold)),
            Self::Unpublished(_) => Some(publish_or_discard()),
            Self::Unknown(_) => Some(Advice::run("bring that server to the head", "bellwether sync NAME")),
            Self::Unfit(_) => Some(Advice::say("keep the directories that the edits are in, too")),
            Self::Publish(publish) => publish.advice(),
            Self::Rejected(rejection) => Some(rejection.advice_for_change()),
            Self::Frightening(_) => Some(Advice::run("if that is meant", "bellwether drift keep NAME --accept")),
            Self::Disputed(_) => Some(decide()),
            Self::Malformed(_) | Self::Scan(_) | Self::Refused(_) | Self::Failed(_) => None,
        }
    }
}

/// The result, or the expected one: the edits that were put into the sets (none if nothing was done), and the answer.
pub(crate) struct Made {
    pub(crate) edits: Vec<Change>,
    pub(crate) adopted: Adopted,
}

/// Puts the edits into the sets, durably. `known`: the sets as last scanned. Blocks.
pub(crate) fn make(shared: &Shared, known: &Tree, adopt: &Adopt) -> Result<Made, AdoptError> {
    let head = shared.head.borrow().clone();
    let edited = edited(shared, &head, adopt.at)?;
    let edits = due(&edited, &head.tree, &adopt.edits)?;
    let adopted = Adopted { revision: None, count: edits.len() as u64, first: lines(&edits, &head.tree) };
    let target = head.tree.apply(edits.clone()).map_err(|e| AdoptError::Unfit(e.to_string()))?;
    let mut step = Step::new(&head.tree, &target, &edits);
    if !adopt.accept
        && let Some(fright) = shared.guard().judge(&mut step, &target, Instant::now())
    {
        return Err(AdoptError::Frightening(fright));
    }
    if adopt.dry_run || edits.is_empty() {
        return Ok(Made { edits: Vec::new(), adopted });
    }
    let other_rules = || AdoptError::Unpublished("the sets have other rules than before".to_owned());
    let live = Live::scan(own_sets::sources(shared, &head).ok_or_else(other_rules)?, known, &edits)?;
    let unpublished = live.unpublished(&head.tree, &edits);
    if !unpublished.is_empty() {
        return Err(AdoptError::Unpublished(named(&unpublished)));
    }
    let mut plan = live.plan(shared, (&head.tree, &target), edits.clone(), LABEL)?;
    for (chunk, bytes) in &adopt.chunks {
        plan.supply(&chunk.hash, bytes)?;
    }
    plan.look_elsewhere(&live.tree)?;
    own_sets::switch(shared, plan)?;
    Ok(Made { edits, adopted })
}

/// Completes or takes back a switch that a crash interrupted; differences from the head are published then. Edits that
/// were being kept are taken back, since this was not confirmed. `at`: the revision that was noted while this server
/// was a member. Returns the one whose switch was completed.
pub(crate) fn recover(site: &Site, at: Option<RevisionId>, history: &History) -> Result<Option<RevisionId>, Failed> {
    match apply::recover_known(site, at, &|revision| history.get(revision).is_some())? {
        Recovered::Clean => Ok(None),
        Recovered::Back => {
            tracing::warn!("an interrupted switch was taken back");
            Ok(None)
        }
        Recovered::Forward(revision) => {
            tracing::warn!("an interrupted switch was completed");
            if let Err(error) = apply::forget(site) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the journal is left; the next start tries again"
                );
            }
            Ok(Some(revision))
        }
    }
}

fn edited(shared: &Shared, head: &Head, at: RevisionId) -> Result<Tree, AdoptError> {
    if at == head.id() {
        return Ok(head.tree.as_ref().clone());
    }
    let history = shared.history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    history.tree(at).map_err(AdoptError::Unknown)
}

/// The edits that the head lacks. `edited` is the tree on which they were made.
fn due(edited: &Tree, head: &Tree, edits: &[Change]) -> Result<Vec<Change>, AdoptError> {
    let (mut due, mut conflicts) = (Vec::new(), Vec::new());
    for edit in edits {
        let (before, now) = (edited.get(&edit.set, &edit.path), head.get(&edit.set, &edit.path));
        if edit.path.is_root() && edit.entry.is_none() {
            return Err(AdoptError::Unfit(format!("the whole directory of set {} is gone", edit.set)));
        }
        if entry(now.as_ref()) == edit.entry {
            continue;
        }
        if same(before.as_ref(), now.as_ref(), edit) {
            due.push(edit.clone());
        } else {
            conflicts.push(edit);
        }
    }
    if conflicts.is_empty() { Ok(due) } else { Err(AdoptError::Conflict(named(&conflicts))) }
}

#[cfg(test)]
mod tests;
