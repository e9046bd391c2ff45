//! The lost entries between two trees: nothing or an empty file is at their path, and their content is at no new one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bellwether_proto::{
    entry::{Content, EntryPath},
    hash::Hash,
    name::SetName,
};
use bellwether_store::{
    scan::Excludes,
    tree::{Child, Dir, Node, SetTree, Tree},
};

/// The number of lost entries of each set that lost some.
pub(super) type Lost = BTreeMap<SetName, u64>;

/// The identity of an entry at any path: a moved directory has its files with it, so all directories are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mark {
    Directory,
    File(Hash),
    Link(Hash),
}

impl Mark {
    fn of(node: &Node) -> Self {
        match node {
            Node::Directory(_) => Self::Directory,
            Node::File { content, .. } => Self::File(content.hash()),
            Node::Link { target, .. } => Self::Link(Hash::of(target)),
        }
    }
}

/// The loss from `before` to `now`, in sets that both have; an entry that moved to another set is not lost.
pub(super) fn lost(before: &Tree, now: &Tree) -> Lost {
    let mut came = Marks::default();
    let mut gone = Vec::new();
    for newer in now.sets() {
        let mut difference = Difference { gone: Vec::new(), came: &mut came };
        match before.set(&newer.rules.name) {
            Some(set) => difference.roots(under(set, newer).as_deref(), newer.root.as_deref()),
            None => difference.roots(None, newer.root.as_deref()),
        }
        gone.push((newer.rules.name.clone(), difference.gone));
    }
    let count = |(set, gone): (SetName, Vec<Mark>)| {
        let lost = gone.into_iter().filter(|mark| !came.take(*mark)).count() as u64;
        (lost > 0).then_some((set, lost))
    };
    gone.into_iter().filter_map(count).collect()
}

/// The root of `set` without the entries that the rules of `newer` exclude; none for unusable rules.
pub(in crate::publish) fn under(set: &SetTree, newer: &SetTree) -> Option<Arc<Dir>> {
    let root = set.root.as_ref()?;
    if set.rules == newer.rules {
        return Some(root.clone());
    }
    Excludes::new(&newer.rules).ok().map(|excludes| Arc::new(without(root, &EntryPath::root(), &excludes)))
}

/// `dir`, at `at` in its set, without excluded entries.
fn without(dir: &Dir, at: &EntryPath, excludes: &Excludes) -> Dir {
    let stays = |child: &Child| {
        let path = at.join(&child.name);
        let directory = child.node.directory();
        if excludes.excluded(&path, directory.is_some()) {
            return None;
        }
        let node = directory.map(|dir| Node::Directory(Arc::new(without(dir, &path, excludes))));
        Some(Child { name: child.name.clone(), node: node.unwrap_or_else(|| child.node.clone()) })
    };
    Dir::new(dir.meta().clone(), dir.children().iter().filter_map(stays).collect())
}

#[derive(Default)]
struct Marks(HashMap<Mark, u64>);

impl Marks {
    fn add(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    /// Takes one away, if there is one.
    fn take(&mut self, mark: Mark) -> bool {
        match self.0.get_mut(&mark) {
            None | Some(0) => false,
            Some(count) => {
                *count -= 1;
                true
            }
        }
    }
}

/// The entries that went from one set, and those that came to any.
struct Difference<'a> {
    gone: Vec<Mark>,
    came: &'a mut Marks,
}

impl Difference<'_> {
    fn roots(&mut self, before: Option<&Dir>, now: Option<&Dir>) {
        match (before, now) {
            (Some(before), Some(now)) => self.directories(before, now),
            (Some(before), None) => before.children().iter().for_each(|child| self.went(&child.node)),
            (None, Some(now)) => now.children().iter().for_each(|child| self.arrived(&child.node)),
            (None, None) => {}
        }
    }

    fn directories(&mut self, before: &Dir, now: &Dir) {
        if before.hash() == now.hash() {
            return;
        }
        let mut news = now.children().iter().peekable();
        for old in before.children() {
            while let Some(new) = news.next_if(|new| new.name < old.name) {
                self.arrived(&new.node);
            }
            match news.next_if(|new| new.name == old.name) {
                Some(new) => self.nodes(&old.node, &new.node),
                None => self.went(&old.node),
            }
        }
        news.for_each(|new| self.arrived(&new.node));
    }

    /// Compares two nodes at one path: the entry is lost only if it is empty now; a directory's entries may be.
    fn nodes(&mut self, before: &Node, now: &Node) {
        match (before, now) {
            (Node::Directory(before), Node::Directory(now)) => self.directories(before, now),
            (Node::Directory(before), Node::File { .. } | Node::Link { .. }) => {
                before.children().iter().for_each(|child| self.went(&child.node));
                self.arrived(now);
            }
            (Node::File { .. } | Node::Link { .. }, _) if Mark::of(before) == Mark::of(now) => {}
            (Node::File { .. } | Node::Link { .. }, Node::File { content: Content::Empty, .. }) => {
                self.gone.push(Mark::of(before));
            }
            (Node::File { .. } | Node::Link { .. }, _) => self.arrived(now),
        }
    }

    fn went(&mut self, node: &Node) {
        self.gone.push(Mark::of(node));
        let below = node.directory().map(|dir| dir.children()).unwrap_or_default();
        below.iter().for_each(|child| self.went(&child.node));
    }

    fn arrived(&mut self, node: &Node) {
        self.came.add(Mark::of(node));
        let below = node.directory().map(|dir| dir.children()).unwrap_or_default();
        below.iter().for_each(|child| self.arrived(&child.node));
    }
}
