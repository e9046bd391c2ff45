//! W3: edits by hand at a member are detected by content and reported, and never adopted.

use std::{
    fs::{self, File, FileTimes},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use bellwether_daemon::{net::tls, state::identity};
use bellwether_proto::{
    key::KeyPair,
    status::{ServerStatus, State},
    v1::{self, edited_client::EditedClient},
};
use bellwether_store::state::layout::Layout;
use serde_json::Value;
use tonic::Code;

use crate::farm::{DEADLINE, Farm, Server, compare::find_below, gate::held_at, run, wait_for};

#[test]
fn w3_an_edit_at_a_member_is_reported_as_drift_and_never_adopted() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "the truth"));
    let head = farm.wait_equal().head;
    farm.member(1).write("a.conf", "an edit by hand");

    let shown = farm.wait_server(farm.member(1), "its drift", |s| s.drift_entries > 0);
    assert_eq!(shown.state, State::Drifted);
    assert!(shown.drift.iter().any(|path| path.contains("a.conf")), "{shown:?}");
    assert_eq!(farm.status().head, head, "no revision came of it");
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("a file"), b"the truth");
    assert_eq!(fs::read(farm.member(2).web("a.conf")).expect("a file"), b"the truth");

    farm.manager().command(&["sync", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
    let kept = find_below(&farm.member(1).state().join("recovery"), "a.conf").expect("the edit as a kept copy");
    assert_eq!(fs::read(kept).expect("kept"), b"an edit by hand");
}

/// Other content of the same length and with the same time.
fn replace_unseen(path: &Path, content: &str) {
    let before = fs::metadata(path).expect("a file");
    assert_eq!(before.len(), content.len() as u64, "the same length");
    fs::write(path, content).expect("written");
    let times = FileTimes::new().set_modified(before.modified().expect("a time"));
    File::options().write(true).open(path).and_then(|file| file.set_times(times)).expect("the old time");
}

#[test]
fn w3_a_directory_copied_by_hand_is_detected_by_its_content() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("site/index.html", "version one");
        manager.write("site/style.css", "body {}");
    });
    farm.wait_equal();
    farm.manager().command(&["verify"]).success();
    replace_unseen(&farm.member(1).web("site/index.html"), "version two");
    farm.member(1).write("site/extra.html", "copied along");

    farm.manager().command(&["verify", "member1"]).exits(5).says(&["member1", "2 entries"]);
    let shown = farm.wait_server(farm.member(1), "both entries of drift", |s| s.drift_entries >= 2);
    for name in ["index.html", "extra.html"] {
        assert!(shown.drift.iter().any(|path| path.contains(name)), "{name} in {:?}", shown.drift);
    }
    farm.manager().command(&["sync"]).success();
    farm.wait_equal();
    farm.assert_equal();
    farm.manager().command(&["verify"]).success();
}

/// The update of [`w3_an_edit_while_an_update_is_made_is_drift_and_no_error`], in which each entry is edited in its own way.
const EDITS: [&str; 7] = ["appended", "replaced", "mode", "touched", "removed", "below", "made again"];

fn edited_entry(server: &Server, how: &str) -> PathBuf {
    server.web(&if how == "below" { "new/below.conf".to_owned() } else { format!("{how}.conf") })
}

fn edit(path: &Path, how: &str) {
    match how {
        "appended" | "below" => {
            let mut file = File::options().append(true).open(path).expect("a file");
            file.write_all(b", by hand").expect("appended");
        }
        "replaced" => {
            let beside = path.with_extension("beside");
            fs::write(&beside, "by hand").expect("written");
            fs::rename(&beside, path).expect("replaced");
        }
        "mode" => fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a mode"),
        "touched" => {
            let file = File::options().append(true).open(path).expect("a file");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("a time");
        }
        "removed" => fs::remove_file(path).expect("removed"),
        "made again" => fs::write(path, "by hand").expect("written"),
        _ => unreachable!("{how}"),
    }
}

/// Entries are edited right after the switch, before the server has read them back or reported.
#[test]
fn w3_an_edit_while_an_update_is_made_is_drift_and_no_error() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("made again.conf", "there before"));
    // With manual publishing, all files of the update are one revision.
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    for point in
        ["apply.after-exchange:4", "apply.exchanged", "apply.synced", "apply.read-back", "apply.kept", "apply.cleaned"]
    {
        let gate = held_at(&mut farm, 1, point);
        farm.wait_equal();
        for how in EDITS {
            let path = edited_entry(farm.manager(), how);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            if how == "made again" {
                fs::remove_file(path).expect("removed")
            } else {
                fs::write(path, point).expect("written")
            }
        }
        farm.manager().command(&["publish"]).success();
        gate.wait_reached();

        let is_there = |how: &&str| {
            let path = edited_entry(farm.member(1), how);
            if *how == "made again" { !path.exists() } else { fs::read(path).is_ok_and(|is| is == point.as_bytes()) }
        };
        let edited: Vec<_> = EDITS.into_iter().filter(is_there).collect();
        let all = if point.contains(':') { 4 } else { EDITS.len() };
        assert!(edited.len() >= all, "{point}: {edited:?}");
        for how in &edited {
            edit(&edited_entry(farm.member(1), how), how);
        }
        gate.open();
        let shown = farm.wait_server(farm.member(1), &format!("what was edited at {point} as drift"), |s| {
            s.state == State::Drifted && s.drift_entries == edited.len() as u64
        });
        assert_eq!(shown.revision, farm.status().head, "{point}: {shown:?}");
        for how in &edited {
            let content = fs::read_to_string(edited_entry(farm.member(1), how)).unwrap_or_default();
            assert_ne!(content, if matches!(*how, "mode" | "touched") { "" } else { point }, "{how} at {point}");
        }

        farm.manager().command(&["drift", "revert", "member1"]).success();
        farm.wait_equal();
        farm.assert_equal();
        fs::remove_dir_all(farm.manager().web("new")).expect("removed");
        farm.manager().write("made again.conf", point);
        farm.manager().command(&["publish"]).success();
        farm.wait_equal();
    }
}

#[test]
fn w3_an_update_of_another_file_leaves_the_drifted_one_and_says_so() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("a.conf", "a");
        manager.write("b.conf", "b");
    });
    farm.wait_equal();
    farm.member(1).write("a.conf", "by hand");
    farm.wait_server(farm.member(1), "its drift", |s| s.drift_entries > 0);
    farm.manager().write("b.conf", "b of the next revision");
    let head = farm.wait_status("the next revision", |s| s.head.is_some_and(|n| n.sequence > 1)).head;
    let shown = farm.wait_server(farm.member(1), "the next revision held", |s| s.revision == head);
    assert_eq!(fs::read(farm.member(1).web("b.conf")).expect("a file"), b"b of the next revision");
    assert_eq!(fs::read(farm.member(1).web("a.conf")).expect("a file"), b"by hand");
    assert!(shown.state == State::Drifted && shown.drift_entries == 1, "{shown:?}");
}

fn edit_everything(member: &Server) {
    member.write("a.conf", "one\n2\nthree\n");
    member.write("new/deep/n.conf", "a new file\n");
    fs::write(member.web("b.bin"), b"\0other").expect("written");
    fs::remove_file(member.web("gone.conf")).expect("removed");
    fs::remove_dir_all(member.web("old")).expect("removed");
    fs::set_permissions(member.web("mode.conf"), fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::remove_file(member.web("enabled")).expect("removed");
    symlink("mode.conf", member.web("enabled")).expect("a link");
}

fn fill(manager: &Server) {
    manager.write("a.conf", "one\ntwo\nthree\n");
    manager.write("b.bin", b"\0binary");
    manager.write("gone.conf", "gone");
    manager.write("mode.conf", "mode");
    manager.write("old/x.conf", "x");
    manager.write("old/y.conf", "y");
    symlink("a.conf", manager.web("enabled")).expect("a link");
}

fn wait_drift(farm: &Farm, entries: u64) -> ServerStatus {
    farm.wait_server(farm.member(1), &format!("{entries} entries of drift"), |s| s.drift_entries == entries)
}

fn shown(server: &Server, arguments: &[&str]) -> Value {
    let output = server.command(&[&["drift", "show", "--json"], arguments].concat()).success();
    let mut document: Value = serde_json::from_str(&output.stdout).expect("JSON");
    document[0].take()
}

fn kinds(drift: &Value) -> Vec<String> {
    let entries = drift["first"].as_array().expect("entries").iter();
    let line = |entry: &Value| {
        let kinds: Vec<_> = entry["kinds"].as_array().expect("kinds").iter().filter_map(Value::as_str).collect();
        format!("{} {}", kinds.join("+"), entry["path"].as_str().expect("a path"))
    };
    entries.map(line).collect()
}

#[test]
fn w3_drift_is_listed_path_by_path_with_a_diff_at_any_server() {
    let farm = Farm::plan().members(2).start_with(fill);
    edit_everything(farm.member(1));
    wait_drift(&farm, 9);
    let expected = [
        "changed a.conf",
        "changed b.bin",
        "changed enabled",
        "removed gone.conf",
        "mode mode.conf",
        "added new",
        "added new/deep",
        "added new/deep/n.conf",
        "removed old",
    ];
    for (server, arguments) in [
        (farm.member(1), &[][..]),
        (farm.manager(), &[]),
        (farm.manager(), &["member1"]),
        (farm.member(2), &["member1"]),
    ] {
        let drift = shown(server, arguments);
        assert_eq!(drift["server"], "member1");
        assert_eq!(kinds(&drift), expected, "at {}", server.name);
        let entry = |at: usize| &drift["first"][at];
        let diff = entry(0)["diff"].as_str().expect("a diff");
        assert!(diff.contains("\n one\n-two\n+2\n three\n"), "{diff}");
        assert!(entry(1)["diff"].is_null() && entry(1)["note"] == "not a text", "{}", entry(1));
        assert_eq!(entry(3)["diff"].as_str().map(|diff| diff.contains("-gone")), Some(true));
        assert_eq!((&entry(4)["before"]["mode"], &entry(4)["now"]["mode"]), (&"0644".into(), &"0600".into()));
        assert!(entry(8)["note"].as_str().is_some_and(|note| note.contains("2 entries")), "{}", entry(8));
    }
    let text = farm.manager().command(&["drift", "show"]).success();
    text.says(&["member1 at 1.", "9 entries differ", "web:a.conf", "    +2", "0644 → 0600", "a.conf → mode.conf"]);
    farm.member(2).command(&["drift", "show"]).success().says(&["nothing differs"]);
    farm.manager().command(&["drift", "show", "member1", "nobody"]).exits(5).says(&["no server nobody"]);
    farm.manager().command(&["drift", "show", "manager"]).exits(1).says(&["is the manager"]);
}

#[test]
fn w3_drift_that_is_kept_becomes_a_revision_for_all() {
    let farm = Farm::plan().members(2).start_with(fill);
    edit_everything(farm.member(1));
    wait_drift(&farm, 9);
    let before = farm.status().head.expect("a head").sequence;

    let plan = farm.member(2).command(&["drift", "keep", "member1", "--dry-run"]).success();
    plan.says(&["nothing was changed", "~ web:a.conf", "+ web:new/deep/n.conf", "- web:old"]);
    assert_eq!(farm.status().head.expect("a head").sequence, before, "a dry run publishes nothing");

    let part = ["drift", "keep", "member1", "web:new/deep/n.conf", "--wait", "all"];
    // The command waits for a member that still has other edits.
    farm.member(2).command(&part).exits(5).says(&["member1"]);
    wait_drift(&farm, 6);
    assert_eq!(fs::read(farm.manager().web("new/deep/n.conf")).expect("kept"), b"a new file\n");
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("a file"), b"one\ntwo\nthree\n");

    farm.member(1).command(&["drift", "keep", "member1", "--message", "found on member1", "--wait", "all"]).success();
    let status = farm.wait_equal();
    farm.assert_equal();
    assert_eq!((status.head.expect("a head").sequence, status.head_message.as_str()), (before + 2, "found on member1"));
    assert!(!farm.manager().web("old").exists() && !farm.member(2).web("gone.conf").exists());
    assert_eq!(fs::read_link(farm.member(2).web("enabled")).expect("a link").to_str(), Some("mode.conf"));
    assert!(!farm.member(1).state().join("recovery").exists(), "nothing was replaced on the member that was edited");
    farm.manager().command(&["verify"]).success();

    farm.manager().command(&["drift", "keep", "member1"]).success().says(&["nothing was changed"]);
    farm.manager().command(&["drift", "keep", "manager"]).refused().says(&["is the manager"]);
    assert_eq!(farm.status().head, status.head, "keeping twice is keeping once");
}

#[test]
fn w3_an_edit_of_what_the_manager_changed_since_is_not_kept_and_the_update_keeps_it_as_a_kept_copy() {
    let farm = Farm::plan().members(1).start_with(fill);
    farm.manager().command(&["pause"]).success();
    farm.member(1).write("a.conf", "by hand at the member\n");
    farm.member(1).write("gone.conf", "by hand, too");
    wait_drift(&farm, 2);
    farm.manager().command_with_input(&["put", "web:a.conf"], "newer at the manager\n").success();
    let head = farm.status().head;

    farm.manager().command(&["drift", "keep", "member1"]).refused().says(&["web:a.conf since", "nothing was changed"]);
    assert_eq!(farm.status().head, head);
    assert_eq!(fs::read(farm.manager().web("gone.conf")).expect("a file"), b"gone", "all or none");
    assert_eq!(fs::read(farm.member(1).web("a.conf")).expect("a file"), b"by hand at the member\n");

    farm.manager().command(&["resume"]).success();
    let status = farm.wait_server(farm.member(1), "the update over the edit", |s| {
        s.revision == head && s.drift_entries == 1 && !s.kept.is_empty()
    });
    assert_eq!(fs::read(farm.member(1).web("a.conf")).expect("a file"), b"newer at the manager\n");
    assert_eq!(fs::read(farm.member(1).web("gone.conf")).expect("a file"), b"by hand, too", "it was not touched");
    assert_eq!(fs::read(&status.kept[0]).expect("the kept copy"), b"by hand at the member\n");
    let drift = shown(farm.manager(), &["member1"]);
    let point = &drift["kept_copies"][0];
    assert!(point["first"][0].as_str().is_some_and(|path| path.ends_with("sets/web/a.conf")), "{point}");
    farm.manager().command(&["drift", "keep", "member1", "web:gone.conf", "--wait", "all"]).success();
    farm.wait_equal();
}

#[test]
fn w3_drift_is_reverted_path_by_path_with_or_without_the_manager() {
    let mut farm = Farm::plan().members(1).start_with(fill);
    edit_everything(farm.member(1));
    wait_drift(&farm, 9);
    let plan = farm.manager().command(&["drift", "revert", "member1", "web:old", "--dry-run"]).success();
    plan.says(&["nothing was changed", "- web:old"]);
    assert!(!farm.member(1).web("old").exists());

    farm.manager().command(&["drift", "revert", "member1", "web:old", "web:mode.conf"]).success();
    wait_drift(&farm, 7);
    assert_eq!(fs::read(farm.member(1).web("old/y.conf")).expect("back"), b"y");
    assert_eq!(fs::read(farm.member(1).web("a.conf")).expect("a file"), b"one\n2\nthree\n", "it was not named");
    farm.manager().command(&["drift", "revert", "member1", "web:old"]).success().says(&["nothing was changed"]);

    farm.server_mut(0).kill();
    let done = farm.member(1).command(&["drift", "revert", "member1"]).success();
    let kept = done.stdout.lines().map(str::trim).find(|line| line.ends_with("/web/a.conf")).expect("the kept path");
    assert_eq!(fs::read(kept).expect("a kept copy"), b"one\n2\nthree\n");
    assert!(!farm.member(1).web("new").exists());
    farm.member(1).command(&["drift", "show"]).success().says(&["nothing differs", "kept copies"]);
    farm.server_mut(0).start();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w3_with_the_policy_revert_the_managers_state_comes_back_by_itself() {
    let mut farm = Farm::plan().members(1).start_with(fill);
    farm.member(1).write("a.conf", "before the policy");
    wait_drift(&farm, 1);
    farm.manager().command(&["group", "set", "--drift", "revert"]).success();
    farm.manager().command(&["group", "show"]).success().says(&["drift    revert"]);
    let status = farm.wait_server(farm.member(1), "the kept copy", |s| s.drift_entries == 0 && s.kept.len() == 1);
    assert_eq!(fs::read(&status.kept[0]).expect("the edit"), b"before the policy");
    farm.wait_equal();

    // While its agent is stopped, nothing is put back; the agent does that when it starts.
    farm.server_mut(1).stop();
    farm.member(1).write("more.conf", "made meanwhile");
    farm.server_mut(1).start();
    farm.wait_server(farm.member(1), "the second kept copy", |s| s.state == State::InSync && s.kept.len() == 2);
    assert!(!farm.member(1).web("more.conf").exists());
    farm.wait_equal();
}

#[test]
fn w3_with_the_policy_hold_a_drifted_server_takes_no_updates_until_that_is_settled() {
    let farm = Farm::plan().members(2).start_with(fill);
    farm.manager().command(&["group", "set", "--drift", "hold"]).success();
    farm.manager().command(&["group", "set", "--drift", "sometimes"]).exits(2);
    farm.member(1).write("a.conf", "held");
    let held = farm.wait_server(farm.member(1), "the hold", |s| s.held && s.state == State::Drifted);
    farm.manager().write("gone.conf", "not for member1 yet");
    farm.manager().command(&["publish"]).success();
    farm.wait_same_file(farm.member(2), "gone.conf");
    let late = farm.wait_server(farm.member(1), "its lag", |s| s.lag_revisions > 0);
    assert_eq!((late.state, late.revision), (State::Drifted, held.revision));
    assert!(late.reason.as_deref().is_some_and(|why| why.contains("takes no updates")), "{late:?}");
    farm.manager().command(&["wait", "--timeout", "180s"]).exits(5).says(&["member1", "takes no updates"]);
    assert_eq!(fs::read(farm.member(1).web("gone.conf")).expect("a file"), b"gone");

    // The edits are kept, although the head has other changes meanwhile.
    farm.manager().command(&["drift", "keep", "member1", "--wait", "all"]).success();
    farm.wait_equal();
    farm.assert_equal();
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("a file"), b"held");

    farm.member(1).write("a.conf", "held again");
    farm.wait_server(farm.member(1), "the hold", |s| s.held);
    farm.manager().command_with_input(&["put", "web:gone.conf"], "later").success();
    farm.manager().command(&["drift", "revert", "member1"]).success().says(&["recovery", "a.conf"]);
    farm.wait_equal();

    // An edit that was not noticed yet is not replaced either, and a sync brings back the manager's state.
    farm.member(1).write("a.conf", "held at last");
    farm.manager().command_with_input(&["put", "web:a.conf"], "the manager's").success();
    farm.wait_server(farm.member(1), "the hold", |s| s.held && s.lag_revisions > 0);
    assert_eq!(fs::read(farm.member(1).web("a.conf")).expect("a file"), b"held at last");
    farm.manager().command(&["sync", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w3_what_is_excluded_or_each_servers_own_is_no_drift() {
    let farm = Farm::plan().members(1).start_with(fill);
    farm.manager().command(&["group", "set", "--exclude", "web=*.bak", "--local", "web=local-*"]).success();
    farm.wait_equal();
    farm.member(1).write("old.bak", "excluded");
    farm.member(1).write("local-1.conf", "its own");
    farm.member(1).write("a.conf", "an edit");
    wait_drift(&farm, 1);
    assert_eq!(kinds(&shown(farm.manager(), &[])), ["changed a.conf"]);
    farm.manager().command(&["drift", "revert", "member1"]).success();
    farm.wait_in_sync();
    assert_eq!(fs::read(farm.member(1).web("old.bak")).expect("left alone"), b"excluded");
    assert_eq!(fs::read(farm.member(1).web("local-1.conf")).expect("left alone"), b"its own");
}

/// Only its manager may ask a member about its edits, or have them put back.
#[test]
fn w3_a_member_obeys_its_manager_only() {
    let farm = Farm::plan().members(2).start_with(fill);
    farm.member(1).write("a.conf", "an edit");
    wait_drift(&farm, 1);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let key_of = |server: &Server| identity::load(&Layout::new(server.state())).expect("readable").expect("a key");
    let refused = |key: &KeyPair, words: &str| {
        let expected = key_of(farm.member(1)).public();
        let statuses = runtime.block_on(async {
            let channel = tls::connect(key, &farm.member(1).listen, expected).await.expect("a connection");
            let mut client = EditedClient::new(channel);
            let revert = v1::RevertRequest { server: "member1".into(), ..v1::RevertRequest::default() };
            [
                client.revert(revert).await.map(drop).expect_err("a revert"),
                client.show(v1::DriftRequest::default()).await.map(drop).expect_err("a show"),
                client.edits(v1::EditsRequest::default()).await.map(drop).expect_err("the edits"),
                client.kept(v1::KeptRequest::default()).await.map(drop).expect_err("a kept"),
                client.keep(v1::KeepRequest::default()).await.map(drop).expect_err("a keep"),
            ]
        });
        for status in statuses {
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
            assert!(status.message().contains(words), "{status:?}");
        }
    };
    refused(&key_of(farm.member(2)), "only the manager");
    refused(&KeyPair::generate(), "is not a server of this group");
    assert_eq!(fs::read(farm.member(1).web("a.conf")).expect("a file"), b"an edit");
}

/// The whole directory is replaced, as if an administrator restored it from a copy.
#[test]
fn w3_a_whole_set_that_was_replaced_by_hand_is_judged_by_its_content() {
    let farm = Farm::plan().members(1).start_with(fill);
    farm.manager().command(&["verify"]).success();
    let (set, away, copy) =
        (farm.member(1).set("web"), farm.member(1).home.join("away"), farm.member(1).home.join("copy"));
    run(Command::new("cp").arg("-a").arg(farm.manager().set("web")).arg(&copy)).success();
    fs::rename(set, &away).and_then(|()| fs::rename(&copy, set)).expect("replaced");
    farm.manager().command(&["verify", "member1"]).success().says(&["equal"]);

    run(Command::new("cp").arg("-a").arg(&away).arg(&copy)).success();
    fs::write(copy.join("a.conf"), "of the copy").expect("written");
    fs::remove_dir_all(copy.join("old")).expect("removed");
    fs::rename(set, farm.member(1).home.join("away again")).and_then(|()| fs::rename(&copy, set)).expect("replaced");
    wait_drift(&farm, 2);
    assert_eq!(kinds(&shown(farm.manager(), &[])), ["changed a.conf", "removed old"]);
    farm.manager().command(&["drift", "revert", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w3_a_set_that_was_removed_comes_back() {
    let farm = Farm::plan().members(1).start_with(fill);
    fs::remove_dir_all(farm.member(1).set("web")).expect("removed");
    farm.wait_server(farm.member(1), "that all is gone", |s| s.drift_entries > 0);
    farm.manager().command(&["drift", "keep", "member1"]).refused().says(&["whole directory", "nothing was changed"]);
    farm.manager().command(&["drift", "revert", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

/// A service must not get a directory that has the changed files alone.
#[test]
fn w3_a_directory_that_was_removed_is_made_whole_when_a_revision_needs_it() {
    let farm = Farm::plan().members(1).start_with(fill);
    for (round, gone) in ["", "old", ""].into_iter().enumerate() {
        fs::remove_dir_all(farm.member(1).web(gone)).expect("removed");
        if round < 2 {
            farm.wait_server(farm.member(1), "what is gone", |s| s.drift_entries > 0);
        }
        farm.manager().write("old/x.conf", format!("needed {round}"));
        farm.wait_equal();
        farm.assert_equal();
        farm.manager().command(&["verify"]).success();
    }
    // Content that no other file here has, and that only the history of the member can bring.
    fs::remove_dir_all(farm.member(1).web("old")).expect("removed");
    farm.manager().write("a.conf", "of another directory");
    farm.wait_same_file(farm.member(1), "a.conf");
    assert!(!farm.member(1).web("old").exists(), "an update of another directory leaves the edit");
    farm.manager().command(&["rm", "web:old/y.conf"]).success();
    farm.wait_status("the removal at the member", |status| {
        status.servers.iter().any(|s| s.name.as_str() == "member1" && s.revision == status.head && s.drift_entries == 1)
    });
    assert!(!farm.member(1).web("old").exists(), "a removal needs no directory");
    farm.manager().write("old/x.conf", "needed at last");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w3_a_manager_that_dies_while_it_keeps_edits_has_all_of_them_or_none() {
    let mut farm = Farm::plan().members(1).start_with(fill);
    for point in ["apply.staged", "apply.journal", "apply.after-exchange:2", "apply.read-back", "apply.kept"] {
        farm.server_mut(0).stop();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_status("the member back", |s| {
            s.servers.iter().any(|s| s.name.as_str() == "member1" && s.seen_ms.is_some())
        });
        let content = format!("edited for {point}");
        for path in ["a.conf", "gone.conf", "mode.conf"] {
            farm.member(1).write(path, &content);
        }
        farm.wait_server(farm.member(1), "its drift", |s| s.drift_entries == 3);
        let killed = farm.member(1).command(&["drift", "keep", "member1"]);
        assert!(matches!(killed.code, Some(1 | 3)), "{killed}");
        wait_for(&format!("the manager's end at {point}"), DEADLINE, || {
            farm.server_mut(0).ended().map(drop).ok_or_else(|| format!("it runs; {killed}"))
        });
        farm.server_mut(0).kill();
        farm.server_mut(0).start();
        let has = |path| fs::read_to_string(farm.manager().web(path)).expect("a file") == content;
        let kept = ["a.conf", "gone.conf", "mode.conf"].map(has);
        assert!(kept == [true; 3] || kept == [false; 3], "{point}: {kept:?}");
        farm.wait_server(farm.member(1), "an answer", |s| s.version.is_some());
        farm.member(1).command(&["drift", "keep", "member1", "--wait", "all"]).success();
        farm.wait_equal();
    }
    farm.assert_equal();
}
