//! kill -9 at every named point, at every time it is passed, and again during the recovery.

use std::os::unix::process::ExitStatusExt;

use super::{
    child::run,
    farm::{Farm, assert_same, build},
};
use crate::{
    apply::{Recovered, recover},
    failpoint,
    tree::Tree,
};

fn farm() -> Farm {
    let farm = Farm::in_memory();
    build(&farm.live(), &["a=a", "gone/x=x", "l->a", "d@700"]);
    build(&farm.model(), &["a=new", "n/x=x", "l->n", "d@750"]);
    farm
}

/// Kills `what` at `point`; false when it never comes there.
fn killed(farm: &Farm, what: &str, point: &str) -> bool {
    let output = run(farm, what, Some(point));
    match output.status.signal() {
        Some(9) => true,
        _ if output.status.success() => false,
        _ => panic!("{what} at {point}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Kills `what` at each hit of each of `points`, then has `after` look, with the tree from before. Gives how often.
fn kill_at_all(points: &[&str], what: &str, after: impl Fn(&Farm, &Tree, &str)) -> usize {
    let mut kills = 0;
    for name in points {
        for hit in 1.. {
            let (farm, point) = (farm(), format!("{name}:{hit}"));
            let before = farm.tree(&farm.live());
            if !killed(&farm, what, &point) {
                assert!(hit > 1, "{what} never comes to {name}");
                break;
            }
            kills += 1;
            after(&farm, &before, &point);
        }
    }
    kills
}

/// Recovers, and asserts that the set holds one revision.
fn assert_whole(farm: &Farm, before: &Tree, point: &str) {
    let output = run(farm, "recover", None);
    assert!(output.status.success(), "{point}: {}", String::from_utf8_lossy(&output.stderr));
    if farm.noted().is_some() {
        farm.assert_is_model();
    } else {
        assert_same(&farm.tree(&farm.live()), before);
        farm.assert_clean();
    }
    assert_eq!(recover(&farm.site(), farm.noted()).unwrap(), Recovered::Clean, "{point}");
}

#[test]
fn a_member_killed_at_any_point_of_an_apply_is_whole_again() {
    let kills = kill_at_all(failpoint::APPLY, "commit", assert_whole);
    assert!(kills > failpoint::APPLY.len(), "{kills}");
}

#[test]
fn a_member_killed_on_the_way_back_is_whole_again() {
    let kills = kill_at_all(failpoint::TAKE_BACK, "take back", assert_whole);
    assert!(kills > failpoint::TAKE_BACK.len(), "{kills}");
}

#[test]
fn a_member_killed_in_its_recovery_is_whole_again() {
    let mut kills = 0;
    for first in ["apply.journal", "apply.after-exchange:2", "apply.synced", "apply.commit", "apply.back-entry"] {
        for name in failpoint::RECOVER {
            for hit in 1.. {
                let (farm, point) = (farm(), format!("{name}:{hit}"));
                let before = farm.tree(&farm.live());
                let what = if first.starts_with("apply.back") { "take back" } else { "commit" };
                assert!(killed(&farm, what, first), "{first}");
                let again = killed(&farm, "recover", &point);
                assert_whole(&farm, &before, &format!("{first}, then {point}"));
                if !again {
                    break;
                }
                kills += 1;
            }
        }
    }
    assert!(kills > 20, "{kills}");
}
