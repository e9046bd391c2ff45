//! An apply in a process of its own: this test program, run again.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

use super::farm::{Farm, Outcome, assert_same, revision};
use crate::{
    apply::{Recovered, Refused, forget, recover},
    tree::Tree,
};

const HOME: &str = "BELLWETHER_TEST_HOME";
const WHAT: &str = "BELLWETHER_TEST_WHAT";

/// Not a test by itself: what a child does, by its environment.
#[test]
fn the_child() {
    let Ok(home) = env::var(HOME) else { return };
    let farm = Farm::at(Path::new(&home));
    match env::var(WHAT).unwrap().as_str() {
        "commit" => {
            let switched = farm.sync().unwrap();
            note(&farm);
            switched.commit();
        }
        "commit inside" => {
            let switched = farm.sync().unwrap();
            assert!(farm.live().join(".bellwether").is_dir(), "staging is inside the set");
            note(&farm);
            switched.commit();
        }
        // What was known of the set is in `twin`: a scan of the set itself does not pass a mount.
        "held" => match farm.sync_expecting(&Tree::default(), &farm.tree(&farm.home().join("twin"))) {
            Err(Outcome::Refused(refused @ Refused::Held { .. })) => println!("held: {refused}"),
            other => panic!("{other:?}"),
        },
        "full" => {
            let before = farm.tree(&farm.live());
            match farm.sync() {
                Err(Outcome::Refused(Refused::Space { free, needed, staged, .. })) => {
                    assert!(needed > free && staged >= 600_000, "{needed} {free} {staged}");
                }
                other => panic!("{other:?}"),
            }
            assert_same(&farm.tree(&farm.live()), &before);
            farm.assert_clean();
        }
        "take back" => farm.sync().unwrap().take_back().unwrap(),
        "recover" => {
            if let Recovered::Forward(_) = recover(&farm.site(), noted(&farm)).unwrap() {
                note(&farm);
                forget(&farm.site()).unwrap();
            }
        }
        other => panic!("{other}"),
    }
}

/// The caller's durable note of the revision.
fn note(farm: &Farm) {
    fs::write(farm.home().join("noted"), "").unwrap();
}

/// The revision that was noted.
pub(super) fn noted(farm: &Farm) -> Option<bellwether_proto::revision::RevisionId> {
    farm.home().join("noted").exists().then(revision)
}

/// The command that does `what` in the farm, through `wrapper` (a program and its first arguments) when there is one.
pub(super) fn command(wrapper: &[&str], farm: &Farm, what: &str) -> Command {
    let program = env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.args(["--exact", "apply::tests::child::the_child", "--nocapture"]);
    command.env(HOME, farm.home()).env(WHAT, what);
    command
}

/// Runs it, to die at `point` (a failpoint) when there is one.
pub(super) fn run(farm: &Farm, what: &str, point: Option<&str>) -> Output {
    let mut command = command(&[], farm, what);
    if let Some(point) = point {
        command.env("BELLWETHER_FAILPOINT", point);
    }
    command.output().unwrap()
}
