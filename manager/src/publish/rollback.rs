//! Makes the content of an earlier revision the manager's own again, in all sets or at some places. A journalled switch
//! puts it into the sets here; the publisher calls this and publishes at once, so the way back is a revision like any other.

use std::{sync::Arc, time::Instant};

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    entry::{Entry, EntryPath},
    name::SetName,
    revision::{HOLD, Number, RevisionName, SignedHeader, TAKEN_BACK},
};
use bellwether_store::{
    apply::{Failed, Refused},
    history::HistoryError,
    scan::{Look, ScanError},
    state::record::decide,
    tree::{Change, Node, SetTree, Tree, TreeError},
};

use crate::{
    EditError,
    past::{FindError, Past},
    publish::{
        batch::InBatch,
        own_sets::{self, Live, SwitchError, entry, lines, named},
        rejection::Rejection,
        round::{Prepared, PublishError, Request},
        safety::{Fright, Step, under},
    },
    shared::Shared,
};

/// The label of kept copies that this makes.
const LABEL: &str = "rollback";

/// A request.
#[derive(Debug, Clone)]
pub struct Rollback {
    /// The revision whose content is to be back.
    pub to: RevisionName,
    /// The places, with all below them; none: all sets.
    pub places: Vec<(SetName, EntryPath)>,
    /// The author, with the server.
    pub author: String,
    /// The reason; empty: the number of that revision.
    pub message: String,
    /// Whether to only show the result.
    pub dry_run: bool,
    /// Whether a person confirms that most of a set goes.
    pub accept: bool,
    /// Whether to hold watching until `resume`.
    pub hold: bool,
    /// The stopped revision that this takes back: then it goes to all members at once.
    pub takes_back: Option<Number>,
}

/// The result.
#[derive(Debug, Clone)]
pub struct RolledBack {
    /// The revision whose content is back, or would be.
    pub to: Number,
    /// The new revision; none if nothing changed, or with `dry_run`.
    pub revision: Option<SignedHeader>,
    /// The number of entries that changed, or would change.
    pub count: u64,
    /// The first hundred, as `~ SET:PATH`.
    pub first: Vec<String>,
    /// Sets that stay as they are, with the reason.
    pub notes: Vec<String>,
    /// Whether watching is held now.
    pub held: bool,
}

/// There is no way back. Nothing was changed, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// Another server leads in the same epoch.
    #[error("{0}")]
    Disputed(Arc<str>),
    /// A batch holds publishing.
    #[error(transparent)]
    InBatch(#[from] InBatch),
    /// The revision that is to be taken back is not the head any more.
    #[error("revision {0} is not the head any more")]
    NotHead(Number),
    /// The request is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no such revision.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The revision cannot be read.
    #[error("revision {0} cannot be read from the history")]
    History(Number, #[source] HistoryError),
    /// No such set.
    #[error("there is no set {0} in this group")]
    NoSet(SetName),
    /// The place is in neither.
    #[error("neither revision {to} nor the head has {place}")]
    NoPlace {
        /// `SET:PATH`.
        place: String,
        /// The revision.
        to: Number,
    },
    /// The entries do not fit the head.
    #[error("the content of revision {to} does not fit the manager's content ({why})")]
    Unfit {
        /// The revision.
        to: Number,
        /// The reason.
        why: String,
    },
    /// The manager has unpublished edits there.
    #[error("the manager has edits that are not published at {count} of the {of} entries that would change ({named})")]
    Unpublished {
        /// The number of such entries.
        count: usize,
        /// The number of all that would change.
        of: u64,
        /// The first ones.
        named: String,
    },
    /// The group's rules for the sets are not those of the head.
    #[error("the group's rules for the sets have changed, and are not published yet")]
    OtherRules,
    /// Most of a set would be gone.
    #[error("with the content of revision {to}, {fright}")]
    Frightening {
        /// The revision.
        to: Number,
        /// The loss.
        fright: Fright,
    },
    /// Watching cannot be held.
    #[error("watching cannot be held")]
    Hold(#[source] EditError),
    /// The sets cannot be read here.
    #[error("nothing was changed: the manager's sets cannot be read")]
    Scan(#[from] ScanError),
    /// The content cannot be put into the sets here.
    #[error("the content cannot be put into the manager's sets")]
    Refused(#[from] Refused),
    /// The switch failed.
    #[error("the content could not be put into the manager's sets")]
    Failed(#[from] Failed),
    /// It is in the manager's sets, but there is no revision of it yet.
    #[error("the content is in the manager's sets, but is not published yet")]
    Publish(#[source] PublishError),
    /// A command of the set on this server refuses the content, and the manager's sets are as they were.
    #[error("{}", .0.of_change())]
    Rejected(Rejection),
}

impl From<SwitchError> for RollbackError {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::Refused(refused) => refused.into(),
            SwitchError::Failed(failed) => failed.into(),
        }
    }
}

impl From<PublishError> for RollbackError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Rejected(rejection) => Self::Rejected(rejection),
            other => Self::Publish(other),
        }
    }
}

impl Advise for RollbackError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::InBatch(batch) => batch.advice(),
            Self::Find(find) => find.advice(),
            Self::NoSet(_) => Some(Advice::run("see", "bellwether group show")),
            Self::NoPlace { to, .. } => Some(Advice::run("see", format!("bellwether tree --at {to}"))),
            Self::Unfit { .. } => Some(Advice::say("name the directories that the entries are in, too")),
            Self::Unpublished { .. } => Some(
                Advice::run("to see them", "bellwether diff")
                    .or(&Advice::run("to publish them first, at the manager", "bellwether publish")),
            ),
            Self::OtherRules => Some(Advice::run("first, at the manager", "bellwether publish")),
            Self::Frightening { .. } => Some(Advice::say("if that is meant, give the command again with --accept")),
            Self::Hold(edit) => edit.advice(),
            Self::Publish(publish) => publish.advice(),
            Self::Rejected(rejection) => Some(rejection.advice_for_change()),
            Self::Disputed(_) => Some(decide()),
            Self::NotHead(_)
            | Self::Malformed(_)
            | Self::History(..)
            | Self::Scan(_)
            | Self::Refused(_)
            | Self::Failed(_) => None,
        }
    }
}

/// The content that is to be back, and the changes of the head that lead to it.
pub(crate) struct Way {
    past: Past,
    target: Tree,
    changes: Vec<Change>,
    pub(crate) back: RolledBack,
}

impl Rollback {
    /// The request for its revision.
    pub(crate) fn request(&self, to: Number) -> Request {
        let message = if self.message.is_empty() { format!("rollback to {to}") } else { self.message.clone() };
        let hold = self.hold.then(|| (HOLD.to_owned(), String::new()));
        let takes_back = self.takes_back.map(|of| (TAKEN_BACK.to_owned(), of.to_string()));
        let labels = hold.into_iter().chain(takes_back).collect();
        let (author, accept) = (self.author.clone(), self.accept);
        Request { message, author, labels, accept, ..Request::default() }
    }
}

/// Finds the way back, and judges it. Blocks: the earlier revision is read.
pub(crate) fn find(shared: &Arc<Shared>, rollback: &Rollback) -> Result<Way, RollbackError> {
    let head = shared.head.borrow().stored.header.number();
    if let Some(of) = rollback.takes_back.filter(|of| *of != head) {
        return Err(RollbackError::NotHead(of));
    }
    let past = Past::of(shared);
    let revision = past.find(rollback.to)?;
    let (to, head) = (revision.header().number(), past.head_tree());
    let old = revision.tree().map_err(|error| RollbackError::History(to, error))?;
    let (target, notes) = target(&head, &old, &rollback.places, to)?;
    let changes = head.diff(&target);
    if let Some(set) = changes.iter().find(|change| change.path.is_root() && change.entry.is_none()) {
        let why = format!("set {} had no directory then", set.set);
        return Err(RollbackError::Unfit { to, why });
    }
    let mut step = Step::new(&head, &target, &changes);
    if !rollback.accept
        && let Some(fright) = shared.guard().judge(&mut step, &target, Instant::now())
    {
        return Err(RollbackError::Frightening { to, fright });
    }
    let (count, first) = (changes.len() as u64, lines(&changes, &head));
    Ok(Way { past, target, changes, back: RolledBack { to, revision: None, count, first, notes, held: false } })
}

impl Way {
    /// Whether the manager's sets may be changed there: they are as in the head, or as they are to be.
    pub(crate) fn check(&self, shared: &Shared, known: &Tree) -> Result<(), RollbackError> {
        self.due(shared, known).map(drop)
    }

    /// The sets as they are, and the changes that they lack.
    fn due(&self, shared: &Shared, known: &Tree) -> Result<(Live, Vec<Change>), RollbackError> {
        let head = shared.head.borrow().clone();
        let sources = own_sets::sources(shared, &head).ok_or(RollbackError::OtherRules)?;
        let live = Live::scan(sources, known, &self.changes)?;
        let is_there = |change: &&Change| entry(live.tree.get(&change.set, &change.path).as_ref()) == change.entry;
        let due: Vec<Change> = self.changes.iter().filter(|change| !is_there(change)).cloned().collect();
        let mut unpublished = live.unpublished(&head.tree, &due);
        unpublished.retain(|change| {
            let (now, before) = (live.tree.get(&change.set, &change.path), head.tree.get(&change.set, &change.path));
            !differs_in_time_only(now.as_ref(), [before.as_ref().map(Node::entry), change.entry.clone()])
        });
        if !unpublished.is_empty() {
            let (count, of, named) = (unpublished.len(), self.back.count, named(&unpublished));
            return Err(RollbackError::Unpublished { count, of, named });
        }
        Ok((live, due))
    }

    /// Checks that what is to be published has the content that was put into the sets.
    ///
    /// # Errors
    /// Somebody edited an entry meanwhile.
    pub(crate) fn check_found(&self, prepared: &Prepared) -> Result<(), PublishError> {
        own_sets::check_found(prepared, &self.changes)
    }

    /// Puts the content into the sets, durably; the places to publish then. Blocks.
    pub(crate) fn go(&self, shared: &Shared, known: &Tree) -> Result<Look, RollbackError> {
        let (live, due) = self.due(shared, known)?;
        let look = Look::At(own_sets::places(&self.changes));
        if due.is_empty() {
            return Ok(look);
        }
        let mut plan = live.plan(shared, (&self.past.head_tree(), &self.target), due, LABEL)?;
        let supplied = own_sets::supply(&mut plan, self.past.packs());
        supplied.map_err(|error| RollbackError::History(self.back.to, error))??;
        own_sets::switch(shared, plan)?;
        Ok(look)
    }
}

/// Whether a file or link is one of `others` but for its time: nothing is lost with it.
fn differs_in_time_only(now: Option<&Node>, others: [Option<Entry>; 2]) -> bool {
    let timeless = |mut entry: Entry| {
        entry.meta.mtime = 0;
        entry
    };
    match now {
        None | Some(Node::Directory(_)) => false,
        Some(node) => others.into_iter().flatten().any(|other| timeless(other) == timeless(node.entry())),
    }
}

/// `head` with the content of `old` at `places` (none: everywhere), under the rules of `head`; and the sets that stay.
fn target(
    head: &Tree,
    old: &Tree,
    places: &[(SetName, EntryPath)],
    to: Number,
) -> Result<(Tree, Vec<String>), RollbackError> {
    let mut notes = Vec::new();
    let mut set = |now: &SetTree| match old.set(&now.rules.name) {
        Some(then) => SetTree { rules: now.rules.clone(), root: under(then, now) },
        None => {
            notes.push(format!("set {} was not in revision {to}, and stays as it is", now.rules.name));
            now.clone()
        }
    };
    let then = Tree::new(head.sets().iter().map(&mut set).collect());
    if places.is_empty() {
        return Ok((then, notes));
    }
    let mut target = head.clone();
    for (set, path) in places {
        if head.set(set).is_none() {
            return Err(RollbackError::NoSet(set.clone()));
        }
        if old.set(set).is_none() || (then.get(set, path).is_none() && head.get(set, path).is_none()) {
            return Err(RollbackError::NoPlace { place: format!("{set}:{path}"), to });
        }
        let unfit = |error: TreeError| RollbackError::Unfit { to, why: error.to_string() };
        target = target.with_entry_of(&then, set, path).map_err(unfit)?;
    }
    Ok((target, Vec::new()))
}

#[cfg(test)]
mod tests;
