//! The contents that files had, and the revisions with each, from the oldest revision to the newest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bellwether_proto::{
    entry::{Content, EntryPath, Kind},
    hash::Hash,
    name::SetName,
    revision::Number,
};
use bellwether_store::{
    scan::content,
    tree::{Change, Node, Tree},
};

/// A content that a file had in consecutive revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The set.
    pub set: SetName,
    /// The file.
    pub path: EntryPath,
    /// The content.
    pub content: Content,
    /// The first of these revisions.
    pub first: Number,
    /// The last of them.
    pub last: Number,
}

type Place = (SetName, EntryPath);

/// Folds the changes of revisions, oldest first.
#[derive(Debug)]
pub(super) struct Runs {
    within: Place,
    /// The contents that the newest revision so far has.
    present: BTreeMap<Place, Run>,
    past: Vec<Run>,
    newest: Option<Number>,
}

impl Runs {
    /// The runs of the files at or below `within`.
    pub(super) fn new(within: Place) -> Self {
        Self { within, present: BTreeMap::new(), past: Vec::new(), newest: None }
    }

    /// Takes a revision's changes; `whole`: they are all its entries.
    pub(super) fn take(&mut self, number: Number, whole: bool, changes: &[Change]) {
        let (set, path) = self.within.clone();
        let mut listed: BTreeSet<Place> = BTreeSet::new();
        for change in changes.iter().filter(|change| change.set == set) {
            let at = (change.set.clone(), change.path.clone());
            match change.entry.as_ref().map(|entry| &entry.kind) {
                Some(Kind::Directory) => self.end(|place| *place == at),
                Some(Kind::File(content)) => {
                    self.end(|place| *place != at && place.1.is_within(&at.1));
                    if change.path.is_within(&path) {
                        self.has(at.clone(), content, number);
                        listed.insert(at);
                    }
                }
                Some(Kind::Link(_)) | None => self.end(|place| place.1.is_within(&at.1)),
            }
        }
        if whole {
            self.end(|place| !listed.contains(place));
        }
        self.newest = Some(number);
    }

    fn has(&mut self, at: Place, content: &Content, number: Number) {
        if self.present.get(&at).is_some_and(|run| run.content == *content) {
            return;
        }
        self.end(|place| *place == at);
        let (set, path) = at.clone();
        self.present.insert(at, Run { set, path, content: content.clone(), first: number, last: number });
    }

    /// Ends the runs of these files: the newest revision so far is the last one with them.
    fn end(&mut self, ends: impl Fn(&Place) -> bool) {
        let ended: Vec<Place> = self.present.keys().filter(|place| ends(place)).cloned().collect();
        for place in ended {
            if let (Some(run), Some(last)) = (self.present.remove(&place), self.newest) {
                self.past.push(Run { last, ..run });
            }
        }
    }

    /// The runs that are over, oldest first, and those of the newest revision.
    pub(super) fn finish(self) -> (Vec<Run>, Vec<Run>) {
        let last = self.newest;
        let present = self.present.into_values().map(|run| Run { last: last.unwrap_or(run.last), ..run }).collect();
        (self.past, present)
    }
}

/// The chunks that only earlier contents have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Earlier {
    /// They are in none of the trees.
    Gone(Vec<Hash>),
    /// A tree has a whole earlier content: the file that had it, and the places that have it now.
    Present(Run, Vec<String>),
}

/// Looks for the contents of `past` in `tree`. Chunks of zeros tell nothing and do not count.
pub(super) fn earlier(past: &[Run], tree: &Tree) -> Earlier {
    let mut present: HashMap<Hash, Vec<String>> = HashMap::new();
    let wanted: HashSet<Hash> = past.iter().flat_map(|run| run.content.chunks()).map(|chunk| chunk.hash).collect();
    tree.visit(&mut |set, path, node| {
        if let Node::File { content, .. } = node {
            for chunk in content.chunks().iter().filter(|chunk| wanted.contains(&chunk.hash)) {
                let places = present.entry(chunk.hash).or_default();
                let place = format!("{set}:{path}");
                if places.len() < 10 && places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
    });
    let mut gone = BTreeSet::new();
    for run in past {
        let counts = |hash: &Hash| !content::is_zeros(hash);
        let hashes: BTreeSet<Hash> = run.content.chunks().iter().map(|chunk| chunk.hash).filter(counts).collect();
        let mut lost = hashes.iter().filter(|hash| !present.contains_key(hash)).peekable();
        if lost.peek().is_none() && !hashes.is_empty() {
            let places: BTreeSet<String> = hashes.iter().flat_map(|hash| present[hash].clone()).collect();
            return Earlier::Present(run.clone(), places.into_iter().collect());
        }
        gone.extend(lost);
    }
    Earlier::Gone(gone.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bellwether_proto::{
        entry::{Chunk, Entry, Meta, Owner},
        record::SetRules,
        revision::Epoch,
    };
    use bellwether_store::tree::{Dir, Edit, SetTree};

    use super::*;

    fn number(sequence: u64) -> Number {
        Number { epoch: Epoch(1), sequence }
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).unwrap()
    }

    fn set() -> SetName {
        "web".parse().unwrap()
    }

    fn content(texts: &[&str]) -> Content {
        texts.iter().map(|text| Chunk { hash: Hash::of(text.as_bytes()), length: text.len() as u32 }).collect()
    }

    fn meta() -> Meta {
        let owner = Owner { user: "root".into(), group: "root".into() };
        Meta { mode: 0o644, owner: owner.into(), mtime: 1, xattrs: None }
    }

    fn put(at: &str, texts: &[&str]) -> Change {
        let entry = Entry { meta: meta(), kind: Kind::File(content(texts)) };
        Change { set: set(), path: path(at), entry: Some(entry) }
    }

    fn gone(at: &str) -> Change {
        Change { set: set(), path: path(at), entry: None }
    }

    fn folded(within: &str, revisions: &[&[Change]]) -> (Vec<Run>, Vec<Run>) {
        let mut runs = Runs::new((set(), path(within)));
        for (sequence, changes) in (1..).zip(revisions) {
            runs.take(number(sequence), sequence == 1, changes);
        }
        runs.finish()
    }

    fn shown(runs: &[Run]) -> Vec<(String, u64, u64)> {
        runs.iter().map(|run| (run.path.to_string(), run.first.sequence, run.last.sequence)).collect()
    }

    #[test]
    fn each_content_has_its_revisions() {
        let (past, present) = folded(
            "d",
            &[
                &[put("a", &["no"]), put("d/a", &["1"]), put("d/b", &["2"])],
                &[put("d/a", &["1"])],
                &[put("a", &["other"])],
                &[put("d/a", &["3"])],
                &[gone("d/b")],
            ],
        );
        let of = |text: &str, first, last| (text.to_owned(), first, last);
        assert_eq!(shown(&past), [of("d/a", 1, 3), of("d/b", 1, 4)]);
        assert_eq!(shown(&present), [of("d/a", 4, 5)]);
    }

    #[test]
    fn a_directory_above_takes_its_files_with_it() {
        let revisions: [&[Change]; 3] =
            [&[put("d/a", &["1"]), put("d/b", &["2"])], &[gone("d")], &[put("d/a", &["1"])]];
        let (past, present) = folded("d/a", &revisions);
        assert_eq!((past.len(), present.len()), (1, 1), "it is there again");
        assert_eq!((past[0].last, present[0].first), (number(1), number(3)));
        let (past, present) = folded("", &[&[put("d/a", &["1"])], &[put("d", &["file"])]]);
        assert_eq!((shown(&past).len(), shown(&present)), (1, vec![("d".to_owned(), 2, 2)]));
    }

    /// A tree with these files in its root.
    fn tree(files: &[(&str, &[&str])]) -> Tree {
        let root = Some(Arc::new(Dir::new(meta(), Box::default())));
        let empty = Tree::new(vec![SetTree { rules: Arc::new(SetRules::new(set())), root }]);
        let file = |(name, texts): &(&str, &[&str])| {
            let node = Node::new(Entry { meta: meta(), kind: Kind::File(content(texts)) });
            (set(), path(name), Edit::Put(node))
        };
        empty.edit(files.iter().map(file)).unwrap()
    }

    #[test]
    fn a_content_that_the_tree_has_is_named_with_its_places() {
        let (past, _) = folded("a", &[&[put("a", &["x", "y"])], &[put("a", &["x", "z"])]]);
        let hashes = |texts: &[&str]| texts.iter().map(|text| Hash::of(text.as_bytes())).collect::<Vec<_>>();
        assert_eq!(earlier(&past, &tree(&[("a", &["x", "z"])])), Earlier::Gone(hashes(&["y"])), "x is in the head");
        match earlier(&past, &tree(&[("a", &["x", "z"]), ("b", &["y"])])) {
            Earlier::Present(run, places) => {
                assert_eq!((run.first, places), (number(1), vec!["web:a".to_owned(), "web:b".to_owned()]))
            }
            other => panic!("{other:?}"),
        }
        let (empty, _) = folded("a", &[&[put("a", &[])], &[put("a", &["x"])]]);
        assert_eq!(earlier(&empty, &tree(&[])), Earlier::Gone(Vec::new()));
    }
}
