use bellwether_proto::entry::{Entry, EntryPath, Meta, Owners};

use super::*;

fn name() -> SetName {
    "nginx".parse().unwrap()
}

/// The changes that make a set of these paths, each a link to its own name, or to the text after `=`; an empty text
/// makes an empty file.
fn entries(set: &SetName, paths: &[String]) -> Vec<Change> {
    let owner = Owners::default().get("root", "root").unwrap();
    let entry = |kind| Some(Entry { meta: Meta { mode: 0o755, owner: owner.clone(), mtime: 0, xattrs: None }, kind });
    let mut changes = vec![Change { set: set.clone(), path: EntryPath::root(), entry: entry(Kind::Directory) }];
    for text in paths {
        let (path, target) = text.split_once('=').unwrap_or((text, text));
        let kind = match target {
            _ if path.ends_with('/') => Kind::Directory,
            "" => Kind::File(Content::Empty),
            target => Kind::Link(target.as_bytes().into()),
        };
        let path = EntryPath::new(path.trim_end_matches('/').as_bytes()).unwrap();
        changes.push(Change { set: set.clone(), path, entry: entry(kind) });
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}

fn tree(paths: &[String]) -> Tree {
    Tree::empty([Arc::new(SetRules::new(name()))]).apply(entries(&name(), paths)).unwrap()
}

fn two_sets(nginx: &[String], other: &[String]) -> Tree {
    let second: SetName = "other".parse().unwrap();
    let changes = [entries(&name(), nginx), entries(&second, other)].concat();
    Tree::empty([name(), second].map(|name| Arc::new(SetRules::new(name)))).apply(changes).unwrap()
}

fn files(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("f{n:03}")).collect()
}

fn texts(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

/// The loss of one step.
fn frightening(head: &Tree, now: &Tree) -> Option<Fright> {
    let at = Instant::now();
    let mut step = Step::new(head, now, &head.diff(now));
    Guard::new(Arc::new(head.clone()), at).judge(&mut step, now, at)
}

fn what(head: &Tree, now: &Tree) -> Option<Gone> {
    frightening(head, now).map(|fright| fright.what)
}

/// A guard and its head, with a clock of its own.
struct History {
    guard: Guard,
    head: Tree,
    at: Instant,
}

impl History {
    fn new(head: Tree) -> Self {
        let at = Instant::now();
        Self { guard: Guard::new(Arc::new(head.clone()), at), head, at }
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.at += Duration::from_secs(seconds);
        self
    }

    fn judge(&self, now: &Tree) -> (Step, Option<Fright>) {
        let mut step = Step::new(&self.head, now, &self.head.diff(now));
        let fright = self.guard.judge(&mut step, now, self.at);
        (step, fright)
    }

    fn publish(&mut self, now: Tree) -> Result<(), Fright> {
        let (step, fright) = self.judge(&now);
        if let Some(fright) = fright {
            return Err(fright);
        }
        self.guard.note(&step, Arc::new(now.clone()), self.at);
        self.head = now;
        Ok(())
    }
}

#[test]
fn a_missing_or_emptied_root_frightens_however_small() {
    let head = tree(&files(0..1));
    let missing = Tree::empty([head.sets()[0].rules.clone()]);
    assert_eq!(what(&head, &missing), Some(Gone::Root));
    assert_eq!(what(&head, &tree(&[])), Some(Gone::All(1)));
    assert_eq!(what(&tree(&[]), &tree(&[])), None);
    assert_eq!(what(&missing, &head), None);
}

#[test]
fn more_than_half_of_at_least_ten() {
    let head = tree(&files(0..10));
    assert_eq!(what(&head, &tree(&files(0..5))), None);
    let most = frightening(&head, &tree(&files(0..4))).unwrap();
    assert_eq!(most.what, Gone::Most { gone: 6, of: 10 });
    assert!(most.to_string().contains("6 of 10 entries of nginx are gone"), "{most}");
}

#[test]
fn of_less_than_ten_all_but_one() {
    let head = tree(&files(0..6));
    assert_eq!(what(&head, &tree(&files(0..2))), None, "a small set may lose some");
    assert_eq!(what(&head, &tree(&files(0..1))), Some(Gone::Most { gone: 5, of: 6 }));
    assert_eq!(what(&head, &tree(&files(6..9))), Some(Gone::Most { gone: 6, of: 6 }), "replaced by others");
    assert_eq!(what(&tree(&files(0..3)), &tree(&files(0..1))), None, "two of three");
    assert_eq!(what(&tree(&files(0..1)), &tree(&files(1..2))), None, "the one file has another name and content");
}

#[test]
fn new_entries_do_not_make_up_for_those_gone() {
    let head = tree(&files(0..20));
    assert_eq!(what(&head, &tree(&files(15..100))), Some(Gone::Most { gone: 15, of: 20 }));
}

#[test]
fn a_directory_counts_with_all_it_holds() {
    let mut paths: Vec<String> = (0..15).map(|n| format!("d/f{n:02}")).collect();
    paths.extend(texts(&["d/", "keep"]));
    let head = tree(&paths);
    assert_eq!(what(&head, &tree(&texts(&["keep"]))), Some(Gone::Most { gone: 16, of: 17 }));
    assert_eq!(what(&head, &tree(&texts(&["keep", "d"]))), Some(Gone::Most { gone: 15, of: 17 }));
}

#[test]
fn what_moved_is_not_gone() {
    let below = |directory: &str, targets: std::ops::Range<u32>| {
        let file = |n| format!("{directory}/f{n:02}={n}");
        let mut paths: Vec<String> = targets.map(file).collect();
        paths.extend([format!("{directory}/"), "keep".into()]);
        paths
    };
    let head = tree(&below("conf.d", 0..20));
    assert_eq!(what(&head, &tree(&below("conf.v2", 0..20))), None, "renamed");
    assert_eq!(what(&head, &tree(&below("conf.v2", 5..30))), None, "renamed, a few edited");
    assert_eq!(
        what(&head, &tree(&below("conf.v2", 15..60))),
        Some(Gone::Most { gone: 15, of: 22 }),
        "most of it edited"
    );
    let replaced: Vec<String> = (0..22).map(|n| format!("g{n:02}=0")).collect();
    assert_eq!(what(&head, &tree(&replaced)), Some(Gone::Most { gone: 21, of: 22 }), "one content stands for one file");
}

#[test]
fn a5_an_emptied_file_is_gone() {
    let emptied = |range: std::ops::Range<u32>| range.map(|n| format!("f{n:03}=")).collect::<Vec<_>>();
    let head = tree(&files(0..20));
    assert_eq!(what(&head, &tree(&emptied(0..20))), Some(Gone::Most { gone: 20, of: 20 }));
    assert_eq!(what(&head, &tree(&[emptied(0..11), files(11..20)].concat())), Some(Gone::Most { gone: 11, of: 20 }));
    assert_eq!(what(&head, &tree(&[emptied(0..10), files(10..20)].concat())), None, "half of them");
    let moved: Vec<String> = (0..20).map(|n| format!("g{n:03}=f{n:03}")).collect();
    assert_eq!(what(&head, &tree(&[emptied(0..20), moved].concat())), None, "what they held is elsewhere");
    assert_eq!(what(&tree(&emptied(0..20)), &tree(&emptied(0..20))), None, "they were empty before");
    // A few at a time.
    let mut history = History::new(head);
    for count in 1..11 {
        history.publish(tree(&[emptied(0..count), files(count..20)].concat())).expect("not most of it yet");
    }
    history.publish(tree(&[emptied(0..11), files(11..20)].concat())).expect_err("most of it by now");
}

#[test]
fn what_moved_to_another_set_is_not_gone() {
    let (head, moved) = (two_sets(&files(0..20), &[]), two_sets(&[], &files(0..20)));
    assert_eq!(what(&head, &moved), None);
    assert_eq!(what(&head, &two_sets(&[], &files(10..20))), Some(Gone::Most { gone: 10, of: 20 }));
    assert_eq!(what(&head, &two_sets(&[], &[])), Some(Gone::All(20)));
}

#[test]
fn many_small_removals_are_one_large_one() {
    let mut history = History::new(tree(&files(0..157)));
    let refused = (1..157).find_map(|n| history.wait(1).publish(tree(&files(n..157))).err()).expect("it stops");
    assert_eq!(refused.what, Gone::Most { gone: 79, of: 157 });
    assert!(refused.to_string().contains("79 of 157 entries of nginx are gone within 78 s"), "{refused}");
    assert!(history.guard.references.len() <= 3, "few trees are remembered");
}

#[test]
fn a_small_set_cannot_be_emptied_in_steps_either() {
    let mut history = History::new(tree(&files(0..3)));
    history.wait(60).publish(tree(&files(0..2))).unwrap();
    history.wait(60).publish(tree(&files(0..1))).unwrap();
    assert_eq!(history.wait(60).publish(tree(&[])).unwrap_err().what, Gone::All(3));
}

#[test]
fn what_was_gone_an_hour_ago_counts_no_more() {
    let mut history = History::new(tree(&files(0..100)));
    history.wait(60).publish(tree(&files(40..100))).unwrap();
    let next = tree(&files(70..100));
    assert!(history.wait(3_500).judge(&next).1.is_some(), "70 of 100");
    history.wait(100).publish(next).expect("30 of the 60 that were there an hour ago");
}

#[test]
fn what_came_within_the_hour_counts_when_it_was_there_for_a_while() {
    let mut history = History::new(tree(&files(0..20)));
    history.wait(10).publish(tree(&files(0..1_020))).unwrap();
    history.wait(1_300).publish(tree(&files(0..1_019))).unwrap();
    let refused = (0..1_019).rev().step_by(50).find_map(|n| history.wait(10).publish(tree(&files(0..n))).err());
    assert!(matches!(refused.unwrap().what, Gone::Most { of: 1_020, .. }));
    assert!(history.guard.references.len() <= 6, "{}", history.guard.references.len());
}

#[test]
fn memory_is_bounded_however_much_is_published() {
    let mut history = History::new(tree(&files(0..100)));
    for n in 0..2_000 {
        let other = [files(0..100), texts(&[&format!("new{n}")])].concat();
        history.wait(7).publish(tree(&other)).unwrap();
        assert!(history.guard.references.len() <= 6, "{}", history.guard.references.len());
    }
}

#[test]
fn a_move_in_two_steps_is_a_move() {
    let file = |directory: &str, n: u32| format!("{directory}/f{n:02}={n}");
    let both: Vec<String> = (0..20).flat_map(|n| [file("a", n), file("b", n)]).collect();
    let with = |paths: &[String], directories: &[&str]| tree(&[paths, &texts(directories)].concat());
    let old: Vec<String> = (0..20).map(|n| file("a", n)).collect();
    let new: Vec<String> = (0..20).map(|n| file("b", n)).collect();
    let mut history = History::new(with(&old, &["a/"]));
    history.wait(5).publish(with(&both, &["a/", "b/"])).expect("copied");
    history.wait(5).publish(with(&new, &["b/"])).expect("the old one removed");
    history.wait(5).publish(with(&new[1..], &["b/"])).expect("one more");
    // An entry that was edited after its move is not lost either.
    let edited: Vec<String> = (1..20).map(|n| format!("b/f{n:02}=edited {n}")).collect();
    history.wait(5).publish(with(&edited, &["b/"])).expect("edits");
    history.wait(5).publish(with(&edited[1..], &["b/"])).expect("and one more");
}

#[test]
fn what_is_accepted_counts_no_more() {
    let mut history = History::new(tree(&files(0..20)));
    let less = tree(&files(0..8));
    assert!(history.wait(1).judge(&less).1.is_some());
    history.guard.accept(Arc::new(less.clone()), history.at);
    history.head = less;
    history.wait(1).publish(tree(&files(0..5))).expect("three of eight");
}

#[test]
fn a_set_of_one_file_is_not_emptied_either() {
    let fright = frightening(&tree(&files(0..1)), &tree(&[])).expect("nothing is left");
    assert_eq!(fright.what, Gone::All(1));
    assert!(fright.to_string().starts_with("the only entry of "), "{fright}");
}

#[test]
fn it_goes_on_from_the_history_after_a_restart() {
    let (before, head) = (tree(&files(0..157)), tree(&files(70..157)));
    let at = Instant::now();
    let mut guard = Guard::resumed((before, at), Arc::new(head.clone()), at + Duration::from_secs(60));
    let at = at + Duration::from_secs(120);
    let next = |n: u32| tree(&files(n..157));
    let mut step = Step::new(&head, &next(75), &head.diff(&next(75)));
    assert_eq!(guard.judge(&mut step, &next(75), at), None);
    guard.note(&step, Arc::new(next(75)), at);
    let mut step = Step::new(&next(75), &next(80), &next(75).diff(&next(80)));
    let fright = guard.judge(&mut step, &next(80), at).expect("too much by now");
    assert_eq!(fright.what, Gone::Most { gone: 80, of: 157 });
}

#[test]
fn what_new_rules_exclude_was_left_out_on_purpose() {
    let head = tree(&files(0..20));
    let rules = SetRules { exclude: vec!["f00*".into()], ..SetRules::new(name()) };
    let under = |paths: &[String]| tree(paths).with_rules(&[Arc::new(rules.clone())]);
    assert_eq!(what(&head, &under(&files(10..20))), None, "half of it excluded");
    let most = what(&head, &under(&files(16..20)));
    assert_eq!(most, Some(Gone::Most { gone: 6, of: 10 }), "and of the rest more than half gone");
    let mut history = History::new(head);
    history.wait(1).publish(under(&files(10..20))).unwrap();
    history.wait(1).publish(under(&files(14..20))).expect("four of the ten that are not excluded");
    assert!(history.wait(1).publish(under(&files(16..20))).is_err());
}

#[test]
fn a_set_taken_out_of_the_rules_does_not() {
    assert_eq!(what(&tree(&files(0..50)), &Tree::default()), None);
}
