//! The effect of the first sync on this server's directories, for people.

use std::fmt;

use bellwether_proto::entry::Kind;
use bellwether_store::tree::{Change, Node, Tree};
use serde::Serialize;

/// The largest number of lines that are shown.
const LINES: usize = 20;

/// Entries that differ: their number, and the first of them; entries that this server loses come first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Differences {
    added: u64,
    changed: u64,
    removed: u64,
    /// `+ nginx:conf.d/a.conf`, `~`, `-`.
    lines: Vec<String>,
}

impl Differences {
    /// The changes that lead from `here` to `group`.
    pub(super) fn between(here: &Tree, group: &Tree) -> Self {
        let mut differences = Self::default();
        let mut added = Vec::new();
        for change in here.diff(group) {
            differences.note(here, &change, &mut added);
        }
        differences.lines.append(&mut added);
        differences.lines.truncate(LINES);
        differences
    }

    /// Whether any entry of this server is replaced or removed.
    pub(super) fn replaces(&self) -> bool {
        self.changed + self.removed > 0
    }

    fn note(&mut self, here: &Tree, Change { set, path, entry }: &Change, added: &mut Vec<String>) {
        let now = here.get(set, path);
        let (sign, what) = match (&now, entry) {
            (None, _) => {
                self.added += 1;
                ('+', String::new())
            }
            (Some(node), None) => {
                let held = count(node);
                self.removed += held;
                ('-', if held > 1 { format!(" with the {} entries it holds", held - 1) } else { String::new() })
            }
            (Some(node), Some(entry)) => {
                self.changed += 1;
                let same = same_content(&node.entry().kind, &entry.kind);
                ('~', if same { " (owner, mode, time or attributes only)".to_owned() } else { String::new() })
            }
        };
        let lines = if sign == '+' { added } else { &mut self.lines };
        if lines.len() < LINES {
            lines.push(format!("{sign} {set}:{path}{what}"));
        }
    }
}

fn same_content(here: &Kind, there: &Kind) -> bool {
    match (here, there) {
        (Kind::Directory, Kind::Directory) => true,
        (Kind::File(here), Kind::File(there)) => here == there,
        (Kind::Link(here), Kind::Link(there)) => here == there,
        (Kind::Directory | Kind::File(_) | Kind::Link(_), _) => false,
    }
}

/// The number of entries: the node and all below it.
fn count(node: &Node) -> u64 {
    let children = node.directory().map(|directory| directory.children());
    1 + children.into_iter().flatten().map(|child| count(&child.node)).sum::<u64>()
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, changed, removed, lines } = self;
        if added + changed + removed == 0 {
            return f.write_str("this server's directories equal the group's");
        }
        for line in lines {
            writeln!(f, "{line}")?;
        }
        // A removed directory is one line for all entries in it.
        if lines.len() == LINES && added + changed + removed > LINES as u64 {
            writeln!(f, "…")?;
        }
        write!(f, "{added} to be added, {changed} to be replaced, {removed} to be removed on this server")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bellwether_proto::{
        entry::{Chunk, Content, EntryPath, Meta, Owner},
        hash::Hash,
        record::SetRules,
    };
    use bellwether_store::tree::{Child, Dir, SetTree, Stat};

    use super::*;

    fn meta(mode: u16) -> Meta {
        let owner = Arc::new(Owner { user: "root".into(), group: "root".into() });
        Meta { mode, owner, mtime: 0, xattrs: None }
    }

    fn file(name: &str, bytes: &[u8], mode: u16) -> Child {
        let content = Content::One(Chunk { hash: Hash::of(bytes), length: bytes.len() as u32 });
        Child { name: name.as_bytes().into(), node: Node::File { meta: meta(mode), content, stat: Stat::UNKNOWN } }
    }

    fn directory(name: &str, children: Vec<Child>) -> Child {
        let dir = Arc::new(Dir::new(meta(0o755), children.into()));
        Child { name: name.as_bytes().into(), node: Node::Directory(dir) }
    }

    fn tree(children: Vec<Child>) -> Tree {
        let rules = Arc::new(SetRules::new("nginx".parse().expect("a name")));
        let tree = Tree::new(vec![SetTree { rules, root: Some(Arc::new(Dir::new(meta(0o755), children.into()))) }]);
        assert!(tree.get(&"nginx".parse().expect("a name"), &EntryPath::root()).is_some());
        tree
    }

    #[test]
    fn each_kind_of_difference_is_counted_and_shown() {
        let here = tree(vec![
            file("a", b"old", 0o644),
            file("b", b"same", 0o600),
            directory("gone", vec![file("x", b"1", 0o644), file("y", b"2", 0o644)]),
        ]);
        let group = tree(vec![file("a", b"new", 0o644), file("b", b"same", 0o644), file("c", b"3", 0o644)]);
        let differences = Differences::between(&here, &group);
        assert_eq!((differences.added, differences.changed, differences.removed), (1, 2, 3));
        assert_eq!(
            differences.lines,
            [
                "~ nginx:a",
                "~ nginx:b (owner, mode, time or attributes only)",
                "- nginx:gone with the 2 entries it holds",
                "+ nginx:c"
            ]
        );
        assert!(differences.replaces());
    }

    #[test]
    fn equal_trees_have_none() {
        let here = tree(vec![file("a", b"1", 0o644)]);
        let differences = Differences::between(&here, &here.clone());
        assert_eq!(differences, Differences::default());
        assert!(!differences.replaces());
    }

    #[test]
    fn only_the_first_lines_are_shown() {
        let files = (0..50).map(|n| file(&format!("f{n:02}"), b"1", 0o644)).collect();
        let differences = Differences::between(&tree(vec![]), &tree(files));
        assert_eq!((differences.added, differences.lines.len()), (50, LINES));
        assert!(
            differences.to_string().ends_with("…\n50 to be added, 0 to be replaced, 0 to be removed on this server")
        );
    }
}
