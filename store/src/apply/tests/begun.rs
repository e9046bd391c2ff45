//! A journal that survived under its temporary name only; a revision whose pack did not survive.

use std::fs;

use super::farm::{Farm, assert_same, build};
use crate::{
    apply::{Job, Recovered, forget, recover, recover_known},
    tree::Tree,
};

/// A farm whose switch was begun, and no more: what is in it, and what it had before.
fn begun() -> (Farm, Tree) {
    let farm = Farm::in_memory();
    build(&farm.live(), &["a=a", "gone=gone", "d/x=x"]);
    build(&farm.model(), &["a=new", "d/x=new", "n/y=y"]);
    let (before, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let changes = before.diff(&target);
    let revision = super::farm::revision();
    let label = "1.7".to_owned();
    let job = Job { revision, label, live: &before, expected: &before, target: &target, changes };
    drop(farm.staged(&job).unwrap().begin().unwrap());
    (farm, before)
}

#[test]
fn a_whole_journal_counts_under_its_temporary_name() {
    let (farm, _) = begun();
    fs::rename(farm.state.join("journal"), farm.state.join(".journal.new")).unwrap();
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Forward(super::farm::revision()));
    forget(&farm.site()).unwrap();
    farm.assert_is_model();
    assert!(!farm.state.join(".journal.new").exists());
}

#[test]
fn one_that_is_not_whole_was_never_durable_and_goes() {
    for cut in [0, 1, 100] {
        let (farm, before) = begun();
        let bytes = fs::read(farm.state.join("journal")).unwrap();
        fs::remove_file(farm.state.join("journal")).unwrap();
        fs::write(farm.state.join(".journal.new"), &bytes[..bytes.len() - 1 - cut]).unwrap();
        assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Clean);
        assert_same(&farm.tree(&farm.live()), &before);
        farm.assert_clean();
        assert!(!farm.state.join(".journal.new").exists());
    }
}

#[test]
fn the_one_under_its_own_name_comes_first_and_damage_there_is_refused() {
    let (farm, _) = begun();
    fs::copy(farm.state.join("journal"), farm.state.join(".journal.new")).unwrap();
    fs::write(farm.state.join("journal"), "cut short").unwrap();
    assert!(recover(&farm.site(), None).is_err());
}

#[test]
fn a_switch_to_a_revision_without_its_pack_is_taken_back() {
    let (farm, before) = begun();
    assert_eq!(recover_known(&farm.site(), None, &|_| false).unwrap(), Recovered::Back);
    assert_same(&farm.tree(&farm.live()), &before);
    farm.assert_clean();
}

#[test]
fn also_after_every_exchange() {
    let (farm, before) = begun();
    // Completed, as by a switch that died before the revision was noted.
    recover(&farm.site(), None).unwrap();
    assert_eq!(recover_known(&farm.site(), None, &|_| false).unwrap(), Recovered::Back);
    assert_same(&farm.tree(&farm.live()), &before);
    farm.assert_clean();
}
