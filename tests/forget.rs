//! `forget`: a leaked secret is erased from every history, from kept copies and logs, and servers that were away follow.

use std::{fs, path::Path};

use bellwether_proto::status::FarmStatus;
use serde_json::Value;

use crate::farm::{DEADLINE, Farm, Server, random::Random, wait_for};

/// In the leaked content, and nowhere else.
const SECRET: &str = "Leaked7c3ret";

/// The files below `directory` that have the secret. The farm's packs are not compressed, so their bytes are searched, too.
fn with_secret(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let metadata = path.symlink_metadata().expect("its kind");
        if metadata.is_dir() {
            found.extend(with_secret(&path));
        } else if metadata.is_file() {
            let bytes = fs::read(&path).expect("readable");
            let has_it = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            found.extend(has_it.then(|| path.display().to_string()));
        }
    }
    found
}

/// The files of a server's state that have the secret.
fn held(server: &Server) -> Vec<String> {
    with_secret(&server.state())
}

#[track_caller]
fn wait_erased(server: &Server) {
    wait_for(&format!("{} without the secret", server.name), DEADLINE, || {
        // Files may go away while they are read.
        let found = std::panic::catch_unwind(|| held(server)).map_err(|_| "files come and go".to_owned())?;
        if found.is_empty() { Ok(()) } else { Err(found.join(", ")) }
    });
}

/// Whether the record says that no server holds the content any more.
fn is_done(server: &Server) -> bool {
    let record: Value = serde_json::from_str(&server.command(&["group", "show", "--json"]).stdout).expect("JSON");
    let notes = record["policy"]["forgotten"].as_array().cloned().unwrap_or_default();
    !notes.is_empty() && notes.iter().all(|note| note["done"] == true)
}

fn wait_done(server: &Server) {
    wait_for("a record that says that no server holds it", DEADLINE, || {
        if is_done(server) { Ok(()) } else { Err(server.command(&["status"]).to_string()) }
    });
}

/// A farm whose file `app.conf` had a secret in two revisions, and has none now.
fn leaked(members: usize) -> Farm {
    leaked_while(members, |_| {})
}

/// The same, with something that happens while the head has the secret.
fn leaked_while(members: usize, happens: impl FnOnce(&mut Farm)) -> Farm {
    let mut farm = Farm::plan().members(members).start_with(|manager| {
        manager.write("app.conf", "listen 80;\n");
        manager.write("a.conf", "plain\n");
    });
    farm.manager().command(&["group", "set", "--codec", "none"]).success();
    for text in ["one", "two"] {
        farm.manager().write("app.conf", format!("listen 80; password {SECRET} {text};\n"));
        farm.wait_equal();
    }
    happens(&mut farm);
    farm.manager().write("app.conf", "listen 80; include /run/password;\n");
    farm.members().filter(|member| member.runs()).for_each(|member| farm.wait_same(member));
    for server in (0..=members).map(|index| farm.server(index)) {
        assert!(!held(server).is_empty(), "{} has it in its history", server.name);
    }
    farm
}

#[test]
fn a_leaked_secret_is_erased_from_every_history() {
    let mut farm = leaked(2);
    // A kept copy on a member has it, too.
    farm.member(1).write("app.conf", format!("listen 80; password {SECRET} one;\n"));
    farm.wait_server(farm.member(1), "with drift", |shown| shown.drift_entries == 1);
    farm.member(1).command(&["drift", "revert", "member1", "--yes"]).success();
    farm.wait_equal();
    assert!(held(farm.member(1)).iter().any(|path| path.contains("/recovery/")));

    let plan = farm.manager().command(&["forget", "web:app.conf", "--dry-run"]).success();
    plan.says(&["web:app.conf", "in revision", "stays, so make sure", "costs the", "nothing was changed"]);
    assert!(!held(farm.manager()).is_empty());
    farm.member(1).command(&["forget", "web:app.conf", "--yes"]).refused();
    farm.manager().command(&["forget", "web:app.conf", "--yes"]).success().says(&["no server of the group holds it"]);
    for server in (0..3).map(|index| farm.server(index)) {
        assert_eq!(held(server), Vec::<String>::new(), "{}", server.name);
    }
    wait_done(farm.manager());
    let status = farm.wait_in_sync();
    assert!(status.forgets.is_empty());
    farm.manager().command(&["log"]).success().says(&["dropped by `bellwether forget web:app.conf`"]);
    farm.member(2).command(&["log"]).success().says(&["dropped by `bellwether forget web:app.conf`"]);
    farm.manager().command(&["group", "show", "--log"]).success().says(&["forget web:app.conf", "no server holds"]);
    farm.manager().command(&["forget", "web:app.conf", "--yes"]).refused().says(&["has had its present content since"]);

    // The farm goes on, and what follows is kept.
    farm.manager().write("a.conf", "changed\n");
    farm.wait_equal();
    for index in 0..3 {
        farm.server_mut(index).kill();
        farm.server_mut(index).start();
    }
    farm.manager().write("b.conf", "after the start\n");
    farm.wait_equal();
    farm.manager().command(&["rollback", "head-1", "--yes"]).success();
    farm.wait_equal();
    farm.assert_equal();
    for server in (0..3).map(|index| farm.server(index)) {
        assert_eq!(held(server), Vec::<String>::new(), "{}", server.name);
        assert!(!server.read_log().contains("panicked"), "{}", server.read_log());
    }
}

#[test]
fn a_content_that_the_head_still_has_is_not_forgotten() {
    let farm = leaked(1);
    let leaked = format!("listen 80; password {SECRET} two;\n");
    let refused = |arguments: &[&str], words: &[&str]| {
        farm.manager().command(&[&["forget", "--yes"], arguments].concat()).refused().says(words);
        assert!(!held(farm.manager()).is_empty());
    };
    refused(&["web:a.conf"], &["has had its present content since", "change or remove the file first"]);
    // Under another name, and there again.
    farm.manager().write("copy.conf", &leaked);
    farm.wait_equal();
    refused(&["web:app.conf"], &["still in the head, in web:copy.conf", "nothing was changed"]);
    fs::remove_file(farm.manager().web("copy.conf")).expect("removed");
    farm.manager().write("app.conf", &leaked);
    farm.wait_equal();
    refused(&["web:app.conf"], &["still in the head, in web:app.conf"]);
    farm.manager().write("app.conf", "clean\n");
    farm.wait_equal();
    // In an edit that is not published.
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    farm.manager().write("edit.conf", &leaked);
    farm.wait_status("an edit that is not published", |status| status.unpublished.is_some());
    refused(&["web:app.conf"], &["web:edit.conf, and not published", "bellwether discard"]);
    farm.manager().command(&["discard", "--yes"]).success();

    refused(&["web:no.conf"], &["no revision in the history has a file web:no.conf"]);
    // The discarded edit is a kept copy of the manager; it goes, too.
    farm.manager().command(&["forget", "--yes", "web:app.conf"]).success();
    assert_eq!(held(farm.manager()), Vec::<String>::new());
    wait_erased(farm.member(1));
    wait_done(farm.manager());
}

#[test]
fn after_a_rollback_the_content_of_one_revision_is_forgotten() {
    let farm = leaked_while(1, |_| {});
    // The head has the first content again, which was there before the secret.
    let log: Value = serde_json::from_str(&farm.manager().command(&["log", "--json"]).stdout).expect("JSON");
    let revisions = log["revisions"].as_array().expect("revisions");
    let first = revisions.last().expect("the first")["revision"].as_str().expect("a number").to_owned();
    let with = |back: usize| revisions[back]["revision"].as_str().expect("a number").to_owned();
    farm.manager().command(&["rollback", &first, "--yes"]).success();
    farm.wait_equal();
    let refused = farm.manager().command(&["forget", "web:app.conf", "--yes"]).refused();
    refused.says(&["still in the head, in web:app.conf", &format!("bellwether forget web:app.conf --at {}", with(0))]);
    let present = farm.manager().command(&["forget", "web:app.conf", "--at", "head", "--yes"]).refused();
    present.says(&["still in the head, in web:app.conf"]);
    farm.manager().command(&["forget", "web:app.conf", "--at", "99", "--yes"]).refused().says(&["no revision 99"]);
    for revision in [with(1), with(2)] {
        let erased = farm.manager().command(&["forget", "web:app.conf", "--at", &revision, "--yes"]);
        // The first one may have dropped the other revision with the history.
        assert!([Some(0), Some(3)].contains(&erased.code), "{erased}");
    }
    assert_eq!(held(farm.manager()), Vec::<String>::new());
    wait_erased(farm.member(1));
    assert_eq!(fs::read_to_string(farm.member(1).web("app.conf")).expect("the file"), "listen 80;\n");
}

fn names(status: &FarmStatus, server: &str, why: &str) -> bool {
    let mut holders = status.forgets.iter().flat_map(|forget| &forget.holders);
    holders.any(|(holder, reason)| holder.as_str() == server && reason.contains(why))
}

#[test]
fn a_server_that_was_away_erases_it_under_the_next_manager() {
    let mut farm = leaked(3);
    farm.server_mut(3).kill();
    farm.wait_status("a member that is away", |status| status.servers.iter().any(|s| s.state.word() == "unreachable"));
    let said = farm.manager().command(&["forget", "web:app.conf", "--yes", "--timeout", "5s"]).success();
    said.says(&["member3 still holds it: it does not answer", "bellwether status"]);
    wait_erased(farm.member(1));
    farm.wait_status("the member that holds it", |status| names(status, "member3", "does not answer"));
    farm.manager().command(&["status"]).says(&["member3 · holds the forgotten content of web:app.conf"]);

    farm.manager().command(&["promote", "member1", "--yes"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    farm.wait_status("the same at the new manager", |status| names(status, "member3", "does not answer"));
    assert!(!is_done(farm.manager()));
    farm.server_mut(3).start();
    wait_erased(farm.server(3));
    wait_done(farm.manager());
    farm.manager().write("a.conf", "goes on\n");
    farm.wait_equal();
    for server in (0..4).map(|index| farm.server(index)) {
        assert_eq!(held(server), Vec::<String>::new(), "{}", server.name);
    }
}

#[test]
fn a_server_that_comes_back_with_the_secret_in_its_sets_erases_it() {
    let mut farm = leaked_while(2, |farm| farm.server_mut(2).kill());
    assert_eq!(with_secret(farm.server(2).set("web")).len(), 1);
    let said = farm.manager().command(&["forget", "web:app.conf", "--yes", "--timeout", "5s"]).success();
    said.says(&["member2 still holds it: it does not answer"]);
    farm.server_mut(2).start();
    farm.wait_equal();
    wait_erased(farm.server(2));
    wait_done(farm.manager());
    assert!(with_secret(farm.server(2).set("web")).is_empty());
}

#[test]
fn a_secret_line_of_a_large_file_is_erased_and_the_file_stays() {
    let mut random = Random::seeded();
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "plain\n"));
    farm.manager().command(&["group", "set", "--codec", "none"]).success();
    let lines = |random: &mut Random| data_encoding::HEXLOWER.encode(&random.bytes(300_000));
    let (before, after) = (lines(&mut random), lines(&mut random));
    for secret in [format!("password {SECRET} one"), format!("password {SECRET} two"), "none".to_owned()] {
        farm.manager().write("d/large.conf", format!("{before}\n{secret}\n{after}\n"));
        farm.wait_equal();
    }
    assert!(!held(farm.manager()).is_empty() && !held(farm.member(1)).is_empty());
    // A directory stands for all files in it.
    farm.manager().command(&["forget", "web:d", "--yes"]).success().says(&["no server of the group holds it"]);
    for server in [farm.manager(), farm.member(1)] {
        assert_eq!(held(server), Vec::<String>::new(), "{}", server.name);
    }
    let read = farm.member(1).command(&["get", "web:d/large.conf"]).success();
    assert!(read.stdout.contains("\nnone\n"));
    farm.manager().write("d/large.conf", format!("{before}\nmore\n{after}\n"));
    farm.wait_equal();
}

#[test]
fn an_edit_on_a_member_that_has_it_is_named() {
    let farm = leaked(1);
    farm.member(1).write("own.conf", format!("listen 80; password {SECRET} two;\n"));
    farm.wait_server(farm.member(1), "with drift", |shown| shown.drift_entries == 1);
    let said = farm.manager().command(&["forget", "web:app.conf", "--yes", "--timeout", "5s"]).success();
    said.says(&["member1 still holds it: an edit of its own has it, at web:own.conf"]);
    // What is put back becomes a kept copy, which is erased, too.
    farm.member(1).command(&["drift", "revert", "member1", "--yes"]).success();
    wait_erased(farm.member(1));
    wait_done(farm.manager());
}

#[test]
fn a_manager_that_is_killed_while_it_erases_goes_on() {
    for point in ["record.saved", "forget.searched", "forget.based", "forget.dropped"] {
        println!("kill -9 at {point}");
        let mut farm = leaked(1);
        farm.server_mut(0).kill();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_in_sync();
        farm.manager().command(&["forget", "web:app.conf", "--yes"]).exits(1);
        let manager = farm.server_mut(0);
        wait_for(&format!("death at {point}"), DEADLINE, || manager.ended().ok_or("it runs".to_owned()));
        manager.kill();
        manager.start();
        wait_erased(farm.manager());
        wait_erased(farm.member(1));
        wait_done(farm.manager());
        farm.manager().write("a.conf", "goes on\n");
        farm.wait_equal();
    }
}

#[test]
fn a_member_that_is_killed_while_it_erases_goes_on() {
    for point in ["member.forgets", "member.based", "member.forgot"] {
        println!("kill -9 at {point}");
        let mut farm = leaked(1);
        farm.server_mut(1).kill();
        farm.server_mut(1).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_in_sync();
        farm.manager().command(&["forget", "web:app.conf", "--yes", "--timeout", "5s"]).success();
        let member = farm.server_mut(1);
        wait_for(&format!("death at {point}"), DEADLINE, || member.ended().ok_or("it runs".to_owned()));
        member.kill();
        member.start();
        wait_erased(farm.member(1));
        wait_done(farm.manager());
        farm.manager().write("a.conf", "goes on\n");
        farm.wait_equal();
    }
}
