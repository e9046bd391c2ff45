//! A farm whose servers run two programs, of version N−1 and N, which `BELLWETHER_PREVIOUS` and `BELLWETHER_NEXT` name.
//! Without them both are the program that was just built; `.ci/full two-binaries` names two that differ.

use std::{collections::BTreeMap, fs, path::PathBuf};

use bellwether_proto::{
    level::{Level, Levels},
    record::Role,
    status::State,
};

use crate::farm::{DEADLINE, Farm, PROGRAM, Server, one, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Old,
    New,
}

use Which::{New, Old};

impl Which {
    fn program(self) -> PathBuf {
        let variable = match self {
            Old => "BELLWETHER_PREVIOUS",
            New => "BELLWETHER_NEXT",
        };
        std::env::var_os(variable).map_or_else(|| PROGRAM.into(), PathBuf::from)
    }
}

/// A manager and two members, each with its program, in sync. All members are candidates.
fn farm(programs: [Which; 3]) -> Farm {
    let mut farm = Farm::plan().members(2).unformed();
    for (index, which) in programs.into_iter().enumerate() {
        farm.server_mut(index).run_by(which.program());
    }
    farm.manager().write("index.html", "one");
    farm.form();
    farm.admit(1);
    farm.admit(2);
    farm.wait_equal();
    farm
}

/// Stops a server, and starts it with that program.
fn replace(farm: &mut Farm, index: usize, which: Which) {
    let server = farm.server_mut(index);
    server.stop();
    server.run_by(which.program());
    server.start();
}

fn edited(farm: &Farm, content: &str) {
    farm.manager().write("index.html", content);
    farm.wait_equal();
    farm.assert_equal();
}

/// The levels that a server's program reads, from its hello.
fn levels(server: &Server) -> Levels {
    let status = server.status().expect("a status");
    one(&status, &server.name).and_then(|own| own.levels).expect("levels")
}

/// The bytes of every file of a state directory, except for the lock, which names its last holder.
fn contents(server: &Server) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![server.state()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => directories.push(path),
                false if path.ends_with("lock") => {}
                false => drop(found.insert(path.clone(), fs::read(path).expect("a file"))),
            }
        }
    }
    found
}

#[test]
fn an_old_manager_and_new_members_and_the_reverse() {
    let mut farm = farm([Old, New, New]);
    farm.server(1).command_with_input(&["put", "web:asked.conf"], "asked at a new one").success();
    farm.wait_equal();
    edited(&farm, "by the old manager");
    // The role goes to a server with the new program, and back.
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    edited(&farm, "by the new manager");
    farm.server(0).command_with_input(&["put", "web:asked.conf"], "asked at the old one").success();
    farm.wait_equal();
    farm.server(1).command(&["promote", "manager"]).success();
    farm.led_by(0);
    farm.wait_leads(0);
    edited(&farm, "by the old one again");
}

#[test]
fn a_new_candidate_takes_over_from_an_old_manager_and_an_old_one_from_a_new_manager() {
    let mut farm = farm([Old, New, Old]);
    for (dies, leads) in [(0, 1), (1, 2)] {
        farm.server_mut(dies).kill();
        farm.server(leads).command(&["promote", "--self", "--yes"]).success();
        farm.led_by(leads);
        farm.wait_leads(leads);
        let which = farm.server(leads).name.clone();
        farm.manager().write("index.html", format!("by {which}"));
        let lost = farm.server(dies).name.clone();
        farm.server_mut(dies).start();
        farm.manager().command(&["server", "enable", &lost, "--yes"]).success();
        farm.wait_equal();
        farm.assert_equal();
    }
}

#[test]
fn before_the_level_is_raised_every_server_goes_back_to_the_old_program() {
    let mut farm = farm([Old, Old, Old]);
    for which in [New, Old] {
        for index in [1, 2, 0] {
            replace(&mut farm, index, which);
            farm.wait_equal();
            edited(&farm, &format!("{index} runs the {which:?} one"));
        }
    }
}

#[test]
fn the_level_is_raised_when_every_server_reads_it_and_there_is_no_way_back() {
    let mut farm = farm([Old, Old, Old]);
    let old = levels(farm.server(0));
    let before = old.newest;
    replace(&mut farm, 0, New);
    replace(&mut farm, 1, New);
    farm.wait_equal();
    let newest = levels(farm.server(0)).newest;
    let asked = if newest > before { newest } else { Level(newest.0 + 1) };
    let raise = ["group", "set", "--level", &asked.to_string()];
    let record = || farm.manager().status().expect("a status").record;
    let unraised = record();
    let refused = farm.manager().command(&raise).refused();
    refused.says(&["member2 (", &format!("reads {old}"), &format!("stays at level {before}")]);
    assert_eq!(record(), unraised);
    farm.manager().command(&["group", "show"]).success().says(&[&format!("level    {before}, the newest that all")]);
    if newest == before {
        // With one program, no server reads the next level.
        farm.manager().command(&raise).refused().says(&["manager (", "member1 ("]);
        return;
    }
    // A feature of the new level needs that level: the note of a build of the level after the newest.
    let note = ["group", "set", "--note", "for administrators"];
    let has_note = farm.manager().command(&["group", "set", "--help"]).success().stdout.contains("--note");
    if has_note {
        farm.manager().command(&note).refused().says(&["a note needs level", "too old", "member2 ("]);
    }

    farm.manager().command(&["server", "disable", "member2", "--yes"]).success();
    farm.manager().command(&raise).success().says(&["not asked", "member2"]);
    farm.manager().command(&["group", "show"]).success().says(&[&format!("level    {asked}, the newest that all")]);
    farm.manager().command(&raise).success().says(&["already have these values"]);
    if has_note {
        farm.manager().command(&note).success();
    }
    farm.manager().command(&["group", "set", "--level", &before.to_string()]).refused().says(&["does not go back"]);

    // The server that is too old comes back and says so, and an upgrade repairs that.
    farm.manager().command(&["server", "enable", "member2", "--yes"]).success();
    farm.wait_server(farm.member(2), "too old for the group", |server| {
        let says = |reason: &String| reason.contains("made by a newer bellwether") && reason.contains("upgrade");
        server.state == State::Unreachable && server.reason.as_ref().is_some_and(says)
    });
    replace(&mut farm, 2, New);
    farm.wait_equal();
    edited(&farm, "at the new level");
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    edited(&farm, "led by another");
    if has_note {
        farm.manager().command(&["group", "show"]).success().says(&["note     for administrators"]);
    }

    // The old program changes none of the new program's files of that level.
    for index in 0..3 {
        let server = farm.server_mut(index);
        server.stop();
        let kept = contents(server);
        server.run_by(Old.program());
        for arguments in [&["serve"][..], &["serve", "--recover-only"], &["leave", "--yes"]] {
            server.command(arguments).refused().says(&["made by a newer bellwether", "nothing was changed"]);
        }
        assert_eq!(contents(server), kept, "{}", server.name);
        server.run_by(New.program());
    }
    for index in 0..3 {
        farm.server_mut(index).start();
    }
    farm.wait_equal();
    edited(&farm, "as it was");
}

#[test]
fn a_server_that_does_not_read_the_groups_level_does_not_enter_and_may_come_again() {
    let mut farm = Farm::plan().members(1).unformed();
    farm.server_mut(0).run_by(New.program());
    farm.server_mut(1).run_by(Old.program());
    farm.manager().write("index.html", "one");
    farm.form();
    let token = farm.token(&[]);
    let joined = farm.server(1).join(&token);
    if joined.code == Some(0) {
        // With one level, the old program reads it.
        farm.server_mut(1).start();
        farm.wait_equal();
        return;
    }
    joined.refused().says(&["member1 cannot enter: the group is of level", "upgrade bellwether on member1"]);
    farm.server_mut(1).run_by(New.program());
    farm.server(1).join(&token).success();
    farm.server_mut(1).start();
    farm.wait_equal();
    let status = farm.status();
    assert_eq!(one(&status, "member1").map(|server| server.role), Some(Role::Member));
    wait_for("its levels", DEADLINE, || {
        let status = farm.manager().status()?;
        one(&status, "member1").and_then(|server| server.levels).ok_or_else(|| "none".to_owned())
    });
}
