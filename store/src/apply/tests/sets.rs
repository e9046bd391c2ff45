//! Several sets switch or none; what recovery says when it cannot go on.

use std::{fs, os::unix::fs::symlink, path::PathBuf, sync::Arc};

use bellwether_proto::record::SetRules;

use super::farm::{Farm, assert_same, build, remove, revision};
use crate::{
    apply::{Failed, Job, Plan, Recovered, Refused, forget, recover},
    durable::recording::{failing, record},
    log,
    scan::{Look, Source, scan},
    tree::Tree,
};

/// Two sets, `mail` and `web`, below `at`.
fn sources(at: PathBuf) -> Vec<Source> {
    let rules = |name: &str| Arc::new(SetRules::new(name.parse().unwrap()));
    ["mail", "web"].map(|name| Source::new(rules(name), at.join(name))).into()
}

fn tree(sources: &[Source]) -> Tree {
    scan(sources, &Tree::empty(sources.iter().map(|s| s.rules.clone())), &Look::Bytes).unwrap().tree
}

/// A farm whose two sets get new empty files and links, and where they are now and in the model.
fn two() -> (Farm, Vec<Source>, Vec<Source>) {
    let farm = Farm::new();
    let (live, model) = (sources(farm.home().join("etc")), sources(farm.home().join("model")));
    for (sources, files) in [(&live, ["l->old", "d/x=x"]), (&model, ["l->new", "d/x="])] {
        for source in sources {
            build(&source.path, &files);
        }
    }
    (farm, live, model)
}

/// Switches both and commits.
fn apply(farm: &Farm, live: &[Source], before: &Tree, target: &Tree) -> Result<(), String> {
    let site = farm.site_of(live.to_vec());
    let changes = before.diff(target);
    let job = Job { revision: revision(), label: "1.2".to_owned(), live: before, expected: before, target, changes };
    let plan = Plan::new(&site, &job).map_err(|error| error.to_string())?;
    let staged = plan.staged().map_err(|error| error.to_string())?;
    staged.switch().map_err(|error| error.to_string())?.commit();
    Ok(())
}

#[test]
fn all_sets_switch_or_none() {
    let operations = {
        let (farm, live, model) = two();
        let (before, target) = (tree(&live), tree(&model));
        let (result, operations) = record(farm.home(), || apply(&farm, &live, &before, &target));
        result.unwrap();
        assert_same(&tree(&live), &target);
        operations
    };
    for (k, operation) in operations.iter().enumerate() {
        let (farm, live, model) = two();
        let (before, target) = (tree(&live), tree(&model));
        let result = failing(farm.home(), k, k + 1, || apply(&farm, &live, &before, &target));
        let now = tree(&live).root();
        assert_eq!(now, if result.is_ok() { target.root() } else { before.root() }, "{k}: {operation:?}");
    }
}

#[test]
fn an_obstacle_in_one_set_is_named_and_leaves_the_other_as_it_was() {
    let (farm, live, model) = two();
    let (before, target) = (tree(&live), tree(&model));
    let site = farm.site_of(live.clone());
    let changes = before.diff(&target);
    let job = Job {
        revision: revision(),
        label: "1.2".to_owned(),
        live: &before,
        expected: &before,
        target: &target,
        changes,
    };
    let staged = Plan::new(&site, &job).unwrap().staged().unwrap();
    remove(&live[1].path.join("d"));
    symlink("/", live[1].path.join("d")).unwrap();
    let Err(Failed::TakenBack { what }) = staged.switch() else { panic!("not taken back") };
    assert!(what.contains("web:d/x"), "{what}");
    assert_same(&tree(&live[..1]), &before.with_rules(&[live[0].rules.clone()]));
}

#[test]
fn a_set_that_is_not_configured_here_is_left_alone() {
    let (farm, live, model) = two();
    let (before, target) = (tree(&live), tree(&model));
    let site = farm.site_of(vec![live[0].clone()]);
    let changes = before.diff(&target);
    let job = Job {
        revision: revision(),
        label: "1.2".to_owned(),
        live: &before,
        expected: &before,
        target: &target,
        changes,
    };
    Plan::new(&site, &job).unwrap().staged().unwrap().switch().unwrap().commit();
    assert_same(&tree(&live[..1]), &tree(&model[..1]));
    assert_eq!(fs::read_link(live[1].path.join("l")).unwrap(), PathBuf::from("old"));
}

#[test]
fn a_switch_that_was_neither_committed_nor_taken_back_is_finished_at_the_next_start() {
    let farm = Farm::new();
    build(&farm.live(), &["a=a"]);
    build(&farm.model(), &["a=new"]);
    drop(farm.sync().unwrap());
    let again = farm.sync().unwrap_err();
    assert!(matches!(again, super::farm::Outcome::Refused(Refused::Io { .. })), "{again:?}");
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Forward(revision()));
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Forward(revision()), "safe to repeat");
    forget(&farm.site()).unwrap();
    farm.assert_is_model();
    forget(&farm.site()).unwrap();
}

#[test]
fn a_damaged_file_in_place_is_taken_back() {
    let farm = Farm::new();
    build(&farm.live(), &["a=old", "b=old"]);
    build(&farm.model(), &["a=the new one", "b=the new one"]);
    let before = farm.tree(&farm.live());
    drop(farm.sync().unwrap());
    let path = farm.live().join("b");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "the new").unwrap();
    fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Back);
    assert_same(&farm.tree(&farm.live()), &before);
    farm.assert_clean();
}

#[test]
fn what_is_in_the_way_of_recovery_is_named_and_the_journal_stays() {
    let farm = Farm::new();
    build(&farm.live(), &["a=old", "b=old"]);
    build(&farm.model(), &["a=the new one", "b=the new one"]);
    drop(farm.sync().unwrap());
    fs::write(farm.live().join("b"), "cut").unwrap();
    let staging = farm.staging();
    for entry in fs::read_dir(&staging).unwrap() {
        remove(&entry.unwrap().path());
    }
    for _ in 0..2 {
        let Err(Failed::Stuck { back, .. }) = recover(&farm.site(), None) else { panic!("not stuck") };
        assert!(back.contains("web:a: the old one is gone"), "{back}");
        assert!(log::read(&farm.history()).unwrap().is_switching());
    }
}

#[test]
fn a_set_that_moved_meanwhile_is_named() {
    let farm = Farm::new();
    build(&farm.model(), &["a=new"]);
    drop(farm.sync().unwrap());
    let mut site = farm.site();
    site.sources[0].path = farm.home().join("elsewhere");
    let Err(Failed::Stuck { back, .. }) = recover(&site, None) else { panic!("not stuck") };
    assert!(back.contains("set web was at"), "{back}");
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Forward(revision()));
}

#[test]
fn a_sync_to_the_noted_revision_that_was_interrupted_is_completed() {
    let farm = Farm::new();
    build(&farm.live(), &["a=drift", "b=drift"]);
    build(&farm.model(), &["a=true", "b=true"]);
    drop(farm.sync().unwrap());
    // As if the second exchange had not happened.
    fs::rename(farm.live().join("b"), farm.home().join("new")).unwrap();
    let staging = farm.staging();
    fs::rename(staging.join("1"), farm.live().join("b")).unwrap();
    fs::rename(farm.home().join("new"), staging.join("1")).unwrap();
    assert_eq!(recover(&farm.site(), Some(revision())).unwrap(), Recovered::Clean);
    farm.assert_is_model();
}
