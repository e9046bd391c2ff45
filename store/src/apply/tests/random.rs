//! Any tree becomes any other.

use proptest::prelude::*;

use super::farm::{Farm, assert_same, build};
use crate::apply::work::Ways;

fn component() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a-b", "c.log", "é", "d"])
}

fn spec() -> impl Strategy<Value = String> {
    let path = prop::collection::vec(component(), 1..4).prop_map(|parts| parts.join("/"));
    let mode = prop::sample::select(vec!["", "@600", "@755", "@444"]);
    let kind = prop::sample::select(vec!["/", "=one", "=two", "=", "->a", "->../b"]);
    (path, kind, mode).prop_map(|(path, kind, mode)| {
        let mode = if kind == "/" && !mode.is_empty() { "@700" } else { mode };
        format!("{path}{kind}{mode}")
    })
}

fn specs() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(spec(), 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_becomes_any_other_and_back(old in specs(), new in specs(), beside: bool, exchange: bool) {
        let mut farm = Farm::in_memory();
        farm.ways = Ways { beside, exchange, ..Ways::default() };
        build(&farm.live(), &old);
        build(&farm.model(), &new);
        let before = farm.tree(&farm.live());
        farm.sync().unwrap().take_back().unwrap();
        assert_same(&farm.tree(&farm.live()), &before);
        farm.sync_and_commit().unwrap();
        farm.assert_is_model();
    }

    #[test]
    fn excluded_files_are_never_touched(old in specs(), new in specs()) {
        let mut farm = Farm::in_memory();
        build(&farm.live(), &old);
        build(&farm.model(), &new);
        farm.rules.exclude = vec!["*.log".to_owned()];
        let list = |farm: &Farm| {
            let mut logs = Vec::new();
            logs_below(&farm.live(), &mut logs);
            logs.sort();
            logs
        };
        let before = list(&farm);
        match farm.sync() {
            Ok(switched) => switched.commit(),
            Err(super::farm::Outcome::Refused(crate::apply::Refused::Held { .. })) => {}
            Err(other) => panic!("{other:?}"),
        }
        prop_assert_eq!(list(&farm), before);
    }
}

/// Every excluded path, and below it everything, with its inode.
fn logs_below(directory: &std::path::Path, found: &mut Vec<(std::path::PathBuf, u64)>) {
    use std::os::unix::fs::MetadataExt;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.components().any(|c| c.as_os_str() == "c.log") {
            found.push((path.clone(), path.symlink_metadata().unwrap().ino()));
        }
        if path.is_dir() && !path.is_symlink() {
            logs_below(&path, found);
        }
    }
}
