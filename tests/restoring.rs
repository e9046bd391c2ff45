//! W13, W14: servers whose state went back are recognised and kept out: members until they are synced, and the manager until
//! the group is rebuilt. So are copies of machines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bellwether_proto::{revision::Number, status::State};

use crate::farm::{DEADLINE, Farm, Server, compare::find_below, one, run, wait_for};

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).success();
}

/// Stops the agent, keeps its state, and starts it again.
pub(crate) fn back_up(server: &mut Server) -> PathBuf {
    server.stop();
    let backup = server.home.join("backup");
    copy(&server.state(), &backup);
    server.start();
    backup
}

/// Stops the agent, puts the state back, and starts it again; the sets stay as they are.
pub(crate) fn restore(server: &mut Server, backup: &Path) {
    server.stop();
    fs::remove_dir_all(server.state()).expect("removed");
    copy(backup, &server.state());
    server.start();
}

/// Makes the machine of `copied` a copy of the machine of `original`: with its name, key, state and sets, on other ports.
fn clone_machine(original: &Server, copied: &Server) {
    let text = fs::read_to_string(original.home.join("agent.toml")).expect("its configuration");
    let home = |server: &Server| server.home.to_str().expect("a path").to_owned();
    let text = text
        .replace(&home(original), &home(copied))
        .replace(&original.listen, &copied.listen)
        .replace(&original.http, &copied.http)
        .replace(&original.agent_check, &copied.agent_check);
    fs::write(copied.home.join("agent.toml"), text).expect("written");
    copy(&original.state(), &copied.state());
    for set in &copied.sets {
        fs::remove_dir_all(&set.path).expect("removed");
        copy(original.set(&set.name), &set.path);
    }
}

pub(crate) fn wait_halted(farm: &Farm, words: &[&str]) {
    let shown = farm.wait_server(farm.manager(), "an error", |s| {
        s.state == State::Error
            && s.reason.as_ref().is_some_and(|reason| words.iter().all(|word| reason.contains(word)))
    });
    assert!(shown.reason.expect("a reason").contains("bellwether group rebuild"));
}

/// Waits until the group is in a later epoch than `before`, and all hold the manager's revision.
fn wait_rebuilt(farm: &Farm, before: Number) {
    let status = farm.wait_equal();
    farm.assert_equal();
    assert!(status.head.expect("a head").epoch > before.epoch, "the epoch is raised");
}

#[test]
fn w14_a_restored_member_is_kept_out_until_it_is_synced_anew() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "first"));
    let backup = back_up(farm.server_mut(1));
    farm.wait_in_sync();
    farm.manager().write("index.html", "second");
    farm.wait_equal();
    restore(farm.server_mut(1), &backup);

    let shown = farm.wait_server(farm.member(1), "an error", |s| s.state == State::Error);
    let reason = shown.reason.expect("a reason");
    assert!(reason.contains("went back") && reason.contains("bellwether sync member1"), "{reason}");
    farm.manager().write("index.html", "third");
    farm.wait_same(farm.member(2));
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("as it was"), b"second");
    wait_for("its own error", DEADLINE, || {
        let status = farm.member(1).status()?;
        let own = one(&status, "member1").map(|own| own.state);
        if own == Some(State::Error) { Ok(()) } else { Err(format!("{own:?}")) }
    });
    let asked = farm.member(1).command_with_input(&["put", "web:asked.conf"], "no").refused();
    asked.says(&["nothing was changed", "at the manager, manager", "bellwether sync member1"]);

    farm.manager().command(&["sync", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
    // The server is an ordinary member again, and stays one.
    farm.server_mut(1).kill();
    farm.server_mut(1).start();
    farm.manager().write("index.html", "fourth");
    farm.wait_equal();
}

#[test]
fn w14_a_restored_manager_is_refused_until_the_group_is_rebuilt() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "first"));
    let backup = back_up(farm.server_mut(0));
    farm.wait_in_sync();
    let put = ["put", "web:index.html", "--message", "the second edition"];
    farm.manager().command_with_input(&put, "second").success();
    let before = farm.wait_equal().head.expect("a head");
    restore(farm.server_mut(0), &backup);

    wait_halted(&farm, &["went back", &before.to_string(), "the second edition", "promote member"]);
    for server in [farm.manager(), farm.member(1)] {
        server
            .command_with_input(&["put", "web:asked.conf"], "no")
            .refused()
            .says(&["group rebuild", "nothing was changed"]);
    }
    farm.manager().command(&["pause"]).refused().says(&["group rebuild"]);
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("served on"), b"second");
    // The manager also knows this after a restart, before it has asked any server.
    farm.server_mut(1).kill();
    farm.server_mut(2).kill();
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    wait_halted(&farm, &["went back"]);
    farm.server_mut(1).start();
    farm.server_mut(2).start();

    farm.manager().write("index.html", "what is here is the truth");
    let plan = farm.manager().command(&["group", "rebuild", "--dry-run"]).success();
    plan.says(&["the second edition", "nothing was changed", &before.to_string()]);
    farm.manager().command(&["group", "rebuild", "--yes"]).success();
    wait_rebuilt(&farm, before);
    assert!(find_below(&farm.member(1).state().join("recovery"), "index.html").is_some(), "what members lose is kept");
}

#[test]
fn w14_a_manager_whose_record_went_back_is_recognised_and_loses_no_server() {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "first");
    farm.form();
    farm.admit(1);
    farm.wait_status("member1 in sync", |s| s.servers.len() == 2 && s.servers.iter().all(|s| s.state == State::InSync));
    let backup = back_up(farm.server_mut(0));
    farm.admit(2);
    let before = farm.wait_equal().head.expect("a head");
    restore(farm.server_mut(0), &backup);
    wait_halted(&farm, &["went back"]);

    // Without an agent the command rebuilds by itself.
    farm.server_mut(0).stop();
    farm.manager().command(&["group", "rebuild", "--yes"]).success().says(&["bellwether serve"]);
    farm.server_mut(0).start();
    wait_rebuilt(&farm, before);
    assert!(one(&farm.status(), "member2").is_some(), "the server that the backup did not know is kept");
}

#[test]
fn w13_a_manager_without_its_history_shows_it_and_a_rebuild_clears_it() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "first"));
    farm.manager().write("index.html", "second");
    let before = farm.wait_equal().head.expect("a head");
    farm.server_mut(0).stop();
    for entry in fs::read_dir(farm.manager().state().join("history")).expect("a history") {
        let path = entry.expect("an entry").path();
        let packs = fs::read(&path).expect("packs");
        // No whole pack is left: the first is more than a quarter of them.
        fs::write(&path, &packs[..packs.len() / 4]).expect("damaged");
    }
    farm.server_mut(0).start();
    wait_halted(&farm, &["cannot lead"]);
    farm.member(1).command_with_input(&["put", "web:asked.conf"], "no").refused().says(&["group rebuild"]);
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("served on"), b"second");
    farm.manager().command(&["group", "rebuild", "--yes"]).success();
    wait_rebuilt(&farm, before);
    assert!(farm.manager().state().join("recovery").exists(), "the damaged history is kept");

    let before = farm.status().head.expect("a head");
    farm.server_mut(0).stop();
    fs::remove_dir_all(farm.manager().state().join("history")).expect("removed");
    farm.manager().command(&["group", "rebuild", "--yes"]).success();
    farm.server_mut(0).start();
    wait_rebuilt(&farm, before);
    farm.manager().write("index.html", "it goes on");
    farm.wait_equal();
}

#[test]
fn w13_a_group_is_rebuilt_at_its_manager_only() {
    let mut farm = Farm::plan().members(1).start();
    farm.member(1).command(&["group", "rebuild", "--yes"]).refused().says(&["manager", "nothing was changed"]);
    farm.server_mut(1).stop();
    farm.member(1).command(&["group", "rebuild", "--yes"]).refused().says(&["manager"]);
    farm.server_mut(1).start();
    farm.wait_in_sync();
}

#[test]
fn w14_a_copied_member_is_refused_and_the_original_goes_on() {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "first");
    farm.form();
    farm.admit(1);
    farm.wait_status("member1 in sync", |s| s.servers.len() == 2 && s.servers.iter().all(|s| s.state == State::InSync));
    clone_machine(farm.member(1), farm.member(2));
    farm.server_mut(2).start();

    let asked = farm.member(2).command_with_input(&["put", "web:asked.conf"], "no").refused();
    asked.says(&["copy of member1", "nothing was changed", "bellwether leave"]);
    let shown = farm.wait_server(farm.member(1), "a warning", |s| s.warning.is_some());
    assert!(shown.warning.expect("a warning").what.contains("copy of member1"));
    farm.member(1).command_with_input(&["put", "web:asked.conf"], "the original's").success();
    farm.manager().write("index.html", "second");
    farm.wait_same(farm.member(1));
    assert!(!farm.member(2).web("asked.conf").exists());
}

#[test]
fn w14_a_copied_manager_is_obeyed_by_nobody_while_the_original_lives() {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "first");
    farm.form();
    farm.admit(1);
    farm.wait_status("member1 in sync", |s| s.servers.len() == 2 && s.servers.iter().all(|s| s.state == State::InSync));
    clone_machine(farm.manager(), farm.member(2));
    farm.server_mut(2).start();
    farm.member(2).write("index.html", "by the copy");
    wait_for("the copy being refused", DEADLINE, || {
        let status = farm.member(2).status()?;
        let member = one(&status, "member1").ok_or("no member1")?;
        let reason = member.reason.clone().unwrap_or_default();
        if reason.contains("leads this server and lives") { Ok(()) } else { Err(reason) }
    });
    farm.manager().write("index.html", "by the original");
    farm.wait_same(farm.member(1));
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("served"), b"by the original");

    // The changes that the copy has missed meanwhile prove that it is the older one.
    farm.server_mut(0).stop();
    wait_for("the copy standing still", DEADLINE, || {
        let status = farm.member(2).status()?;
        let own = one(&status, "manager").ok_or("no manager")?;
        let reason = own.reason.clone().unwrap_or_default();
        if own.state == State::Error && reason.contains("went back") { Ok(()) } else { Err(format!("{own:?}")) }
    });
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("served"), b"by the original");
}
