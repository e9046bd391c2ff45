//! Errors injected at every operation, one after the other.

use super::farm::{Farm, Outcome, assert_same, build};
use crate::{
    apply::{Failed, Recovered, forget, recover, work::Ways},
    durable::recording::{failing, record},
};

const BEFORE: &[&str] = &["a=a", "d/x=x", "gone/y=y", "l->a", "mode@700", "f=file"];
const AFTER: &[&str] = &["a=new", "d/x=new", "d/n=n", "new/deep/z=z", "l->d", "mode@750", "f/x=x"];

fn farm(ways: Ways) -> Farm {
    let mut farm = Farm::in_memory();
    farm.ways = ways;
    build(&farm.live(), BEFORE);
    build(&farm.model(), AFTER);
    farm
}

fn every_way() -> [Ways; 3] {
    let ways = |beside, exchange| Ways { beside, exchange, ..Ways::default() };
    [ways(true, true), ways(false, true), ways(true, false)]
}

#[test]
fn an_error_at_any_operation_leaves_the_sets_as_they_were_or_as_they_should_be() {
    for ways in every_way() {
        let (_, operations) = {
            let farm = farm(ways);
            record(farm.home(), || farm.sync_and_commit().unwrap())
        };
        let (mut before_switch, mut taken_back, mut done) = (0, 0, 0);
        for (k, operation) in operations.iter().enumerate() {
            let farm = farm(ways);
            let before = farm.tree(&farm.live());
            let result = failing(farm.home(), k, k + 1, || farm.sync_and_commit());
            match result {
                Err(Outcome::Refused(_)) => before_switch += 1,
                Err(Outcome::Failed(Failed::TakenBack { .. })) => taken_back += 1,
                Err(Outcome::Failed(stuck)) => panic!("at {k} ({operation:?}): {stuck}"),
                Ok(()) => done += 1,
            }
            // Whatever the error left behind goes at the next start.
            let noted = result.is_ok().then(super::farm::revision);
            assert_eq!(recover(&farm.site(), noted).unwrap(), Recovered::Clean, "at {k}: {operation:?}");
            if result.is_ok() {
                farm.assert_is_model();
            } else {
                assert_same(&farm.tree(&farm.live()), &before);
                farm.assert_clean();
            }
        }
        assert!(before_switch > 20 && taken_back > 5 && done > 3, "{before_switch} {taken_back} {done}");
    }
}

#[test]
fn when_nothing_works_any_more_recovery_finishes_it_later() {
    for ways in every_way() {
        let (_, operations) = {
            let farm = farm(ways);
            record(farm.home(), || farm.sync_and_commit().unwrap())
        };
        let (mut forward, mut back) = (0, 0);
        for k in 0..operations.len() {
            let farm = farm(ways);
            let before = farm.tree(&farm.live());
            let result = failing(farm.home(), k, usize::MAX, || farm.sync_and_commit());
            let noted = result.is_ok().then(super::farm::revision);
            match (recover(&farm.site(), noted).unwrap(), noted) {
                (Recovered::Forward(_), None) => {
                    forward += 1;
                    forget(&farm.site()).unwrap();
                    farm.assert_is_model();
                }
                (Recovered::Clean, Some(_)) => farm.assert_is_model(),
                (Recovered::Clean | Recovered::Back, None) => {
                    back += 1;
                    assert_same(&farm.tree(&farm.live()), &before);
                    farm.assert_clean();
                }
                other => panic!("{other:?} at {k}"),
            }
        }
        assert!(forward > 5 && back > 20, "{forward} {back}");
    }
}
