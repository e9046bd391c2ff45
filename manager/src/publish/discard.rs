//! Drops edits of the manager's own sets that are not published: a journalled switch back to the head. What is dropped becomes a
//! kept copy. The publisher calls this.

use std::sync::Arc;

use bellwether_proto::{
    advice::{Advice, Advise},
    entry::EntryPath,
    name::SetName,
};
use bellwether_store::{
    apply::{Failed, Refused},
    history::HistoryError,
    scan::{Look, ScanError, Source, scan},
    state::record::decide,
    tree::{Change, Tree, TreeError},
};

use crate::{
    past::Past,
    publish::{
        batch::InBatch,
        live::{Checkout, LiveError},
        own_sets::{self, Live, SwitchError, lines},
    },
    shared::Shared,
};

/// The label of kept copies that this makes.
const LABEL: &str = "discard";

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Discard {
    /// The places, with all below them; none: all sets.
    pub places: Vec<(SetName, EntryPath)>,
    /// Whether to only show the result.
    pub dry_run: bool,
}

/// The result.
#[derive(Debug, Clone, Default)]
pub struct Discarded {
    /// The number of entries that are as in the head again, or would be.
    pub count: u64,
    /// The first hundred, as `~ SET:PATH`.
    pub first: Vec<String>,
    /// Kept copies of what was dropped, as paths.
    pub kept: Vec<String>,
}

impl Discarded {
    pub(super) fn of(changes: &[Change], live: &Tree) -> Self {
        Self { count: changes.len() as u64, first: lines(changes, live), kept: Vec::new() }
    }

    /// Both together.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.count += other.count;
        self.first.extend(other.first);
        self.kept.extend(other.kept);
        self
    }
}

/// Nothing is dropped. Nothing was changed, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(Arc<str>),
    /// The batch that runs would lose its edits.
    #[error(transparent)]
    InBatch(#[from] InBatch),
    /// No such set.
    #[error("there is no set {0} in this group")]
    NoSet(SetName),
    /// The entries do not fit the head.
    #[error("what the head has there does not fit what is there now")]
    Unfit(#[from] TreeError),
    /// The group's rules for the sets are not those of the head.
    #[error("the group's rules for the sets have changed, and are not published yet")]
    OtherRules,
    /// The head cannot be read.
    #[error("the head cannot be read from the history")]
    History(#[from] HistoryError),
    /// The sets cannot be read here.
    #[error("the manager's sets cannot be read")]
    Scan(#[from] ScanError),
    /// The content cannot be put into the sets here.
    #[error("the content of the head cannot be put into the manager's sets")]
    Refused(#[from] Refused),
    /// The switch failed.
    #[error("the content of the head could not be put into the manager's sets")]
    Failed(#[from] Failed),
    /// A git checkout would lose its `.git`.
    #[error(transparent)]
    Checkout(#[from] Checkout),
    /// The edits at the live paths cannot be dropped. Those in the directories where the sets are edited are.
    #[error("the edits at the paths of the sets cannot be dropped")]
    Live(#[from] LiveError),
    /// The manager stops.
    #[error("the manager is stopping; nothing was dropped")]
    Stopping,
}

impl From<SwitchError> for DiscardError {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::Refused(refused) => refused.into(),
            SwitchError::Failed(failed) => failed.into(),
        }
    }
}

impl Advise for DiscardError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::InBatch(batch) => batch.advice(),
            Self::Checkout(checkout) => checkout.advice(),
            Self::NoSet(_) => Some(Advice::run("see", "bellwether group show")),
            Self::Unfit(_) => Some(Advice::say("name the directories that the entries are in, too")),
            Self::OtherRules => Some(Advice::run("first, at the manager", "bellwether publish")),
            Self::Disputed(_) => Some(decide()),
            Self::History(_) | Self::Scan(_) | Self::Refused(_) | Self::Failed(_) | Self::Live(_) | Self::Stopping => {
                None
            }
        }
    }
}

/// Puts the content of the head into the sets at these places, durably. Blocks. `known`: the sets as last scanned.
pub(crate) fn discard(shared: &Arc<Shared>, known: &Tree, discard: &Discard) -> Result<Discarded, DiscardError> {
    shared.undisputed().map_err(DiscardError::Disputed)?;
    let head = shared.head.borrow().clone();
    let sources = own_sets::sources(shared, &head).ok_or(DiscardError::OtherRules)?;
    if let Some(checkout) = shared.live.checkout(&sources) {
        return Err(checkout.into());
    }
    let live = scan(&sources, known, &Look::Stats)?.tree;
    let target = match discard.places.as_slice() {
        [] => head.tree.as_ref().clone(),
        places => places.iter().try_fold(live.clone(), |target, (set, path)| {
            head.tree.set(set).ok_or_else(|| DiscardError::NoSet(set.clone()))?;
            Ok::<_, DiscardError>(target.with_entry_of(&head.tree, set, path)?)
        })?,
    };
    if discard.dry_run {
        return Ok(Discarded::of(&live.diff(&target), &live));
    }
    switch(shared, sources, live, &target, LABEL)
}

/// Switches the sets from what they hold, `live`, to `target`, durably. What is replaced and not in the head becomes a kept copy
/// with that label. Blocks.
pub(super) fn switch(
    shared: &Arc<Shared>,
    sources: Vec<Source>,
    live: Tree,
    target: &Tree,
    label: &str,
) -> Result<Discarded, DiscardError> {
    let (head, changes) = (shared.head.borrow().clone(), live.diff(target));
    let mut done = Discarded::of(&changes, &live);
    if changes.is_empty() {
        return Ok(done);
    }
    let mut plan = Live::of(sources, live).plan(shared, (&head.tree, target), changes, label)?;
    own_sets::supply(&mut plan, Past::of(shared).packs())??;
    done.kept = own_sets::switch(shared, plan)?;
    Ok(done)
}
