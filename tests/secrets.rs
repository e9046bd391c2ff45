//! Secret files: their content goes to every server, and is in no output, log, status or page.

use std::fs;

use bellwether_proto::status::State;

use crate::farm::{DEADLINE, Farm, Output, Server, get, wait_for};

/// In each content of the secret file, and nowhere else.
const SECRET: &str = "Uniq4ee1cret";

/// The commands whose output is searched. `#` stands for the file, `P` for a pack of this server.
const COMMANDS: &[&str] = &[
    "status",
    "status --json",
    "doctor",
    "doctor --json",
    "group show",
    "group show --json",
    "group show --log",
    "log",
    "log --json",
    "log #",
    "show head --diff",
    "show head-1 --diff",
    "show head --diff --json",
    "diff",
    "diff --json",
    "diff head-1",
    "diff head-2 head",
    "diff head-2 head # --json",
    "tree",
    "tree --json",
    "tree --at head-1 --json",
    "get #",
    "get # --json",
    "get # --hash",
    "get # --hash --json",
    "get # --at head",
    "get # --at head-1 --json",
    "get # --at head-1 --hash",
    "drift show",
    "drift show member1 --json",
    "drift revert member1 --dry-run --yes",
    "drift keep member1 --dry-run --yes",
    "rollback head-1 --dry-run",
    "rollback head-1 # --dry-run --json",
    "discard --dry-run",
    "publish --dry-run",
    "edit # --dry-run",
    "edit # --dry-run --json",
    "put # --dry-run --expect none",
    "rollout show",
    "procedure list",
    "server list --json",
    "wait --timeout 1s",
    "verify --timeout 5s",
    "debug pack P",
    "debug journal",
    "debug position",
    "debug record",
    "debug history",
    "debug state",
    "debug dump",
];

#[track_caller]
fn keeps_secret(what: &str, text: &str) {
    if let Some(at) = text.find(SECRET) {
        let from = (0..=at.saturating_sub(200)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        panic!("{what} shows the secret: {}", &text[from..at + SECRET.len()]);
    }
}

/// Gives the command, with an editor that changes the file.
fn give(server: &Server, command: &str) -> Output {
    let packs =
        fs::read_dir(server.state().join("history")).expect("a history").map(|entry| entry.expect("one").path());
    let pack = packs.filter(|path| path.extension().is_some_and(|e| e == "base")).max().expect("a base");
    let words = command.split(' ').map(|word| match word {
        "#" => "web:app.key".to_owned(),
        "P" => pack.display().to_string(),
        word => word.to_owned(),
    });
    let words: Vec<String> = words.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let editor = format!("sh -c 'echo password={SECRET}-edited > $1' edit");
    server.command_with(&words, &[("EDITOR", &editor), ("VISUAL", "")])
}

/// Every output of every server, and all logs.
fn search(farm: &Farm) {
    for server in (0..3).map(|index| farm.server(index)) {
        for command in COMMANDS {
            let output = give(server, command).to_string();
            assert!(!output.contains("Usage:"), "{command} is none: {output}");
            keeps_secret(&format!("{}: {command}", server.name), &output);
        }
        for path in ["/", "/status", "/metrics", "/ready", "/manager"] {
            keeps_secret(path, &get(&server.http, path).expect("an answer").whole);
        }
        keeps_secret(&format!("the log of {}", server.name), &server.read_log());
    }
}

#[test]
fn the_content_of_a_secret_file_is_in_no_output() {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("app.key", format!("password = {SECRET}-0\n"));
    farm.manager().write("a.conf", "plain\n");
    farm.form();
    farm.admit(2);
    farm.admit(1);
    farm.wait_equal();
    for index in 0..3 {
        farm.server_mut(index).stop();
        farm.server_mut(index).start_with(&[("BELLWETHER_LOG", "trace")]);
    }
    farm.wait_equal();
    farm.manager().command(&["group", "set", "--secret", "web=*.key"]).success();
    farm.manager().command(&["group", "show"]).success().says(&["secret *.key"]);

    // Revisions of it, an edit at the manager that is not published, and an edit on a member.
    for number in 1..3 {
        farm.manager().write("app.key", format!("password = {SECRET}-{number}\n"));
        farm.wait_equal();
    }
    let diff = farm.manager().command(&["diff", "head-1"]).success();
    let (old, new) = (SECRET.len() + 14, SECRET.len() + 14);
    diff.says(&[&format!("web:app.key: content is secret: changed ({old} → {new} bytes)")]);
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    farm.manager().write("app.key", format!("password = {SECRET}-live\n"));
    farm.member(1).write("app.key", format!("password = {SECRET}-drift\n"));
    farm.wait_server(farm.member(1), "with drift", |shown| shown.drift_entries == 1);
    farm.manager().command(&["diff"]).success().says(&["content is secret: changed"]);
    farm.manager().command(&["drift", "show", "member1"]).says(&["content is secret"]);
    search(&farm);

    // The one command that prints it, and the one that shows it to an editor.
    for server in [farm.manager(), farm.member(2)] {
        server.command(&["get", "web:app.key"]).refused().says(&["is secret", "bellwether get --reveal web:app.key"]);
        server.command(&["get", "web:app.key", "--at", "head"]).refused().says(&["bellwether rollback"]);
        server.command(&["get", "web:app.key", "--reveal"]).success().says(&[&format!("{SECRET}-2")]);
    }
    // Without the pattern the diff shows it: the search above is one that can fail.
    farm.manager().command(&["group", "set", "--secret", "web=", "--replace"]).success();
    farm.manager().command(&["diff", "head-1"]).success().says(&[&format!("{SECRET}-2")]);
    farm.manager().command(&["get", "web:app.key"]).success().says(&[SECRET]);
}

#[test]
fn a_command_that_prints_a_secret_is_shown_without_it() {
    let mut farm = Farm::plan().members(2).start_with(|manager| {
        manager.write("app.key", format!("password = {SECRET}-0\n"));
        manager.write("a.conf", "plain\n");
    });
    farm.manager().command(&["group", "set", "--secret", "web=*.key"]).success();
    // A new file, a changed one, and a second line are printed; the last one is no secret.
    let key = farm.member(1).web("app.key").display().to_string();
    let new = farm.member(1).web("d/new.key").display().to_string();
    farm.server_mut(1).stop();
    farm.member(1).configure(&format!(
        "validate = \"cat {key} {new} >&2; echo [emerg] bad value; ! grep -q bad {key}\"\n\
         check = \"cat {key} {new}; ! grep -q ugly {key}\""
    ));
    farm.server_mut(1).start_with(&[("BELLWETHER_LOG", "trace")]);
    farm.wait_in_sync();
    farm.manager().write("d/new.key", format!("{SECRET}-new and more\n"));
    farm.wait_equal();
    for word in ["bad", "ugly"] {
        farm.manager().write("app.key", format!("password = \"{SECRET}-{word}\"; # {word}\n"));
        let shown = farm.wait_server(farm.member(1), "refusing", |shown| {
            shown.state == State::Refused && shown.output.contains("[secret]")
        });
        keeps_secret("its status", &format!("{shown:?}"));
        assert_eq!(word == "bad", shown.output.contains("[emerg] bad value"), "{shown:?}");
        search(&farm);
        farm.manager().write("app.key", format!("password = {SECRET}-good\n"));
        farm.wait_equal();
    }
    // At the manager, too.
    let key = farm.manager().web("app.key").display().to_string();
    farm.server_mut(0).stop();
    farm.manager().configure(&format!("validate = \"cat {key}; ! grep -q bad {key}\""));
    farm.server_mut(0).start_with(&[("BELLWETHER_LOG", "trace")]);
    farm.wait_in_sync();
    farm.manager().write("app.key", format!("password = {SECRET}-bad\n"));
    let unpublished = wait_for("an edit that a command refuses", DEADLINE, || {
        farm.manager().status()?.unpublished.ok_or_else(|| "it is published".to_owned())
    });
    assert!(unpublished.contains("[secret]"), "{unpublished}");
    search(&farm);
}
