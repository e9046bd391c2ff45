//! Power loss: the operations of an apply are replayed up to any moment, with any of those missing that no fsync covers.
//! Then recovery has to find exactly the old or exactly the new tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::farm::{Farm, build, remove, revision};
use crate::{
    apply::{Recovered, forget, recover, work::Ways},
    durable::recording::{Operation, Random, record, replay, survivors},
    log,
};

/// What may change in an apply: the sets and the state.
struct Disk {
    home: PathBuf,
    copy: PathBuf,
}

impl Disk {
    fn save(home: &Path, copy: &str) -> Self {
        let copy = home.join(copy);
        remove(&copy);
        fs::create_dir(&copy).unwrap();
        let disk = Self { home: home.to_owned(), copy };
        disk.copy(&disk.home, &disk.copy);
        disk
    }

    fn restore(&self) {
        remove(&self.home.join("etc"));
        remove(&self.home.join("state"));
        self.copy(&self.copy, &self.home);
    }

    fn copy(&self, from: &Path, to: &Path) {
        let status = Command::new("cp").arg("-a").arg(from.join("etc")).arg(from.join("state")).arg(to).status();
        assert!(status.unwrap().success());
    }
}

fn noted(happened: &[Operation]) -> bool {
    happened.iter().any(|operation| matches!(operation, Operation::Mark { what: "noted", .. }))
}

/// Whether the sets hold the new tree; they must hold the new or the old one, as recovery says.
fn recovered(farm: &Farm, at: bool, roots: [bellwether_proto::hash::Hash; 2], named: &str) -> bool {
    let site = farm.site();
    let found = recover(&site, at.then(revision)).unwrap_or_else(|error| panic!("{named}: {error}"));
    let root = farm.tree(&farm.live()).root();
    let is_new = root == roots[1];
    assert!(is_new || root == roots[0], "{named}: {found:?}, and the set holds a mix: {:?}", farm.tree(&farm.live()));
    match found {
        Recovered::Clean => assert_eq!(is_new, at, "{named}"),
        Recovered::Back => assert!(!is_new && !at, "{named}"),
        Recovered::Forward(to) => {
            assert!(is_new && to == revision(), "{named}");
            forget(&site).unwrap();
            assert_eq!(farm.tree(&farm.live()).root(), roots[1], "{named}");
        }
    }
    farm.assert_clean();
    is_new
}

/// Plays `count` power losses, half of them with a second one during recovery. Gives how often the new tree stood.
fn play(farm: &Farm, count: u64, apply: impl FnOnce(&Farm)) -> u64 {
    let home = farm.home();
    let roots = [farm.tree(&farm.live()).root(), farm.tree(&farm.model()).root()];
    let before = Disk::save(home, "before");
    let ((), operations) = record(home, || apply(farm));
    let mut new = 0;
    for seed in 1..=count {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        before.restore();
        let (left, end) = survivors(&operations, &mut random);
        replay(&left, home);
        let at = farm.noted().is_some();
        let named = format!("seed {seed}, power lost after {end} of {} operations", operations.len());
        assert!(at || !noted(&operations[..end]), "{named}: the position is gone");
        if random.below(2) == 0 {
            let crashed = Disk::save(home, "crashed");
            let (_, again) = record(home, || recover(&farm.site(), at.then(revision)));
            crashed.restore();
            let (left, end) = survivors(&again, &mut random);
            replay(&left, home);
            let named = format!("{named}, and again after {end} of {} of the recovery", again.len());
            new += u64::from(recovered(farm, at, roots, &named));
        } else {
            new += u64::from(recovered(farm, at, roots, &named));
        }
    }
    new
}

const BEFORE: &[&str] = &[
    "same=same",
    "changed=the old content",
    "d/deep/changed=old",
    "mode=mode@600",
    "gone=gone",
    "gone-dir/a/b=b",
    "link->one",
    "dir@700",
    "dir/kept=kept",
    "file-dir=file",
    "dir-file/x=x",
];
const AFTER: &[&str] = &[
    "same=same",
    "changed=the new content",
    "d/deep/changed=new",
    "mode=mode@640",
    "new=new",
    "new-dir/a/b=b",
    "new-dir/l->x",
    "link->two",
    "dir@755",
    "dir/kept=kept",
    "file-dir/x=x",
    "dir-file=file",
];

fn farm(ways: Ways) -> Farm {
    let mut farm = Farm::in_memory();
    farm.ways = ways;
    build(&farm.live(), BEFORE);
    build(&farm.model(), AFTER);
    farm
}

fn commit(farm: &Farm) {
    farm.sync_and_commit().unwrap();
}

#[test]
fn a_power_loss_at_any_moment_leaves_the_old_or_the_new_tree() {
    let new = play(&farm(Ways::default()), 250, commit);
    assert!((50..220).contains(&new), "{new} of 250: the moments are not spread");
}

#[test]
fn also_with_staging_inside_the_set() {
    play(&farm(Ways { beside: false, ..Ways::default() }), 100, commit);
}

#[test]
fn also_without_exchanges() {
    play(&farm(Ways { exchange: false, ..Ways::default() }), 150, commit);
}

#[test]
fn also_when_the_set_is_made() {
    let farm = farm(Ways::default());
    remove(&farm.live());
    play(&farm, 80, commit);
}

#[test]
fn also_while_it_is_taken_back() {
    for exchange in [true, false] {
        play(&farm(Ways { exchange, ..Ways::default() }), 100, |farm| farm.sync().unwrap().take_back().unwrap());
    }
}

#[test]
fn also_in_a_change_so_large_that_file_systems_are_synced() {
    let farm = Farm::in_memory();
    let names = |prefix: &str| (0..80).map(|n| format!("d{}/{n}={prefix}{n}", n % 70)).collect::<Vec<_>>();
    build(&farm.live(), &names("old "));
    build(&farm.model(), &names("the new "));
    play(&farm, 60, commit);
}

#[test]
fn also_when_only_one_file_changes() {
    for exchange in [true, false] {
        let mut farm = Farm::in_memory();
        farm.ways = Ways { exchange, ..Ways::default() };
        build(&farm.live(), &["d/same=same", "d/changed=the old content"]);
        build(&farm.model(), &["d/same=same", "d/changed=the new content"]);
        play(&farm, 150, commit);
    }
}

#[test]
fn a_file_that_was_not_synced_is_found_out() {
    // The test itself: without the syncs before the journal, a mix or a stuck recovery has to show.
    let farm = farm(Ways::default());
    let home = farm.home();
    let before = Disk::save(home, "before");
    let ((), operations) = record(home, || commit(&farm));
    let exchanges = operations.iter().position(|o| matches!(o, Operation::Exchange { .. })).unwrap();
    let unsynced: Vec<Operation> = operations[..exchanges]
        .iter()
        .filter(|o| !matches!(o, Operation::Write { path, .. } if !path.ends_with(log::NAME)))
        .cloned()
        .collect();
    before.restore();
    replay(&unsynced, home);
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Back, "empty files are not put in place");
    assert_eq!(fs::read_to_string(farm.live().join("changed")).unwrap(), "the old content");
}
