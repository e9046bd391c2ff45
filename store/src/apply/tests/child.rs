//! An apply in a process of its own: this test program, run again.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::farm::{Farm, Outcome, assert_same, note};
use crate::{
    apply::{Obstacle, Recovered, Refused, forget, recover},
    scan::{Look, scan_expecting},
    state::file::tests::Any,
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
            note(&switched).unwrap();
            switched.commit();
        }
        "commit inside" => {
            let switched = farm.sync().unwrap();
            assert!(farm.live().join(".bellwether").is_dir(), "staging is inside the set");
            note(&switched).unwrap();
            switched.commit();
        }
        "commit and compare" => {
            let switched = farm.sync().unwrap();
            note(&switched).unwrap();
            switched.commit();
            farm.assert_is_model();
        }
        // What was there before is in `twin`.
        "recover and compare" => {
            recover_and_note(&farm);
            let model = if farm.noted().is_some() { farm.model() } else { farm.home().join("twin") };
            assert_same(&farm.tree(&farm.live()), &farm.tree(&model));
            farm.assert_clean();
            assert_eq!(recover(&farm.site(), farm.noted()).unwrap(), Recovered::Clean);
        }
        "refused" => {
            let before = farm.tree(&farm.live());
            let Err(Outcome::Refused(refused)) = farm.sync() else { panic!("not refused") };
            let obstacle = refused.obstacle();
            let there = obstacle.as_ref().and_then(Obstacle::is_there);
            println!("refused: {refused}; {:?}, there: {there:?}", obstacle.map(|obstacle| obstacle.cause()));
            assert_same(&farm.tree(&farm.live()), &before);
            farm.assert_clean();
        }
        "times" => times(&farm),
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
            recover_and_note(&farm);
        }
        other => panic!("{other}"),
    }
}

/// A file system that ends in 2038: what is later there shows its last moment, and is what was put there all the same.
fn times(farm: &Farm) {
    const LAST: i64 = (1 << 31) - 1;
    let target = farm.tree(&farm.model());
    farm.sync().unwrap().commit();
    for name in ["later", "link"] {
        assert_eq!(fs::symlink_metadata(farm.live().join(name)).unwrap().mtime(), LAST, "{name}");
    }
    // As after a restart that has lost its index, and as a scan that follows.
    let scanned = |before: &Tree| scan_expecting(&farm.site().sources, before, &Look::Bytes, &target).unwrap().tree;
    let live = scanned(&Tree::empty([Arc::new(farm.rules.clone())]));
    assert_same(&live, &target);
    assert_same(&scanned(&live), &target);
    // An edit of another time is one.
    let other = fs::File::open(farm.live().join("later")).unwrap();
    other.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    assert_eq!(scanned(&live).diff(&target).len(), 1);
    // It is put back, and what is put back can be taken back.
    let live = scanned(&live);
    let expected = target.clone();
    farm.sync_expecting(&expected, &live).unwrap().take_back().unwrap();
    assert_eq!(scanned(&live).diff(&target).len(), 1);
    farm.sync_expecting(&expected, &live).unwrap().commit();
    assert_same(&scanned(&live), &target);
    farm.assert_clean();
}

/// As an agent at its start.
pub(super) fn recover_and_note(farm: &Farm) {
    let site = farm.site();
    if let Recovered::Forward(_) = recover(&site, farm.noted()).unwrap() {
        site.log.note(&Any(1u32)).unwrap();
        forget(&site).unwrap();
    }
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
