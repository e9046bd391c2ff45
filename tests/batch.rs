//! `batch`: a command runs while publishing is held. Its edits are one revision if it succeeds, they are put back if it fails, and
//! without a result a person decides.

use std::{
    fs,
    io::Read,
    process::{Child, Command, Stdio},
};

use bellwether_manager::failpoints::BATCH;
use bellwether_proto::status::{Batch, BatchState, FarmStatus};
use rustix::process::{Pid, Signal, kill_process};

use crate::farm::{DEADLINE, Farm, Output, Server, run, wait_for};

/// A farm with one member, whose manager has two files.
fn farm() -> Farm {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("index.html", "one");
        manager.write("old.html", "old");
    });
    farm.wait_equal();
    farm
}

/// `batch` at that server with these options: the shell runs `script` in the server's own directory.
fn batch(server: &Server, options: &[&str], script: &str) -> Command {
    let mut command = server.prepared(&["batch"]);
    command.args(options).args(["--", "sh", "-c", script]).current_dir(&server.home);
    command
}

/// A script that edits, says so, and goes on when it may: [`let_go`].
const WAITS: &str = "echo two > sets/web/index.html; echo new > sets/web/new.html; rm sets/web/old.html; echo > reached; \
                     while [ ! -e go ]; do sleep 0.02; done; echo more >> sets/web/new.html";

fn let_go(server: &Server) {
    fs::write(server.home.join("go"), "").expect("written");
}

/// A batch under way. Killed with it.
struct Begun(Child);

impl Begun {
    /// Begins that batch, and waits until its script has edited.
    fn begin(server: &Server, mut command: Command) -> Self {
        for file in ["reached", "go"] {
            let _ = fs::remove_file(server.home.join(file));
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a batch");
        let begun = Self(child);
        let reached = server.home.join("reached");
        wait_for("the edits of the batch", DEADLINE, || reached.exists().then_some(()).ok_or("none".to_owned()));
        begun
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().cast_signed()).expect("a process"), signal).expect("a signal");
    }

    /// Its exit code, and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("the end of the batch", DEADLINE, || match self.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let mut said = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        self.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (status.code(), said)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn content(server: &Server, file: &str) -> String {
    fs::read_to_string(server.web(file)).unwrap_or_else(|error| error.to_string())
}

fn wait_batch(farm: &Farm, state: BatchState) -> (FarmStatus, Batch) {
    let status = farm.wait_status(&format!("a batch that is {state:?}"), |status| {
        status.batch.as_ref().is_some_and(|batch| batch.state == state)
    });
    let batch = status.batch.clone().expect("it was just there");
    (status, batch)
}

fn no_batch(farm: &Farm) -> FarmStatus {
    farm.wait_status("no batch", |status| status.batch.is_none())
}

/// Commands of others, which a batch refuses.
fn refuses_others(farm: &Farm, words: &[&str]) {
    for server in [farm.manager(), farm.member(1)] {
        server.command_with_input(&["put", "web:index.html"], "mine").refused().says(words);
        server.command(&["rm", "web:index.html"]).refused().says(words);
        server.command(&["rollback", "--yes"]).refused().says(words);
    }
    run(&mut batch(farm.manager(), &[], "true")).refused().says(words);
    run(&mut batch(farm.manager(), &["--dry-run"], "true")).refused().says(words);
    farm.manager().command(&["promote", "member1", "--yes"]).exits(3).says(words);
}

#[test]
fn the_edits_of_a_command_that_succeeds_are_one_revision() {
    let farm = farm();
    let manager = farm.manager();
    let head = farm.status().head;
    let options = ["--deadline", "30m", "--message", "the play", "--label", "ticket=7"];
    let begun = Begun::begin(manager, batch(manager, &options, WAITS));
    let (_, shown) = wait_batch(&farm, BatchState::Running);
    assert_eq!(shown.deadline_ms - shown.began_ms, 1_800_000);
    assert!(shown.owner.ends_with(" at manager") && shown.command.starts_with("sh -c echo two"), "{shown:?}");
    assert_eq!(shown.pid, begun.0.id());
    let held = farm.wait_status("the held edits", |status| status.unpublished.is_some());
    assert!(held.unpublished.is_some_and(|why| why.contains("held until the end of the batch of")));
    refuses_others(&farm, &["the batch of ", " at manager (sh -c echo two", "runs, until 20"]);
    manager.command(&["publish"]).refused().says(&["the batch of "]);
    manager.command(&["discard", "--yes"]).refused().says(&["the batch of "]);
    manager.command(&["status"]).says(&["a batch runs", "nothing else is published meanwhile"]);
    manager.command(&["sync"]).success();
    assert_eq!((farm.status().head, content(farm.member(1), "index.html")), (head, "one".to_owned()));
    let_go(manager);
    let (code, said) = begun.end();
    assert!(code == Some(0) && said.contains("published 1.2: 3 changes"), "{code:?} {said}");
    let status = farm.wait_equal();
    assert_eq!((status.head_message.as_str(), status.batch), ("the play", None));
    assert_eq!(content(farm.member(1), "new.html"), "new\nmore\n");
    assert_eq!(status.head.map(|head| head.sequence), head.map(|head| head.sequence + 1));
    manager.command(&["show", "1.2"]).success().says(&[" at manager", "ticket"]);
    // Edits are revisions by themselves again.
    manager.write("index.html", "three");
    farm.wait_equal();
}

#[test]
fn the_edits_of_a_command_that_fails_are_put_back_and_those_from_before_stay() {
    let farm = farm();
    let manager = farm.manager();
    manager.command(&["group", "set", "--publish", "manual"]).success();
    manager.write("drafts/draft.html", "mine");
    manager.write("index.html", "mine, too");
    farm.wait_status("the drafts", |status| {
        status.unpublished.as_ref().is_some_and(|why| why.starts_with("3 entries"))
    });
    let head = farm.status().head;
    let script = "echo two > sets/web/index.html; mkdir -p sets/web/d; echo new > sets/web/d/new.html; rm sets/web/old.html; \
                  echo x > sets/web/drafts/theirs.html; exit 7";
    let failed = run(&mut batch(manager, &[], script)).exits(1);
    for words in [
        "edits from before the batch that are not published",
        "the command ended with exit status: 7; nothing was published, and its edits were put back",
        "+ web:old.html",
        "- web:d\n",
        "- web:drafts/theirs.html",
        "the dropped content is kept in",
        "edits from before the batch, which stay as they are:\n  web:drafts\n  web:index.html",
    ] {
        assert!(failed.stderr.contains(words), "no '{words}' in {failed}");
    }
    assert!(!manager.web("d").exists() && !manager.web("drafts/theirs.html").exists());
    assert!(content(manager, "old.html") == "old");
    assert_eq!(
        (content(manager, "drafts/draft.html"), content(manager, "index.html")),
        ("mine".into(), "two\n".into())
    );
    let status = no_batch(&farm);
    assert_eq!(status.head, head);
    let as_json = run(&mut batch(manager, &["--json"], "echo x > sets/web/old.html; exit 1")).exits(1);
    let document: serde_json::Value = serde_json::from_str(&as_json.stdout).expect("JSON");
    assert_eq!((&document["put_back"], &document["exit"]), (&1.into(), &1.into()), "{as_json}");
    let gone = run(manager.prepared(&["batch"]).args(["--", "/no/such/program"])).exits(1);
    gone.says(&["the command could not be run", "nothing was published"]);
    manager.command(&["publish"]).success();
    farm.wait_equal();
}

#[test]
fn the_services_take_what_was_put_back() {
    let mut farm = Farm::plan().members(1).unformed();
    farm.manager().write("index.html", "one");
    farm.form();
    farm.admit(1);
    farm.server_mut(0).stop();
    let (home, set) = (farm.manager().home.display().to_string(), farm.manager().set("web").display().to_string());
    farm.manager().configure(&format!(
        "validate = \"! grep -n bad {set}/index.html\"\nreload = \"cp {set}/index.html {home}/served\"\n"
    ));
    farm.server_mut(0).start();
    farm.wait_equal();
    let serves = |content: &str| {
        wait_for(&format!("{content} served"), DEADLINE, || match fs::read_to_string(format!("{home}/served")) {
            Ok(served) if served == content => Ok(()),
            served => Err(format!("{served:?}")),
        });
    };
    let manager = farm.manager();
    serves("one");
    let script = "echo two > sets/web/index.html; cp sets/web/index.html served; exit 1";
    run(&mut batch(manager, &[], script)).exits(1);
    serves("one");
    // The edits of a command that succeeds are refused like any others, and stay until they are corrected or dropped.
    let refused = run(&mut batch(manager, &[], "echo bad > sets/web/index.html")).exits(3);
    for words in
        ["the command succeeded, but its edits are not published: refused: set web: validate:", "bellwether discard"]
    {
        assert!(refused.stderr.contains(words) && !refused.stderr.contains("nothing was changed"), "{refused}");
    }
    let status = no_batch(&farm);
    assert!(status.unpublished.is_some_and(|why| why.contains("refused")));
    assert_eq!((content(manager, "index.html"), content(farm.member(1), "index.html")), ("bad\n".into(), "one".into()));
    manager.command(&["discard", "--yes"]).success();
    farm.wait_equal();
}

#[test]
fn a_batch_that_empties_a_set_is_not_published_until_a_person_accepts_it() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        (0..12).for_each(|n| manager.write(&format!("{n}.html"), "x"));
    });
    farm.wait_equal();
    let refused = run(&mut batch(farm.manager(), &[], "rm sets/web/*.html")).exits(3);
    refused.says(&[
        "the command succeeded, but its edits are not published",
        "bellwether publish --accept",
        "bellwether discard",
    ]);
    no_batch(&farm);
    assert!(farm.member(1).web("1.html").exists());
    farm.manager().command(&["publish", "--accept"]).success();
    farm.wait_equal();
}

#[test]
fn a_batch_whose_command_line_was_killed_waits_for_a_person() {
    let farm = farm();
    let manager = farm.manager();
    for publishes in [false, true] {
        let head = farm.status().head;
        let begun = Begun::begin(manager, batch(manager, &[], WAITS));
        begun.signal(Signal::KILL);
        let (status, _) = wait_batch(&farm, BatchState::Gone);
        assert_eq!(status.head, head);
        let shown = manager.command(&["status"]);
        for words in
            ["ended without a result; its edits are not published", "a batch, see below", "`bellwether discard`"]
        {
            assert!(shown.stdout.contains(words), "no '{words}' in {shown}");
        }
        refuses_others(&farm, &["ended without a result", "bellwether publish", "bellwether discard"]);
        // The command itself goes on, and its edits are not published, either.
        let_go(manager);
        wait_for("the end of the command", DEADLINE, || match content(manager, "new.html") {
            text if text == "new\nmore\n" => Ok(()),
            text => Err(text),
        });
        manager.command(&["publish", "--dry-run"]).success();
        manager.command(&["discard", "web:new.html", "--yes"]).success();
        wait_batch(&farm, BatchState::Gone);
        if publishes {
            manager.command(&["publish", "--message", "after a look"]).success();
            assert_eq!(content(manager, "index.html"), "two\n");
        } else {
            manager.command(&["discard", "--yes"]).success().says(&["is kept in"]);
            assert_eq!((content(manager, "index.html"), content(manager, "old.html")), ("one".into(), "old".into()));
        }
        no_batch(&farm);
        farm.wait_equal();
    }
}

#[test]
fn a_batch_outlives_the_agent_without_a_result() {
    let mut farm = farm();
    let head = farm.status().head;
    for kills in [true, false] {
        let begun = Begun::begin(farm.manager(), batch(farm.manager(), &[], WAITS));
        if kills {
            farm.server_mut(0).kill();
        } else {
            farm.server_mut(0).stop();
        }
        let_go(farm.manager());
        let (code, said) = begun.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the agent on this machine has ended") && said.contains("bellwether discard"), "{said}");
        farm.server_mut(0).start();
        let status = farm.wait_status("a batch without a result", |status| {
            status.batch.as_ref().is_some_and(|batch| !batch.is_running()) && status.unpublished.is_some()
        });
        assert_eq!((status.head, content(farm.manager(), "index.html")), (head, "two\n".to_owned()));
        farm.server_mut(0).kill();
        farm.server_mut(0).start();
        refuses_others(&farm, &["ended without a result"]);
        farm.manager().command(&["discard", "--yes"]).success();
        no_batch(&farm);
    }
    farm.wait_equal();
}

#[test]
fn a_manager_killed_at_every_point_of_a_batch_publishes_nothing_by_itself() {
    let mut farm = farm();
    for point in BATCH {
        println!("kill -9 at {point}");
        let head = farm.wait_in_sync().head;
        farm.server_mut(0).kill();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        let fails = if *point == "batch.put-back" { "; false" } else { "" };
        let script = format!("echo {point} > sets/web/index.html{fails}");
        run(&mut batch(farm.manager(), &[], &script)).exits(1);
        let manager = farm.server_mut(0);
        wait_for(&format!("death at {point}"), DEADLINE, || manager.ended().ok_or("it lives".to_owned()));
        manager.kill();
        manager.start();
        if *point == "batch.published" {
            // The revision says that it was a success.
            let status = no_batch(&farm);
            assert!(status.head > head && status.unpublished.is_none(), "{status:?}");
        } else {
            let (status, _) = wait_batch(&farm, BatchState::Restarted);
            assert_eq!(status.head, head);
            farm.manager().command(&["discard", "--yes"]).success();
            no_batch(&farm);
        }
        farm.wait_equal();
    }
}

#[test]
fn a_batch_after_its_deadline_waits_for_a_person() {
    let farm = farm();
    let manager = farm.manager();
    let begun = Begun::begin(manager, batch(manager, &["--deadline", "1ms"], WAITS));
    let (status, _) = wait_batch(&farm, BatchState::Late);
    assert!(status.head.is_some_and(|head| head.sequence == 1));
    let_go(manager);
    let (code, said) = begun.end();
    assert!(code == Some(4) && said.contains("after the deadline of the batch (1ms)"), "{code:?} {said}");
    wait_batch(&farm, BatchState::Late);
    manager.command(&["publish"]).success();
    no_batch(&farm);
    farm.wait_equal();
}

#[test]
fn an_interrupted_command_has_failed() {
    let farm = farm();
    let manager = farm.manager();
    let head = farm.status().head;
    // A command that calls the signal a success is interrupted all the same.
    let script = format!("trap 'exit 0' INT; {WAITS}");
    let mut command = Command::new("setsid");
    let prepared = batch(manager, &[], &script);
    command.arg(prepared.get_program()).args(prepared.get_args()).current_dir(&manager.home);
    let begun = Begun::begin(manager, command);
    begun.signal(Signal::INT);
    let (code, said) = begun.end();
    assert!(code == Some(1) && said.contains("the command was interrupted"), "{code:?} {said}");
    assert_eq!(content(manager, "index.html"), "one");
    assert_eq!(no_batch(&farm).head, head);
    farm.wait_equal();
}

#[test]
fn a_batch_is_at_the_manager_only() {
    let farm = farm();
    let refused: Output = run(&mut batch(farm.member(1), &[], "echo > ran")).refused();
    refused.says(&["this server, member1, is a member", "run the command at the manager, manager"]);
    assert!(!farm.member(1).home.join("ran").exists());
    let planned = run(&mut batch(farm.manager(), &["--dry-run"], "echo > ran")).success();
    planned.says(&["would hold publishing and run: sh -c echo > ran (nothing was changed)"]);
    assert!(!farm.manager().home.join("ran").exists() && farm.status().batch.is_none());
}
