//! Dangerous changes: a set that was emptied, or that lost most of its entries, is not published before a person
//! confirms it. Entries of the last hour count, so that many small removals are one large one. An emptied file counts
//! as gone (a full disk empties files); a moved entry does not.
//!
//! These are rules without I/O. The publisher keeps the [`Guard`]; a start makes it from the history.

mod lost;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    entry::{Content, Kind},
    name::SetName,
    record::SetRules,
};
use bellwether_store::tree::{Change, Node, SetTree, Tree};
pub(super) use lost::under;
use lost::{Lost, lost};

/// A set with fewer entries may lose all but one in small steps.
const FEW: u64 = 10;
/// The time for which past entries count.
pub const WINDOW: Duration = Duration::from_secs(3600);
/// The interval of remembered trees, which limits memory.
const SPACING: Duration = Duration::from_secs(1200);

/// A dangerous change: one set, and its loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fright {
    /// The set.
    pub set: SetName,
    /// The loss.
    pub what: Gone,
    /// The time within which it happened; zero: at once.
    pub within: Duration,
}

/// A loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The set's directory.
    Root,
    /// Everything in it.
    All(u64),
    /// Most of its entries.
    Most {
        /// Entries gone.
        gone: u64,
        /// The number before.
        of: u64,
    },
}

impl fmt::Display for Fright {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = &self.set;
        match self.what {
            Gone::Root => return write!(f, "the directory of {set} is missing"),
            Gone::All(1) => write!(f, "the only entry of {set} is gone")?,
            Gone::All(of) => write!(f, "all {of} entries of {set} are gone")?,
            Gone::Most { gone, of } => write!(f, "{gone} of {of} entries of {set} are gone")?,
        }
        match self.within.as_secs() {
            _ if self.within.is_zero() => {}
            seconds @ 0..90 => write!(f, " within {} s", seconds.max(1))?,
            seconds => write!(f, " within {} min", seconds.div_ceil(60))?,
        }
        f.write_str(" (an emptied file counts as gone, an entry that only moved does not)")
    }
}

/// A published tree, and its loss since.
#[derive(Debug)]
struct Reference {
    tree: Arc<Tree>,
    /// The time at which it became the published one, and its end; none for the head.
    from: Instant,
    until: Option<Instant>,
    /// The most entries of each set that are gone from it.
    lost: Lost,
}

/// The removals of one change.
#[derive(Debug, Default)]
pub struct Step {
    /// From the tree before it.
    lost: Lost,
    /// From each reference for which they were counted.
    counted: BTreeMap<usize, Lost>,
}

impl Step {
    /// For `changes`, which lead from `head` to `now`. Without a removal nothing is counted.
    pub fn new(head: &Tree, now: &Tree, changes: &[Change]) -> Self {
        let removes = |change: &Change| match change.entry.as_ref().map(|entry| &entry.kind) {
            None => true,
            Some(Kind::Directory) => false,
            Some(Kind::File(Content::Empty)) => head.get(&change.set, &change.path).is_some(),
            Some(Kind::File(_) | Kind::Link(_)) => {
                matches!(head.get(&change.set, &change.path), Some(Node::Directory(_)))
            }
        };
        let lost = if changes.iter().any(removes) { lost(head, now) } else { Lost::new() };
        Self { lost, counted: BTreeMap::new() }
    }
}

/// The published trees of the last hour: at most six, which share their unchanged parts.
#[derive(Debug)]
pub struct Guard {
    /// Oldest first; the last is the head.
    references: Vec<Reference>,
}

impl Guard {
    /// Only `head` counts, which was published at `from`.
    pub fn new(head: Arc<Tree>, from: Instant) -> Self {
        Self { references: vec![Reference { tree: head, from, until: None, lost: Lost::new() }] }
    }

    /// Resumes from before this process: `before` was published then, and the head follows from it.
    pub fn resumed(before: (Tree, Instant), head: Arc<Tree>, from: Instant) -> Self {
        let (tree, began) = before;
        let same_rules = tree.sets().iter().map(|set| &set.rules).eq(head.sets().iter().map(|set| &set.rules));
        // The same tree, built from the head's: unchanged parts are in memory once.
        let shared = head.apply(head.diff(&tree)).ok().filter(|shared| same_rules && shared.root() == tree.root());
        let tree = Arc::new(shared.unwrap_or(tree));
        let lost = lost(&tree, &head);
        let mut guard = Self::new(head, from);
        guard.references.insert(0, Reference { tree, from: began, until: Some(from), lost });
        guard
    }

    /// The first set of `now` with a dangerous loss, compared with the last hour. `step` leads from the head to `now`.
    /// Trees are compared only if the steps so far could add up to such a loss.
    pub fn judge(&self, step: &mut Step, now: &Tree, at: Instant) -> Option<Fright> {
        let last = self.references.len() - 1;
        (self.oldest(at)..=last).find_map(|index| {
            let reference = &self.references[index];
            let within = reference.until.map_or(Duration::ZERO, |until| at.saturating_duration_since(until));
            reference.tree.sets().iter().find_map(|set| {
                let what = self.judge_set(index, set, step, now)?;
                Some(Fright { set: set.rules.name.clone(), what, within })
            })
        })
    }

    fn judge_set(&self, index: usize, set: &SetTree, step: &mut Step, now: &Tree) -> Option<Gone> {
        // A set that the rules no longer name was removed on purpose, and so were excluded entries.
        let newer = now.set(&set.rules.name)?;
        let before = under(set, newer)?;
        let Some(root) = &newer.root else { return Some(Gone::Root) };
        let (of, empty) = (before.entries() - 1, root.children().is_empty());
        let reference = &self.references[index];
        let count = |lost: &Lost| lost.get(&set.rules.name).copied().unwrap_or(0);
        let most = count(&reference.lost) + count(&step.lost);
        if !frightens(most, of, empty) {
            return None;
        }
        let head = index + 1 == self.references.len();
        let counted = || if head { step.lost.clone() } else { lost(&reference.tree, now) };
        let counted = match step.counted.get(&index) {
            Some(counted) => count(counted),
            None => {
                let counted = counted();
                count(step.counted.entry(index).or_insert(counted))
            }
        };
        let gone = counted.min(most);
        let what = if empty && gone == of { Gone::All(of) } else { Gone::Most { gone, of } };
        frightens(gone, of, empty).then_some(what)
    }

    /// The oldest reference that counts at `at`: the first that was still published an hour ago.
    fn oldest(&self, at: Instant) -> usize {
        let over = |reference: &&Reference| reference.until.is_some_and(|until| until + WINDOW <= at);
        self.references.iter().take_while(over).count()
    }

    /// Notes that `now` was published, by `step`.
    pub fn note(&mut self, step: &Step, now: Arc<Tree>, at: Instant) {
        for (index, reference) in self.references.iter_mut().enumerate() {
            for (set, gone) in &step.lost {
                *reference.lost.entry(set.clone()).or_default() += gone;
            }
            if let Some(counted) = step.counted.get(&index) {
                let least =
                    |(set, most): (&SetName, &mut u64)| *most = (*most).min(counted.get(set).copied().unwrap_or(0));
                reference.lost.iter_mut().for_each(least);
            }
            reference.follow(&now);
        }
        // A tree that was published only briefly need not be remembered; the one before it is.
        let soon = |before: &Reference| at.saturating_duration_since(before.from) < SPACING;
        match self.references.as_mut_slice() {
            [.., before, _] if soon(before) => drop(self.references.pop()),
            [.., head] => head.until = Some(at),
            [] => {}
        }
        self.references.push(Reference { tree: now, from: at, until: None, lost: Lost::new() });
        self.references.drain(..self.oldest(at));
    }

    /// Notes that a person accepted `now`, whatever was there before.
    pub fn accept(&mut self, now: Arc<Tree>, at: Instant) {
        *self = Self::new(now, at);
    }
}

impl Reference {
    /// Leaves out the entries that changed rules of `now` exclude.
    fn follow(&mut self, now: &Tree) {
        let newer = |set: &SetTree| now.set(&set.rules.name).filter(|newer| newer.rules != set.rules).cloned();
        if self.tree.sets().iter().all(|set| newer(set).is_none()) {
            return;
        }
        let follow = |set: &SetTree| match newer(set) {
            None => set.clone(),
            Some(newer) => {
                let rules: Arc<SetRules> = newer.rules.clone();
                SetTree { rules, root: under(set, &newer) }
            }
        };
        self.tree = Arc::new(Tree::new(self.tree.sets().iter().map(follow).collect()));
    }
}

/// Whether a loss of `gone` of the entries before (`of`) is dangerous; `empty`: nothing is left.
fn frightens(gone: u64, of: u64, empty: bool) -> bool {
    match (gone, of) {
        (0, _) => false,
        _ if empty && gone * 2 >= of => true,
        (_, FEW..) => gone * 2 > of,
        (_, ..FEW) => gone >= 3 && gone + 1 >= of,
    }
}

#[cfg(test)]
mod tests;
