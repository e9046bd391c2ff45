//! What a `forget` erases and costs.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
};

use bellwether_group::edits::GroupRefused;
use bellwether_proto::{
    advice::{Advice, Advise},
    entry::EntryPath,
    hash::Hash,
    limits,
    name::SetName,
    record::Forgotten,
    revision::{Number, RevisionName},
};
use bellwether_store::{
    history::{HistoryError, Stored},
    state::record::decide,
    tree::Tree,
};

use super::runs::{Earlier, Run, Runs, earlier};
use crate::{
    EditError,
    past::{FindError, Past},
    shared::Shared,
};

/// A request.
#[derive(Debug, Clone)]
pub struct Forget {
    /// A file, or a directory with all below it.
    pub place: (SetName, EntryPath),
    /// Only the contents that the place had in this revision; none: all but the present ones.
    pub at: Option<RevisionName>,
    /// The author, with the server.
    pub author: String,
    /// Whether to only show the result.
    pub dry_run: bool,
}

/// What is erased, and what that costs.
#[derive(Debug, Clone)]
pub struct ForgetPlan {
    /// The erased contents.
    pub contents: Vec<Run>,
    /// The contents that the head has at the place, and that stay.
    pub stays: Vec<Run>,
    /// The number of revisions that are dropped from the manager's history.
    pub revisions: u64,
    /// The oldest and the newest of them; none: no revision is dropped.
    pub range: Option<(Number, Number)>,
    /// The note for the group record; its id is 0 until it is in the record.
    pub note: Forgotten,
}

/// Nothing was changed, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(Arc<str>),
    /// There is no such revision.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The history never had it.
    #[error("no revision in the history has a file {0}")]
    NoPlace(String),
    /// There is nothing before the present content.
    #[error("{place} has had its present content since revision {since}, the first one of it that the history has")]
    Only {
        /// `SET:PATH`.
        place: String,
        /// The revision.
        since: Number,
    },
    /// The earlier contents were empty files.
    #[error("the earlier content of {0} is empty, so there is nothing to erase")]
    Empty(String),
    /// The head has an earlier content.
    #[error(
        "the content that {place} had in revision {first} is still in the head, in {}; nothing was changed",
        present.join(", ")
    )]
    Present {
        /// `SET:PATH`.
        place: String,
        /// The first revision with the content.
        first: Number,
        /// The places in the head.
        present: Vec<String>,
        /// Another earlier content that the head does not have: its file, and a revision with it.
        other: Option<(String, Number)>,
    },
    /// The manager's directories have an earlier content.
    #[error(
        "the content that {place} had is in the manager's directories, in {present}, and not published; nothing was changed"
    )]
    Unpublished {
        /// `SET:PATH`.
        place: String,
        /// The place.
        present: String,
    },
    /// The contents have too many chunks.
    #[error("the earlier contents of {place} have {chunks} chunks that the head does not have; the limit is {}", limits::FORGOTTEN.1)]
    Large {
        /// `SET:PATH`.
        place: String,
        /// The number of chunks.
        chunks: usize,
    },
    /// A rollout may still need earlier revisions.
    #[error("the rollout of revision {0} is not over, and may still need earlier revisions; nothing was changed")]
    Rollout(Number),
    /// The history cannot be read.
    #[error("the history cannot be searched; nothing was changed")]
    History(#[from] HistoryError),
    /// The record is not changed.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The note is in the record, and the content is still here.
    #[error("every server is told to erase the content, but this manager still holds it: {0}; it is tried again")]
    NotYet(String),
    /// The manager stops.
    #[error("the manager is stopping")]
    Stopping,
}

impl From<GroupRefused> for ForgetError {
    fn from(refused: GroupRefused) -> Self {
        Self::Edit(refused.into())
    }
}

impl Advise for ForgetError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Disputed(_) => Some(decide()),
            Self::NoPlace(_) => Some(Advice::run("see", "bellwether log")),
            Self::Only { .. } => Some(Advice::say("change or remove the file first, and publish that")),
            Self::Present { other, .. } => {
                let first = Advice::say("change or remove these files first, and publish that");
                Some(match other {
                    Some((place, revision)) => {
                        let one = format!("bellwether forget {place} --at {revision}");
                        first.or(&Advice::run("or, to erase only the content of one revision, at the manager", one))
                    }
                    None => first,
                })
            }
            Self::Find(find) => find.advice(),
            Self::Unpublished { .. } => Some(Advice::run("to drop the edits, at the manager", "bellwether discard")),
            Self::Large { .. } => Some(Advice::say("forget the files one after the other")),
            Self::Rollout(_) => Some(Advice::run("see", "bellwether rollout show")),
            Self::Edit(edit) => edit.advice(),
            Self::NotYet(_) => Some(Advice::run("see", "bellwether status")),
            Self::Empty(_) | Self::History(_) | Self::Stopping => None,
        }
    }
}

/// Finds the contents and the cost. Blocks: the changes of every pack are read. `known`: the sets as last scanned.
pub(crate) fn plan(shared: &Arc<Shared>, known: &Tree, forget: &Forget) -> Result<ForgetPlan, ForgetError> {
    shared.undisputed().map_err(ForgetError::Disputed)?;
    if let Some(revision) = shared.rollouts.under_way() {
        return Err(ForgetError::Rollout(revision));
    }
    let (past, head) = (Past::of(shared), shared.head.borrow().clone());
    let place = format!("{}:{}", forget.place.0, forget.place.1);
    let at = forget.at.map(|name| past.find(name)).transpose()?.map(|revision| revision.header().number());
    let (mut earlier_runs, mut stays) = runs(past.line(), &forget.place)?;
    if let Some(at) = at {
        let had = |run: &Run| run.first <= at && at <= run.last;
        earlier_runs.retain(had);
        // A present content that is meant is in the head, and the rule below says so.
        let (meant, others) = stays.into_iter().partition(had);
        earlier_runs.extend::<Vec<Run>>(meant);
        stays = others;
    }
    if earlier_runs.is_empty() {
        return Err(match stays.first() {
            Some(run) => ForgetError::Only { place, since: run.first },
            None => ForgetError::NoPlace(place),
        });
    }
    let chunks = match earlier(&earlier_runs, &head.tree) {
        Earlier::Gone(chunks) => chunks,
        Earlier::Present(run, present) => {
            let place = |run: &Run| format!("{}:{}", run.set, run.path);
            let is_gone = |run: &&Run| matches!(earlier(std::slice::from_ref(*run), &head.tree), Earlier::Gone(chunks) if !chunks.is_empty());
            let other = earlier_runs.iter().rfind(is_gone).map(|run| (place(run), run.last));
            return Err(ForgetError::Present { place: place(&run), first: run.first, present, other });
        }
    };
    if chunks.is_empty() {
        return Err(ForgetError::Empty(place));
    }
    if chunks.len() > limits::FORGOTTEN.1 {
        return Err(ForgetError::Large { place, chunks: chunks.len() });
    }
    let wanted: HashSet<Hash> = chunks.iter().copied().collect();
    if let Some(present) = known.holder(&wanted) {
        return Err(ForgetError::Unpublished { place, present });
    }
    let until = head.stored.header.number();
    let history = shared.history.read().unwrap_or_else(PoisonError::into_inner);
    let holding = history.holding(&wanted, until.sequence, &mut HashSet::new())?;
    drop(history);
    let begins = holding.begins.map_or(until, |base| base.header.number());
    let lost: Vec<Number> = past.line().iter().map(|stored| stored.header.number()).filter(|n| *n < begins).collect();
    let note = Forgotten { id: 0, place, chunks, until, begins, by: String::new(), time_ms: 0, done: false };
    let range = lost.last().copied().zip(lost.first().copied());
    Ok(ForgetPlan { contents: once(earlier_runs), stays, revisions: lost.len() as u64, range, note })
}

/// Each content of a file once, with its first run.
fn once(runs: Vec<Run>) -> Vec<Run> {
    let mut last: HashMap<(SetName, EntryPath, Hash), Number> = HashMap::new();
    let key = |run: &Run| (run.set.clone(), run.path.clone(), run.content.hash());
    for run in &runs {
        last.insert(key(run), run.last);
    }
    let first = |run: Run| last.remove(&key(&run)).map(|last| Run { last, ..run });
    runs.into_iter().filter_map(first).collect()
}

/// The runs of a line of revisions, newest first.
fn runs(line: &[Arc<Stored>], place: &(SetName, EntryPath)) -> Result<(Vec<Run>, Vec<Run>), HistoryError> {
    let mut runs = Runs::new(place.clone());
    for stored in line.iter().rev() {
        let mut changes = Vec::new();
        stored.read_changes(&mut |mut list| changes.append(&mut list))?;
        runs.take(stored.header.number(), stored.base, &changes);
    }
    Ok(runs.finish())
}
