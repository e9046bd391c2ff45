//! What every server keeps of the past: segments of a base and its increments, begun anew when the increments have grown.
//! And what people make of it: `log`, `show`, `diff`, `tree --at`, `get --at` and `rollback`, at any server.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use bellwether_daemon::{net::tls, state::identity};
use bellwether_proto::{
    key::KeyPair,
    status::State,
    v1::{self, past_client::PastClient},
};
use bellwether_store::state::layout::Layout;
use serde_json::Value;
use tonic::Code;

use crate::farm::{DEADLINE, Farm, Output, Server, random::Random, wait_for};

/// The number of bases in a server's history.
fn bases(server: &Server) -> usize {
    let names =
        fs::read_dir(server.state().join("history")).expect("its history").map(|entry| entry.expect("an entry"));
    names.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "base")).count()
}

#[test]
fn a_history_whose_increments_have_grown_begins_a_new_segment_on_every_server() {
    let mut random = Random::seeded();
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "small"));
    assert_eq!((bases(farm.manager()), bases(farm.member(1))), (1, 1));
    for _ in 0..4 {
        // The content does not compress: each increment has 2 MB, and together they have more than a small base and 4 MB.
        let noise = random.bytes(2 << 20);
        farm.manager().write("noise.bin", noise);
        farm.wait_equal();
    }
    for server in [farm.manager(), farm.member(1)] {
        wait_for("a second base", DEADLINE, || match bases(server) {
            0 | 1 => Err(format!("{} has one", server.name)),
            _ => Ok(()),
        });
    }
    farm.server_mut(1).kill();
    farm.server_mut(1).start();
    farm.manager().write("a.conf", "after the start");
    farm.wait_equal();
    farm.assert_equal();
}

fn json(output: Output) -> Value {
    serde_json::from_str(&output.success().stdout).expect("one JSON document")
}

/// Publishes what the manager's sets hold as one revision; its number.
fn publish(farm: &Farm, message: &str) -> String {
    let published = json(farm.manager().command(&["publish", "--json", "--message", message]));
    published["revision"].as_str().unwrap_or_else(|| panic!("nothing to publish: {published}")).to_owned()
}

/// A farm that publishes on request, with a good revision and a bad one after it; their numbers.
fn good_and_bad(members: usize) -> (Farm, String, String) {
    let farm = Farm::plan().members(members).start_with(|manager| manager.write("a.conf", "first\n"));
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    farm.manager().write("a.conf", "one\ntwo\nthree\n");
    farm.manager().write("d/kept.conf", "kept\n");
    farm.manager().write("gone.conf", "it goes\n");
    farm.manager().write("image.bin", b"\0binary");
    let good = publish(&farm, "a good one");
    farm.manager().write("a.conf", "one\n2\nthree\n");
    farm.manager().write("came.conf", "it comes\n");
    farm.manager().write("image.bin", b"\0other binary");
    fs::remove_file(farm.manager().web("gone.conf")).expect("removed");
    fs::set_permissions(farm.manager().web("d/kept.conf"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let bad = publish(&farm, "a bad one");
    farm.wait_equal();
    (farm, good, bad)
}

#[test]
fn the_history_is_shown_at_every_server() {
    let (farm, good, bad) = good_and_bad(1);
    let labelled = ["publish", "--message", "with labels", "--label", "ticket=OPS-12", "--label", "by=hand"];
    farm.manager().write("late.conf", "later\n");
    let sudo = [("SUDO_USER", "alice"), ("USER", "root")];
    farm.manager().command_with(&labelled, &sudo).success();
    farm.wait_equal();
    for server in [farm.manager(), farm.member(1)] {
        let log = json(server.command(&["log", "--json"]));
        let revisions = log["revisions"].as_array().expect("revisions");
        assert_eq!(revisions[0]["message"], "with labels");
        assert_eq!(revisions[0]["author"], "alice at manager");
        assert_eq!(revisions[0]["labels"]["ticket"], "OPS-12");
        assert_eq!(revisions[0]["changed"], 1);
        assert_eq!(
            (&revisions[1]["revision"], &revisions[1]["changed"]),
            (&Value::from(bad.as_str()), &Value::from(5))
        );
        assert_eq!((&log["more"], &log["ends"]), (&Value::from(false), &Value::Null), "nothing was dropped");
        server.command(&["log"]).success().says(&["ticket=OPS-12", "alice at manager, 1 entry changed", "a bad one"]);
        server.command(&["log", "--limit", "1"]).success().says(&["with labels", "there are older revisions"]);
        let of_place = json(server.command(&["log", "--json", "web:d"]));
        let numbers: Vec<_> = of_place["revisions"].as_array().expect("some").iter().map(|r| &r["revision"]).collect();
        assert_eq!(numbers, [&Value::from(bad.as_str()), &Value::from(good.as_str())]);

        let shown = server.command(&["show", &bad]).success();
        shown.says(&[
            "a bad one",
            &format!("5 entries changed since {good}:"),
            "M web:a.conf",
            "A web:came.conf  (9 bytes)",
            "D web:gone.conf  (8 bytes)",
            "M web:d/kept.conf  (0644 → 0600)",
        ]);
        server.command(&["show", "head", "--diff"]).success().says(&["+later"]);

        let diff = server.command(&["diff", "head-2", "head-1"]).success();
        assert!(diff.stdout.contains("@@ -1,3 +1,3 @@\n one\n-two\n+2\n three"), "{diff}");
        diff.says(&["--- web:a.conf at", "web:image.bin: binary, 7 → 13 bytes", "web:d/kept.conf: mode 0644 → 0600"]);
        let one = server.command(&["diff", &good, &bad, "web:came.conf"]).success();
        assert!(one.stdout.contains("+it comes") && !one.stdout.contains("a.conf"), "{one}");
        server.command(&["diff", "head", "head"]).success().says(&["nothing differs"]);
        let document = json(server.command(&["diff", &good, &bad, "--json"]));
        assert_eq!(document["entries"], 5);
        assert_eq!(document["changes"].as_array().map(Vec::len), Some(5));

        let tree = server.command(&["tree", "web", "--at", &good]).success();
        assert!(tree.stdout.contains("web:gone.conf") && !tree.stdout.contains("came.conf"), "{tree}");
        assert_eq!(server.command(&["get", "web:a.conf", "--at", &good]).success().stdout, "one\ntwo\nthree\n");
        assert_eq!(server.command(&["get", "web:gone.conf", "--at", "head-2"]).success().stdout, "it goes\n");

        server.command(&["get", "web:came.conf", "--at", &good]).refused().says(&["has no file web:came.conf"]);
        server.command(&["show", "1.999"]).refused().says(&["there is no revision 1.999", "bellwether log"]);
        server.command(&["show", "9.2"]).refused().says(&["sequence 2 is revision 1.2"]);
        server.command(&["show", "nothing"]).exits(2).says(&["EPOCH.SEQUENCE"]);
    }
}

#[test]
fn edits_that_are_not_published_are_a_diff_from_the_head() {
    let (farm, _, _) = good_and_bad(1);
    farm.manager().command(&["diff"]).success().says(&["nothing differs between"]);
    farm.manager().write("a.conf", "one\nedited\nthree\n");
    for server in [farm.manager(), farm.member(1)] {
        server.command(&["diff"]).success().says(&["-2", "+edited", "+++ web:a.conf"]);
    }
    let status = farm.status();
    assert_eq!(status.head_message, "a bad one", "looking publishes nothing");
}

#[test]
fn the_error_of_a_label_says_its_cause_once() {
    let farm = Farm::plan().members(0).start_with(|manager| manager.write("a.conf", "one"));
    let said = farm.manager().command(&["publish", "--label", "Ticket=1"]).says(&["nothing was published"]);
    assert_eq!(said.stderr.matches("is not a label's name").count(), 1, "{said}");
    let said = farm.manager().command(&["publish", "--label", "ticket"]).exits(2);
    assert_eq!(said.stderr.matches("'ticket'").count(), 1, "{said}");
}

#[test]
fn a_word_that_is_no_revision_and_no_path_is_refused() {
    let (farm, good, bad) = good_and_bad(1);
    for server in [farm.manager(), farm.member(1)] {
        for word in ["foo", "foo:bar", "web:nowhere", "web:a.conf/below"] {
            let said = server.command(&["diff", word]).refused();
            said.says(&[&format!("'{word}' is neither a revision"), "the manager's sets has", "bellwether tree"]);
            server.command(&["diff", &good, &bad, "web:a.conf", word]).refused().says(&[&format!("'{word}'")]);
        }
        // A path of one side is enough.
        let gone = json(server.command(&["diff", "--json", &good, &bad, "web:gone.conf"]));
        assert_eq!(gone["entries"], 1, "{gone}");
        server.command(&["diff", "web:"]).success();
    }
    farm.manager().write("fresh.conf", "not published");
    farm.manager().command(&["diff", "web:fresh.conf"]).success().says(&["fresh.conf"]);
}

#[test]
fn a_name_in_json_is_exact_whatever_is_in_it() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    let odd = "line one\nline\ttwo\\n\"日本\"";
    farm.manager().write(odd, "odd");
    symlink(odd, farm.manager().web("link")).expect("a link");
    farm.manager().command(&["publish"]).success();
    farm.wait_equal();
    let named = |entries: &Value, key: &str, name: &str| {
        let entries = entries.as_array().expect("entries").clone();
        let found = entries.into_iter().find(|entry| entry[key] == name);
        found.unwrap_or_else(|| panic!("no {key} is {name:?}"))
    };
    for server in [farm.manager(), farm.member(1)] {
        let tree = json(server.command(&["tree", "--json"]));
        assert_eq!(named(&tree, "path", odd)["path_base64"], Value::Null);
        assert_eq!(named(&tree, "link", odd)["path"], "link");
        let diff = json(server.command(&["diff", "1.1", "--json"]));
        assert_eq!(named(&diff["changes"], "path", odd)["path_base64"], Value::Null);
        assert_eq!(named(&diff["changes"], "path", "link")["now"]["link"], odd);
    }
}

#[test]
fn what_the_watch_published_says_so() {
    let farm = Farm::plan().members(0).start_with(|manager| manager.write("a.conf", "one"));
    farm.manager().write("a.conf", "two");
    farm.wait_status("the revision", |status| status.head.is_some_and(|head| head.sequence > 1));
    let log = json(farm.manager().command(&["log", "--json"]));
    assert_eq!(log["revisions"][0]["author"], "file watch at manager");
    let formed = json(farm.manager().command(&["show", "1.1", "--json"]));
    assert!(formed["new"]["author"].as_str().is_some_and(|author| author.ends_with(" at manager")), "{formed}");
    farm.manager().command(&["publish", "--label", "Wrong=x"]).refused().says(&["'Wrong' is not a label's name"]);
    farm.manager().command(&["publish", "--label", "accepted=x"]).refused().says(&["reserved"]);
    farm.manager().command(&["publish", "--label", "none"]).exits(2).says(&["NAME=VALUE"]);
}

#[test]
fn a_rollback_is_a_new_revision_of_all_sets_or_of_a_path() {
    let (farm, good, bad) = good_and_bad(2);
    let plan = farm.member(1).command(&["rollback", "--dry-run"]).success();
    plan.says(&[
        &format!("the content of {good}"),
        "~ web:a.conf",
        "- web:came.conf",
        "+ web:gone.conf",
        "nothing was changed",
    ]);
    farm.manager().command(&["rollback"]).refused().says(&["--yes"]);
    assert_eq!(farm.status().head.map(|head| head.to_string()), Some(bad.clone()), "nothing was published");

    let member = farm.member(1);
    member.command(&["rollback", &good, "web:a.conf", "web:gone.conf", "--yes", "--wait", "all"]).success();
    farm.wait_equal();
    assert_eq!(fs::read_to_string(farm.member(2).web("a.conf")).expect("a file"), "one\ntwo\nthree\n");
    assert!(farm.member(2).web("gone.conf").exists() && farm.member(2).web("came.conf").exists());
    let log = json(farm.manager().command(&["log", "--json", "-n", "1"]));
    assert_eq!(log["revisions"][0]["message"], format!("rollback to {good}"));
    assert!(log["revisions"][0]["author"].as_str().is_some_and(|author| author.ends_with(" at member1")), "{log}");

    let back = ["rollback", good.as_str(), "--yes", "--message", "all of it", "--wait", "all"];
    farm.manager().command(&back).success().says(&["and every member has it"]);
    farm.wait_equal();
    farm.assert_equal();
    assert!(!farm.member(2).web("came.conf").exists());
    farm.manager().command(&["diff", &good, "head"]).success().says(&["nothing differs"]);
    farm.manager().command(&back).success().says(&["already; nothing was changed"]);
    assert_eq!(farm.status().head_message, "all of it");
    farm.manager().command(&["rollback", "head-99", "--yes"]).refused().says(&["there is no revision head-99"]);
    farm.manager().command(&["rollback", "head", "web:nowhere", "--yes"]).refused().says(&["nowhere"]);
}

#[test]
fn a_rollback_spares_edits_that_are_not_published_and_asks_before_it_empties_a_set() {
    let (farm, good, _) = good_and_bad(1);
    farm.manager().write("a.conf", "an edit that is not published\n");
    farm.manager().write("elsewhere.conf", "not published, either\n");
    let refused = farm.manager().command(&["rollback", &good, "--yes"]).refused();
    refused.says(&["1 of the 5 entries", "web:a.conf", "bellwether diff", "bellwether publish"]);
    assert_eq!(fs::read_to_string(farm.manager().web("a.conf")).expect("a file"), "an edit that is not published\n");

    // Where the edit is what is to be back, it is no obstacle; elsewhere it stays an edit.
    farm.manager().write("a.conf", "one\n2\nthree\n");
    farm.manager().write("image.bin", b"\0binary");
    fs::remove_file(farm.manager().web("came.conf")).expect("removed");
    farm.manager().command(&["rollback", &good, "--yes", "--wait", "all"]).success();
    assert!(farm.manager().web("elsewhere.conf").exists() && !farm.member(1).web("elsewhere.conf").exists());
    farm.wait_status("the other edit", |s| s.unpublished.as_ref().is_some_and(|why| why.contains("1 entry")));
    farm.manager().command(&["publish"]).success();
    farm.wait_equal();

    (0..20).for_each(|at| farm.manager().write(&format!("many/{at}.conf"), "many"));
    publish(&farm, "many");
    farm.manager().command(&["rollback", "--yes"]).refused().says(&["are gone", "--accept"]);
    farm.manager().command(&["rollback", "--yes", "--accept", "--wait", "all"]).success();
    assert!(!farm.member(1).web("many").exists());
    farm.wait_equal();
    farm.assert_equal();
}

/// A directory that is gone at the manager would come back with the entries of the rollback alone.
#[test]
fn a_rollback_into_a_directory_that_was_removed_is_refused() {
    let (farm, good, _) = good_and_bad(1);
    fs::remove_file(farm.manager().web("d/kept.conf")).expect("removed");
    farm.manager().write("d/other.conf", "other");
    publish(&farm, "another file");
    fs::remove_dir_all(farm.manager().web("d")).expect("removed");
    let back = ["rollback", good.as_str(), "web:d/kept.conf", "--yes"];
    farm.manager().command(&back).refused().says(&["not published", "web:d/kept.conf"]);
    assert!(!farm.manager().web("d").exists());
    farm.manager().command(&["discard", "--yes"]).success();
    farm.manager().command(&back).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn a_rollback_reaches_a_revision_of_an_epoch_before_the_present_manager() {
    let (mut farm, good, _) = good_and_bad(1);
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    farm.wait_in_sync();
    farm.manager().command(&["promote", "manager"]).success();
    farm.led_by(0);
    farm.wait_status("the third epoch", |status| status.head.is_some_and(|head| head.epoch.0 > 2));
    farm.wait_in_sync();
    farm.member(1).command(&["rollback", &good, "--yes", "--wait", "all"]).success();
    farm.wait_equal();
    farm.assert_equal();
    assert_eq!(fs::read_to_string(farm.member(1).web("a.conf")).expect("a file"), "one\ntwo\nthree\n");
    farm.manager().command(&["log"]).success().says(&["a good one", &good]);
}

#[test]
fn a_manager_that_joined_later_says_where_its_history_begins() {
    let mut farm = Farm::plan().members(1).unformed();
    farm.manager().write("a.conf", "one");
    farm.form();
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    for content in ["two", "three"] {
        farm.manager().write("a.conf", content);
        publish(&farm, content);
    }
    farm.admit(1);
    farm.wait_in_sync();
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_leads(1);
    for server in [farm.server(0), farm.server(1)] {
        server.command(&["log"]).success().says(&["older revisions than 1.3 were dropped by retention"]);
        server.command(&["show", "1.2"]).refused().says(&["revision 1.2 is not in the history any more", "is 1.3"]);
        server.command(&["show", "3"]).success().says(&["its changes are not known"]);
        assert_eq!(server.command(&["get", "web:a.conf", "--at", "3"]).success().stdout, "three");
    }
    farm.manager().command(&["rollback", "1.2", "--yes"]).refused().says(&["bellwether log"]);
}

/// A member passes on what is asked on its own machine, and answers no other server; the manager answers no stranger.
#[test]
fn the_history_is_the_managers_and_only_the_groups() {
    let (farm, good, _) = good_and_bad(2);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let key_of = |server: &Server| identity::load(&Layout::new(server.state())).expect("readable").expect("a key");
    let asked = |server: &Server, key: &KeyPair| {
        runtime.block_on(async {
            let channel = tls::connect(key, &server.listen, key_of(server).public()).await.expect("a connection");
            let mut client = PastClient::new(channel);
            let back = v1::RollbackRequest { revision: good.clone(), now: true, ..v1::RollbackRequest::default() };
            [
                client.log(v1::LogRequest::default()).await.map(drop),
                client.rollback(back).await.map(drop),
                client.read_at(v1::ReadAtRequest { revision: "x".repeat(100_000), read: None }).await.map(drop),
            ]
        })
    };
    for status in asked(farm.member(1), &key_of(farm.member(2))) {
        assert_eq!(status.expect_err("a member").code(), Code::FailedPrecondition);
    }
    for status in asked(farm.manager(), &KeyPair::generate()) {
        assert_eq!(status.expect_err("a stranger").code(), Code::PermissionDenied);
    }
    // A content is forgotten by a command at the manager only.
    let status = runtime.block_on(async {
        let (key, manager) = (key_of(farm.member(2)), farm.manager());
        let channel = tls::connect(&key, &manager.listen, key_of(manager).public()).await.expect("a connection");
        PastClient::new(channel).forget(v1::ForgetRequest::default()).await.expect_err("a member")
    });
    assert_eq!(status.code(), Code::PermissionDenied);
    let [log, back, read] = asked(farm.manager(), &key_of(farm.member(2)));
    assert!(log.is_ok(), "{log:?}");
    assert!(back.expect_err("it is no command here").message().contains("at the manager only"));
    let status = read.expect_err("no name");
    assert!(status.code() == Code::InvalidArgument && status.message().len() < 2_000, "{status:?}");
    assert!(!farm.status().paused);
}

#[test]
fn a_rollback_that_holds_watching_is_sent_and_nothing_after_it_until_resume() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "good"));
    farm.manager().write("a.conf", "bad");
    farm.wait_equal();
    farm.server_mut(2).kill();
    farm.member(1).command(&["rollback", "--now", "--yes"]).refused().says(&["at the manager only"]);
    let back = farm.manager().command(&["rollback", "1.1", "--now", "--yes"]).success();
    back.says(&["watching is held", "bellwether resume"]);
    farm.wait_same_file(farm.member(1), "a.conf");
    assert_eq!(fs::read_to_string(farm.member(1).web("a.conf")).expect("a file"), "good");
    let head = farm.wait_status("the pause", |status| status.paused).head;

    // An automation brings the fault again.
    farm.manager().write("a.conf", "bad again");
    let held = farm.wait_status("the held edit", |s| s.unpublished.is_some());
    assert!(held.unpublished.is_some_and(|why| why.contains("bellwether resume")));
    assert_eq!(held.head, head, "it is no revision");
    assert_eq!(fs::read_to_string(farm.member(1).web("a.conf")).expect("a file"), "good");

    // A server that comes back meanwhile gets the rollback.
    farm.server_mut(2).start();
    wait_for("the rollback at member2", DEADLINE, || match fs::read_to_string(farm.member(2).web("a.conf")) {
        Ok(content) if content == "good" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    farm.manager().command(&["sync"]).success();
    assert_eq!(farm.status().head, head, "a sync publishes nothing, either");
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    farm.wait_status("the held edit after a restart", |s| s.unpublished.is_some() && s.paused && s.head == head);

    farm.manager().command(&["resume"]).success();
    let status = farm.wait_equal();
    assert!(!status.paused && status.head > head);
    assert_eq!(fs::read_to_string(farm.member(1).web("a.conf")).expect("a file"), "bad again");

    // Where nothing was edited meanwhile, the end of the hold is a revision, and the next pause is one like any other.
    farm.manager().command(&["rollback", "1.1", "--now", "--yes"]).success();
    let head = farm.wait_equal().head;
    farm.manager().command(&["resume"]).success();
    farm.wait_status("the end of the hold", |status| status.head > head && status.head_message == "watching goes on");
    let head = farm.wait_equal().head;
    farm.manager().command(&["pause"]).success();
    farm.manager().write("a.conf", "collected");
    farm.wait_status("a revision that is not sent", |s| s.head > head && s.servers.iter().any(|s| s.lag_revisions > 0));
    farm.manager()
        .command(&["rollback", "head", "--now", "--yes"])
        .success()
        .says(&["already", "propagation is paused"]);
    farm.manager().command(&["resume"]).success();
    farm.wait_equal();
}

#[test]
fn a_manager_that_dies_while_it_rolls_back_has_all_of_it_or_nothing() {
    let (mut farm, good, _) = good_and_bad(1);
    let points =
        ["apply.supply", "apply.staged", "apply.journal", "apply.after-exchange:2", "apply.read-back", "apply.kept"];
    for (round, point) in points.iter().chain(&["publish.committed"]).enumerate() {
        let bad = format!("bad in round {round}\n");
        farm.manager().write("a.conf", &bad);
        farm.manager().write("came.conf", &bad);
        publish(&farm, &bad);
        farm.wait_equal();
        farm.server_mut(0).stop();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        farm.wait_status("the member back", |s| {
            s.servers.iter().any(|s| s.name.as_str() == "member1" && s.state == State::InSync)
        });
        let killed = farm.manager().command(&["rollback", &good, "--yes"]);
        assert_eq!(killed.code, Some(1), "{killed}");
        wait_for(&format!("the manager's end at {point}"), DEADLINE, || {
            farm.server_mut(0).ended().map(drop).ok_or_else(|| format!("it runs; {killed}"))
        });
        farm.server_mut(0).kill();
        farm.server_mut(0).start();
        let is_back = fs::read_to_string(farm.manager().web("a.conf")).expect("a file") == "one\ntwo\nthree\n";
        assert_eq!(is_back, !farm.manager().web("came.conf").exists(), "{point}: all of it or nothing");
        farm.wait_server(farm.member(1), "an answer", |s| s.version.is_some());
        // What is in the sets already is published; nothing is in the way.
        farm.manager().command(&["rollback", &good, "--yes", "--wait", "all"]).success();
        farm.wait_equal();
        farm.manager().command(&["diff", &good, "head"]).success().says(&["nothing differs"]);
    }
    farm.assert_equal();
}
