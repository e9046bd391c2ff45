//! kill -9 at every named point of an apply and of a publish. After it, the sets hold exactly one revision (invariant 1),
//! every acknowledged change is there (invariant 2), and the farm goes on by itself.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use bellwether_manager::failpoints::POINTS;
use bellwether_store::failpoint::{APPLY, HISTORY};

use crate::farm::{DEADLINE, Farm, Server, compare, run, wait_for};

/// The files in `conf.d`; every round changes some of each kind.
const FILES: usize = 12;

fn content(round: usize, file: usize) -> String {
    format!("round {round} of file {file}\n").repeat(500)
}

/// The tree of a round: changed, new and vanished files, another link, another mode, a directory with a new name.
fn write_round(server: &Server, round: usize) {
    let changed = |file: &usize| round == 0 || (file + round).is_multiple_of(2);
    for file in (0..FILES).filter(changed) {
        server.write(&format!("conf.d/{file:02}.conf"), content(round, file));
    }
    server.write(&format!("round-{round}/deep/er.conf"), content(round, 99));
    if round > 0 {
        fs::remove_dir_all(server.web(&format!("round-{}", round - 1))).expect("the round before");
    }
    let link = server.web("enabled");
    // The first round has no link yet.
    let _ = fs::remove_file(&link);
    symlink(format!("conf.d/{:02}.conf", round % FILES), &link).expect("a link");
    let mode = if round.is_multiple_of(2) { 0o640 } else { 0o644 };
    fs::set_permissions(server.web("conf.d/00.conf"), fs::Permissions::from_mode(mode)).expect("a mode");
}

/// A copy of the manager's present set, for later comparisons.
fn remember(farm: &Farm, name: &str) -> PathBuf {
    let copy = farm.directory().join(name);
    // -I is needed because a round is shorter than the second by which rsync notices a changed file.
    run(Command::new("rsync").args(["-aAXI", "--delete"]).arg(farm.manager().set("web").join("")).arg(&copy)).success();
    copy
}

/// Asserts that `set` holds exactly the old or exactly the new revision.
fn assert_old_or_new(point: &str, set: &Path, old: &Path, new: &Path) {
    if let (Some(to_old), Some(to_new)) = (compare::difference(old, set), compare::difference(new, set)) {
        panic!("killed at {point}: neither the old revision ({to_old}) nor the new one ({to_new})");
    }
}

/// Asserts that every file that a reader finds is whole, and the old or the new one.
fn assert_no_file_cut_short(point: &str, set: &Path, old: &Path, new: &Path) {
    for file in 0..FILES {
        let name = format!("conf.d/{file:02}.conf");
        let found = fs::read(set.join(&name)).unwrap_or_else(|e| panic!("killed at {point}: {name}: {e}"));
        let is = |tree: &Path| fs::read(tree.join(&name)).expect("a copy") == found;
        assert!(is(old) || is(new), "killed at {point}: {name} is neither the old nor the new one");
    }
}

/// Waits until all are in sync; an armed manager may die earlier, at its first scan.
fn wait_ready(farm: &mut Farm, index: usize) {
    wait_for("all in sync with the armed server, or its death", DEADLINE, || {
        if farm.server_mut(index).ended().is_some() || farm.is_in_sync() { Ok(()) } else { Err("neither".to_owned()) }
    });
}

/// Waits until that server has died. The points after the report come a moment after all are in sync.
fn wait_death(farm: &mut Farm, index: usize, point: &str) {
    wait_for(&format!("death at {point}"), DEADLINE, || {
        if farm.server_mut(index).ended().is_some() { Ok(()) } else { Err("it lives".to_owned()) }
    });
}

/// One farm with a round for each point, at which the server dies.
fn kill_at_each(points: &[&'static str], index: usize) {
    let mut farm = Farm::plan().members(2).start_with(|manager| write_round(manager, 0));
    // A round is to be one revision, even if writing it takes long.
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    farm.wait_equal();
    for (i, point) in points.iter().enumerate() {
        println!("kill -9 at {point}");
        let old = remember(&farm, "old");
        farm.server_mut(index).kill();
        farm.server_mut(index).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        wait_ready(&mut farm, index);
        write_round(farm.manager(), i + 1);
        let new = remember(&farm, "new");
        let published = farm.manager().command(&["publish"]);
        assert!(index == 0 || published.code == Some(0), "{published}");
        wait_death(&mut farm, index, point);
        farm.server_mut(index).kill();
        for member in farm.members() {
            assert_no_file_cut_short(point, member.set("web"), &old, &new);
        }
        if index > 0 {
            farm.server_mut(index).recover_only().success();
            assert_old_or_new(point, farm.member(index).set("web"), &old, &new);
        }
        farm.server_mut(index).start();
        // Changes that died with the manager before they were a revision are still edits.
        farm.manager().command(&["publish"]).success();
        farm.wait_equal();
    }
    farm.assert_equal();
}

#[test]
fn invariant_1_a_member_killed_at_every_point_of_an_apply_holds_one_revision() {
    kill_at_each(APPLY, 1);
}

#[test]
fn invariant_2_a_manager_killed_at_every_point_of_a_publish_goes_on() {
    let publishing: Vec<_> =
        POINTS.iter().copied().filter(|point| point.starts_with("publish.")).chain(HISTORY.iter().copied()).collect();
    kill_at_each(&publishing, 0);
}

#[test]
fn invariant_2_a_record_that_was_saved_when_the_manager_was_killed_is_in_force() {
    let mut farm = Farm::plan().members(1).start();
    farm.server_mut(0).kill();
    farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", "record.saved")]);
    farm.manager().command(&["pause"]).exits(1);
    let manager = farm.server_mut(0);
    wait_for("death at record.saved", DEADLINE, || manager.ended().ok_or("it runs".to_owned()));
    manager.kill();
    manager.start();
    assert!(farm.wait_in_sync().paused);
    farm.manager().command(&["resume"]).success();
}

#[test]
fn recover_only_on_a_server_that_was_not_interrupted_changes_nothing() {
    let mut farm = Farm::plan().members(1).start_with(|manager| write_round(manager, 0));
    farm.wait_equal();
    let before = remember(&farm, "before");
    farm.server_mut(1).stop();
    farm.member(1).recover_only().success();
    farm.member(1).recover_only().success();
    compare::assert_equal_by_rsync(&before, farm.member(1).set("web"));
    farm.server_mut(1).start();
    farm.wait_equal();
}

#[test]
fn an_agent_that_is_told_to_stop_ends_by_itself() {
    let mut farm = Farm::plan().members(1).start();
    for index in [1, 0] {
        let server = farm.server_mut(index);
        assert!(server.stop().success());
        assert!(!server.read_log().contains("still busy"), "{} had a straggler", server.name);
    }
}
