//! W13, invariant 2: a `group rebuild` that is killed at any point has changed nothing, or is completed at the next start. The
//! same command completes it, too.

use std::fs;

use bellwether_manager::failpoints::REBUILD;
use bellwether_proto::{revision::Number, status::State};

use crate::{
    farm::{DEADLINE, Farm, Server, compare::find_below, wait_for},
    restoring::{back_up, restore, wait_halted},
};

fn farm() -> Farm {
    Farm::plan().members(2).start_with(|manager| manager.write("index.html", "first"))
}

/// Whether the record is durable at that point.
fn is_decided(point: &str) -> bool {
    let at = |point| REBUILD.iter().position(|&named| named == point);
    at(point) >= at("rebuild.saved")
}

/// The content of a directory of the state, by name; empty if there is none.
fn names(server: &Server, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(server.state().join(directory)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn wait_death(farm: &mut Farm, point: &str) {
    let manager = farm.server_mut(0);
    wait_for(&format!("death at {point}"), DEADLINE, || manager.ended().ok_or("it runs".to_owned()));
    manager.kill();
}

/// Asserts that the group is rebuilt: all have one new history in a later epoch, and the old one is kept.
fn assert_rebuilt(farm: &Farm, point: &str, before: Number, old: &[String]) -> Number {
    let head = farm.wait_equal().head.expect("a head");
    farm.assert_equal();
    assert!(head.epoch > before.epoch && head.sequence > before.sequence, "killed at {point}: {head} after {before}");
    let manager = farm.manager();
    let mut packs = names(manager, "history");
    packs.retain(|name| name != "log");
    assert!(packs.len() == 1 && packs[0].ends_with(".base"), "killed at {point}: {packs:?}");
    let kept = names(manager, "recovery");
    let kept = kept.iter().any(|point| names(manager, &format!("recovery/{point}/history")) == old);
    assert!(kept, "killed at {point}: the history before is not kept");
    assert!(!manager.state().join("history.new").exists(), "killed at {point}: half of it is left");
    head
}

fn assert_unchanged(farm: &Farm, point: &str, old: &[String]) {
    assert_eq!(names(farm.manager(), "history"), old, "killed at {point}");
    assert!(!farm.manager().state().join("history.new").exists(), "killed at {point}: half of it is left");
}

fn rebuild(farm: &Farm) {
    farm.manager().command(&["group", "rebuild", "--yes"]).success();
}

#[test]
fn w13_invariant_2_a_rebuild_whose_agent_is_killed_is_not_done_or_done_as_a_whole() {
    let mut farm = farm();
    let mut before = farm.wait_equal().head.expect("a head");
    for point in REBUILD {
        println!("kill -9 at {point}");
        farm.server_mut(0).kill();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_in_sync();
        let old = names(farm.manager(), "history");
        farm.manager().command(&["group", "rebuild", "--yes"]).exits(1);
        wait_death(&mut farm, point);
        farm.server_mut(0).start();
        if !is_decided(point) {
            assert_eq!(farm.wait_equal().head, Some(before), "killed at {point}");
            assert_unchanged(&farm, point, &old);
            rebuild(&farm);
        }
        before = assert_rebuilt(&farm, point, before, &old);
        farm.manager().write("index.html", format!("after {point}"));
        before = Number { sequence: farm.wait_equal().head.expect("a head").sequence, ..before };
    }
}

/// A restored manager stands still until the rebuild is complete. Content that the members lose is kept.
#[test]
fn w13_w14_invariant_2_a_restored_manager_stands_still_until_a_rebuild_that_was_killed_is_whole() {
    let mut farm = farm();
    for point in REBUILD {
        println!("kill -9 at {point}");
        let backup = back_up(farm.server_mut(0));
        farm.wait_in_sync();
        let lost = format!("lost at {point}");
        farm.manager().write("index.html", &lost);
        let before = farm.wait_equal().head.expect("a head");
        restore(farm.server_mut(0), &backup);
        fs::remove_dir_all(&backup).expect("removed");
        farm.manager().write("index.html", format!("the truth since {point}"));
        wait_halted(&farm, &["went back"]);
        farm.server_mut(0).stop();
        let old = names(farm.manager(), "history");
        // Without an agent the command rebuilds by itself.
        let killed = farm.manager().command_with(&["group", "rebuild", "--yes"], &[("BELLWETHER_FAILPOINT", point)]);
        assert_eq!(killed.code, None, "killed at {point}: {killed}");
        if *point == "rebuild.saved" {
            // The agent that completes the rebuild is killed, too.
            farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", "rebuild.kept")]);
            wait_death(&mut farm, "rebuild.kept");
        }
        if *point == "rebuild.cleared" {
            // The same command does not begin from a half-rebuilt state.
            let again = [("BELLWETHER_FAILPOINT", "rebuild.begun")];
            farm.manager().command_with(&["group", "rebuild", "--yes"], &again);
        }
        farm.server_mut(0).start();
        if !is_decided(point) {
            wait_halted(&farm, &["went back"]);
            assert_unchanged(&farm, point, &old);
            assert_eq!(fs::read_to_string(farm.member(1).web("index.html")).expect("served on"), lost);
            rebuild(&farm);
        }
        assert_rebuilt(&farm, point, before, &old);
        let kept = farm.member(1).state().join("recovery");
        let kept = fs::read_dir(kept).expect("kept copies").flatten().any(|point| {
            find_below(&point.path(), "index.html")
                .is_some_and(|file| fs::read_to_string(file).is_ok_and(|is| is == lost))
        });
        assert!(kept, "killed at {point}: what member1 had is lost");
        assert!(farm.status().servers.iter().all(|server| server.state == State::InSync), "killed at {point}");
    }
}

#[test]
fn w13_a_manager_whose_history_is_damaged_comes_back_whole_from_a_killed_rebuild() {
    let mut farm = farm();
    farm.manager().write("index.html", "second");
    let before = farm.wait_equal().head.expect("a head");
    farm.server_mut(0).stop();
    for name in names(farm.manager(), "history") {
        let path = farm.manager().state().join("history").join(name);
        let packs = fs::read(&path).expect("packs");
        // No whole pack is left: the first is more than a quarter of them.
        fs::write(&path, &packs[..packs.len() / 4]).expect("damaged");
    }
    let old = names(farm.manager(), "history");
    farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", "rebuild.kept")]);
    wait_halted(&farm, &["cannot lead"]);
    farm.manager().command(&["maintenance", "start", "member1", "--yes"]).refused().says(&["group rebuild"]);
    farm.manager().command(&["group", "rebuild", "--yes"]).exits(1);
    wait_death(&mut farm, "rebuild.kept");
    assert!(!farm.manager().state().join("history").exists(), "killed between the old history and the new one");
    farm.server_mut(0).start();
    assert_rebuilt(&farm, "rebuild.kept", before, &old);
}
