//! The staging directory from one apply to the next.

use std::{fs, os::unix::fs::PermissionsExt};

use super::farm::{Farm, assert_same, build, revision};
use crate::{
    apply::{Job, Site},
    durable::recording::{Operation, record},
};

/// Brings the set to a model in which one file says `content`.
fn switch(farm: &Farm, site: &Site, content: &str) {
    build(&farm.model(), &[&format!("d/a={content}")]);
    let (live, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let changes = live.diff(&target);
    let (revision, label) = (revision(), "1.7".to_owned());
    let job = Job { revision, label, live: &live, expected: &live, target: &target, changes };
    farm.staged_at(site, &job).unwrap().switch().unwrap().commit();
    assert_same(&farm.tree(&farm.live()), &farm.tree(&farm.model()));
}

fn farm() -> (Farm, Site) {
    let farm = Farm::in_memory();
    build(&farm.live(), &["d/a=first"]);
    let site = farm.site();
    (farm, site)
}

#[test]
fn it_stays_and_is_empty_until_its_agent_ends() {
    let (farm, site) = farm();
    for content in ["second", "third"] {
        switch(&farm, &site, content);
        assert_eq!(fs::read_dir(farm.staging()).unwrap().count(), 0);
        assert_eq!(fs::metadata(farm.staging()).unwrap().permissions().mode() & 0o777, 0o700);
    }
    drop(site);
    farm.assert_is_model();
}

#[test]
fn a_change_of_one_file_is_three_syncs_and_the_position_the_fourth() {
    let (farm, site) = farm();
    switch(&farm, &site, "second");
    let ((), operations) = record(farm.home(), || switch(&farm, &site, "third"));
    let syncs: Vec<_> = operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::SyncFile { path } | Operation::SyncDirectory { path } => path.file_name()?.to_str(),
            _ => None,
        })
        .collect();
    assert_eq!(syncs.len(), 3, "{operations:#?}");
    assert!(syncs[..2].contains(&"0") && syncs[..2].contains(&"log") && syncs[2] == "d", "{syncs:?}");
    assert!(!operations.iter().any(|operation| matches!(operation, Operation::Directory { .. })), "{operations:#?}");
}

#[test]
fn what_came_between_two_applies_is_noticed() {
    let (farm, site) = farm();
    switch(&farm, &site, "second");
    fs::remove_dir(farm.staging()).unwrap();
    switch(&farm, &site, "third");
    // Another one in its place, with something in it.
    fs::rename(farm.staging(), farm.home().join("away")).unwrap();
    build(&farm.staging(), &["0=not of this apply"]);
    switch(&farm, &site, "fourth");
    // Another root in the place of the set.
    fs::rename(farm.live(), farm.home().join("set")).unwrap();
    build(&farm.live(), &["d/a=another"]);
    switch(&farm, &site, "fifth");
    // Another directory around both.
    fs::rename(farm.home().join("etc"), farm.home().join("old")).unwrap();
    build(&farm.live(), &["d/a=once more"]);
    switch(&farm, &site, "sixth");
    drop(site);
    farm.assert_is_model();
}
