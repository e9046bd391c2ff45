//! A journal that is whole, or not; a revision whose pack did not survive.

use std::fs;

use super::farm::{Farm, assert_same, build};
use crate::{
    apply::{Job, Recovered, forget, recover, recover_known},
    log,
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
    drop(farm.staged(&job).unwrap().begin(None).unwrap());
    (farm, before)
}

#[test]
fn a_whole_journal_counts() {
    let (farm, _) = begun();
    let site = farm.site();
    assert_eq!(recover(&site, None).unwrap(), Recovered::Forward(super::farm::revision()));
    forget(&site).unwrap();
    farm.assert_is_model();
}

#[test]
fn one_that_is_not_whole_was_never_durable_and_does_not_count() {
    for cut in [1, 2, 100, 1000] {
        let (farm, before) = begun();
        let path = log::path(&farm.history());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Clean);
        assert_same(&farm.tree(&farm.live()), &before);
        farm.assert_clean();
        // And the next one takes its place.
        farm.sync().unwrap().commit();
        farm.assert_is_model();
    }
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
