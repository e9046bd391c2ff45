//! The files of a set that belong to this server alone, by the group's `local` patterns, and the number of excluded entries.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use bellwether_proto::{entry::EntryPath, record::SetRules};
use bellwether_store::{
    beneath::os,
    scan::{Excludes, LeftAlone},
};

use super::Check;

/// The most entries that are looked at.
const ENTRIES: usize = 50_000;
/// The most files that are named.
const NAMED: usize = 5;

/// Names them; none if the set has no such patterns.
pub(super) fn own_files(root: &Path, rules: &SetRules) -> Option<Check> {
    let name = format!("set {}", rules.name);
    let excludes = Excludes::new(rules).ok().filter(|_| !rules.local.is_empty() || !rules.exclude.is_empty())?;
    let Found { mut local, excluded, cut } = find(root, &excludes);
    local.sort();
    let named = local.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = local.len().saturating_sub(NAMED);
    let own = match (rules.local.is_empty(), local.len(), more) {
        (true, ..) => None,
        (false, 0, _) => Some("no entry here is local to this server".to_owned()),
        (false, _, 0) => Some(format!("local to this server, and never sent or changed: {named}")),
        (false, ..) => Some(format!("local to this server, and never sent or changed: {named} and {more} more")),
    };
    let excluded = match (rules.exclude.is_empty(), excluded) {
        (true, _) => None,
        (false, 1) => Some("1 entry is excluded".to_owned()),
        (false, count) => Some(format!("{count} entries are excluded")),
    };
    let cut = cut.then(|| format!("only {ENTRIES} entries were looked at"));
    let said: Vec<String> = [own, excluded, cut].into_iter().flatten().collect();
    Some(Check::ok(name, said.join("; ")))
}

#[derive(Default)]
struct Found {
    local: Vec<String>,
    excluded: usize,
    cut: bool,
}

/// Looks through the set, in one file system. A directory stands for all below it.
fn find(root: &Path, excludes: &Excludes) -> Found {
    let mut found = Found::default();
    let device = root.metadata().map_or(0, |metadata| metadata.dev());
    let (mut open, mut left) = (vec![EntryPath::root()], ENTRIES);
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(root.join(os(directory.as_bytes()))) else { continue };
        for entry in entries.filter_map(Result::ok) {
            if left == 0 {
                return Found { cut: true, ..found };
            }
            left -= 1;
            let path = directory.join(entry.file_name().as_encoded_bytes());
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            match excludes.reason(&path, metadata.is_dir()) {
                Some(LeftAlone::Local) => found.local.push(path.to_string()),
                Some(LeftAlone::Excluded) => found.excluded += 1,
                Some(LeftAlone::Staging) => {}
                None if metadata.is_dir() && metadata.dev() == device => open.push(path),
                None => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_this_server_are_named_apart_from_excluded_ones() {
        let set = tempfile::tempdir().expect("a directory");
        for path in ["conf.d/local-a.conf", "conf.d/site.conf", "own/x", "a.bak", ".bellwether/1"] {
            let path = set.path().join(path);
            fs::create_dir_all(path.parent().expect("above")).expect("made");
            fs::write(path, "x").expect("written");
        }
        let mut rules = SetRules::new("web".parse().expect("a name"));
        assert!(own_files(set.path(), &rules).is_none());
        rules.local = vec!["local-*.conf".to_owned(), "own/".to_owned()];
        rules.exclude = vec!["*.bak".to_owned()];
        let line = own_files(set.path(), &rules).expect("patterns").line();
        let said = "ok   set web: local to this server, and never sent or changed: conf.d/local-a.conf, own; 1 entry is excluded";
        assert_eq!(line, said);
        rules.local = vec!["none".to_owned()];
        rules.exclude.clear();
        assert!(
            own_files(set.path(), &rules).expect("patterns").line().ends_with("no entry here is local to this server")
        );
    }
}
