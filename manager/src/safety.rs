//! Frightening changes: an emptied set or most of its entries gone is not published before a person says so.

use std::{fmt, sync::Arc};

use bellwether_proto::{entry::EntryPath, name::SetName};
use bellwether_store::{
    scan::Excludes,
    tree::{Child, Dir, Node, Tree},
};

/// Below so many entries a set may lose all but its last by itself.
const FEW: u64 = 10;

/// What would frighten: one set, and what is gone of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fright {
    /// The set.
    pub set: SetName,
    /// What happened.
    pub what: Gone,
}

/// What is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The set's directory.
    Root,
    /// Everything in it.
    All(u64),
    /// More than half.
    Most {
        /// Entries gone.
        gone: u64,
        /// Of so many.
        of: u64,
    },
}

impl fmt::Display for Fright {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = &self.set;
        f.write_str("publish refused: ")?;
        match self.what {
            Gone::Root => write!(f, "the directory of {set} is missing")?,
            Gone::All(of) => write!(f, "all {of} entries of {set} are gone")?,
            Gone::Most { gone, of } => write!(f, "{gone} of {of} entries of {set} are gone")?,
        }
        f.write_str("; no server was changed")
    }
}

/// What of the step from `head` to `now` would frighten; the first set that does.
pub fn frightening(head: &Tree, now: &Tree) -> Option<Fright> {
    head.sets().iter().find_map(|set| {
        let before = set.root.as_ref()?;
        let name = &set.rules.name;
        let what = match now.set(name) {
            // A set that the rules no longer name was taken out on purpose.
            None => return None,
            Some(now) if now.rules == set.rules => judge(before, now.root.as_deref())?,
            // What the rules exclude from now on is left out on purpose, too. Rules that cannot be used are refused where
            // they are set.
            Some(now) => match Excludes::new(&now.rules) {
                Ok(excludes) => judge(&without(before, &EntryPath::root(), &excludes), now.root.as_deref())?,
                Err(_) => return None,
            },
        };
        Some(Fright { set: name.clone(), what })
    })
}

fn judge(before: &Dir, now: Option<&Dir>) -> Option<Gone> {
    let Some(now) = now else { return Some(Gone::Root) };
    if before.hash() == now.hash() || before.children().is_empty() {
        return None;
    }
    let of = count(before);
    if now.children().is_empty() {
        return Some(Gone::All(of));
    }
    let gone = gone(before, now);
    (of >= FEW && gone * 2 > of).then_some(Gone::Most { gone, of })
}

/// `dir`, which is at `at` in its set, without what is excluded.
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

fn count(dir: &Dir) -> u64 {
    dir.entries() - 1
}

/// How many entries of `before` have nothing at their path in `now`.
fn gone(before: &Dir, now: &Dir) -> u64 {
    if before.hash() == now.hash() {
        return 0;
    }
    let below = |node: &Node| node.directory().map_or(0, |dir| count(dir));
    let lost = |child: &Child| match (now.child(&child.name), child.node.directory()) {
        (None, _) => 1 + below(&child.node),
        (Some(Node::Directory(now)), Some(before)) => gone(before, now),
        (Some(_), Some(before)) => count(before),
        (Some(_), None) => 0,
    };
    before.children().iter().map(lost).sum()
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        entry::{Entry, Kind, Meta, Owners},
        record::SetRules,
    };
    use bellwether_store::tree::Change;

    use super::*;

    fn tree(paths: &[String]) -> Tree {
        let set: SetName = "nginx".parse().unwrap();
        let owner = Owners::default().get("root", "root").unwrap();
        let entry =
            |kind| Some(Entry { meta: Meta { mode: 0o755, owner: owner.clone(), mtime: 0, xattrs: None }, kind });
        let mut changes = vec![Change { set: set.clone(), path: EntryPath::root(), entry: entry(Kind::Directory) }];
        for path in paths {
            let kind = if path.ends_with('/') { Kind::Directory } else { Kind::Link(b"x"[..].into()) };
            let path = EntryPath::new(path.trim_end_matches('/').as_bytes()).unwrap();
            changes.push(Change { set: set.clone(), path, entry: entry(kind) });
        }
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Tree::empty([Arc::new(SetRules::new(set))]).apply(changes).unwrap()
    }

    fn files(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| format!("f{n:03}")).collect()
    }

    #[test]
    fn a_missing_or_emptied_root_frightens_however_small() {
        let head = tree(&files(0..1));
        let missing = Tree::empty([head.sets()[0].rules.clone()]);
        assert_eq!(frightening(&head, &missing).unwrap().what, Gone::Root);
        assert_eq!(frightening(&head, &tree(&[])).unwrap().what, Gone::All(1));
        assert_eq!(frightening(&tree(&[]), &tree(&[])), None);
        assert_eq!(frightening(&missing, &head), None);
    }

    #[test]
    fn more_than_half_of_at_least_ten() {
        let head = tree(&files(0..10));
        assert_eq!(frightening(&head, &tree(&files(0..5))), None);
        let most = frightening(&head, &tree(&files(0..4))).unwrap();
        assert_eq!(most.what, Gone::Most { gone: 6, of: 10 });
        assert!(most.to_string().contains("6 of 10 entries of nginx are gone"), "{most}");
        assert_eq!(frightening(&tree(&files(0..9)), &tree(&files(0..1))), None, "a small set may");
    }

    #[test]
    fn new_entries_do_not_make_up_for_those_gone() {
        let head = tree(&files(0..20));
        assert_eq!(frightening(&head, &tree(&files(15..100))).unwrap().what, Gone::Most { gone: 15, of: 20 });
    }

    #[test]
    fn a_directory_counts_with_all_it_holds() {
        let mut paths: Vec<String> = (0..15).map(|n| format!("d/f{n:02}")).collect();
        paths.push("d/".into());
        paths.push("keep".into());
        let head = tree(&paths);
        assert_eq!(frightening(&head, &tree(&["keep".into()])).unwrap().what, Gone::Most { gone: 16, of: 17 });
        assert_eq!(
            frightening(&head, &tree(&["keep".into(), "d".into()])).unwrap().what,
            Gone::Most { gone: 15, of: 17 }
        );
    }

    #[test]
    fn what_new_rules_exclude_was_left_out_on_purpose() {
        let head = tree(&files(0..20));
        let rules = SetRules { exclude: vec!["f00*".into()], ..SetRules::new("nginx".parse().unwrap()) };
        let under = |paths: &[String]| tree(paths).with_rules(&[Arc::new(rules.clone())]);
        assert_eq!(frightening(&head, &under(&files(10..20))), None, "half of it excluded");
        let most = frightening(&head, &under(&files(16..20))).unwrap();
        assert_eq!(most.what, Gone::Most { gone: 6, of: 10 }, "and of the rest more than half gone");
    }

    #[test]
    fn a_set_taken_out_of_the_rules_does_not() {
        assert_eq!(frightening(&tree(&files(0..50)), &Tree::default()), None);
    }
}
