//! An agent that loses one of its tasks ends, names the task, and is whole when it is started again. A peer, pack or file that
//! was in progress at three ends is quarantined by name until a person lifts that.

use std::{fs, os::unix::fs::MetadataExt, os::unix::process::ExitStatusExt, process::ExitStatus, process::Stdio};

use bellwether_proto::status::State;
use rustix::process::Signal;

use crate::{
    farm::{DEADLINE, Farm, Server, bellwether, wait_for},
    maintenance::{is_done, wait_procedure},
};

/// Starts the agent with that failpoint, and returns how it ended.
fn ends_at(server: &mut Server, point: &str) -> ExitStatus {
    server.start_with(&[("BELLWETHER_FAILPOINT", point)]);
    let status = wait_for(&format!("the end of {} by {point}", server.name), DEADLINE, || {
        server.ended().ok_or_else(|| server.read_log().lines().last().unwrap_or_default().to_owned())
    });
    server.kill();
    status
}

fn loses(server: &mut Server, task: &str) {
    let status = ends_at(server, &format!("task.{task}=panic"));
    assert!(!status.success(), "{task} panics: {status}");
    let log = server.read_log();
    for words in [format!("injected at task.{task}"), format!("task=\"{task}\"")] {
        assert!(log.contains(&words), "{task} panics: no '{words}' in the log");
    }
    let status = ends_at(server, &format!("task.{task}=error"));
    assert_eq!(status.code(), Some(1), "{task} ends unasked: {status}");
    assert!(server.read_log().contains(&format!("the task '{task}' ended unasked")), "{task} is not named");
}

#[test]
fn a_manager_that_loses_a_task_ends_says_which_and_goes_on_when_it_is_started_again() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    farm.wait_equal();
    farm.server_mut(0).stop();
    for task in ["publisher", "watch", "lanes", "role", "procedures", "peers", "readiness", "status", "quarantine"] {
        loses(farm.server_mut(0), task);
    }
    farm.server_mut(0).start();
    farm.manager().write("a.conf", "two");
    farm.wait_equal();
    let noted = farm.manager().command(&["quarantine"]).success();
    noted.says(&["nothing is quarantined", "ends that nobody asked for are noted"]);
}

#[test]
fn a_member_that_loses_its_thread_or_its_watch_ends_and_goes_on_when_it_is_started_again() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    farm.wait_equal();
    farm.server_mut(1).stop();
    for task in ["member", "watch", "seen"] {
        loses(farm.server_mut(1), task);
    }
    farm.server_mut(1).start();
    farm.manager().write("a.conf", "two");
    farm.wait_equal();
}

#[test]
fn a_panic_in_the_middle_of_a_switch_leaves_one_revision_and_the_next_start_completes_it() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    farm.wait_equal();
    for (round, point) in ["apply.exchanged=panic", "apply.journal=panic", "apply.commit=panic"].iter().enumerate() {
        farm.server_mut(1).stop();
        let text = format!("round {round}");
        farm.manager().write("a.conf", &text);
        assert!(!ends_at(farm.server_mut(1), point).success());
        let found = fs::read_to_string(farm.member(1).web("a.conf")).expect("a whole file");
        assert!(found == text || found == "one" || found == format!("round {}", round.wrapping_sub(1)), "{found}");
        farm.server_mut(1).start();
        farm.wait_equal();
        farm.assert_equal();
    }
}

#[test]
fn a_file_at_which_the_manager_ended_three_times_is_quarantined_until_it_is_let_in() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    farm.wait_equal();
    farm.server_mut(0).stop();
    farm.manager().write("bad.conf", "the program ends when it reads this");
    for _ in 0..3 {
        ends_at(farm.server_mut(0), "scan.read=panic");
    }
    // The failpoint is still armed, but the agent does not read that file any more.
    farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", "scan.read=panic")]);
    let named = "file web:bad.conf";
    farm.wait_status("the quarantine", |status| status.quarantined.iter().any(|line| line.starts_with(named)));
    farm.manager().command(&["status"]).says(&["quarantined", named, "bellwether quarantine lift"]);
    farm.manager().command(&["doctor"]).says(&["warn quarantine", named]);
    farm.manager().command(&["quarantine"]).success().says(&[named]);
    assert!(farm.manager().read_log().contains("from the next start on it is quarantined"));

    // The quarantine outlives a restart, and ends by a command.
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    farm.wait_status("the quarantine still", |status| !status.quarantined.is_empty());
    assert!(!farm.member(1).web("bad.conf").exists());
    farm.manager().command(&["quarantine", "lift", "file web:other"]).refused().says(&["is not quarantined"]);
    farm.manager().command(&["quarantine", "lift", named]).success();
    farm.wait_status("nothing quarantined", |status| status.quarantined.is_empty());
    farm.manager().command(&["publish"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn a_pack_at_which_a_member_ended_three_times_is_refused_by_name_and_the_next_one_is_taken() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    farm.wait_equal();
    farm.server_mut(1).stop();
    farm.manager().write("a.conf", "two");
    farm.manager().command(&["publish"]).success();
    for _ in 0..3 {
        ends_at(farm.server_mut(1), "member.offer=panic");
    }
    farm.server_mut(1).start();
    let shown = farm.wait_server(farm.member(1), "the refusal", |server| server.state == State::Refused);
    let reason = shown.reason.unwrap_or_default();
    let pack = format!("pack {}", farm.status().head.expect("a head"));
    assert!(reason.contains(&pack) && reason.contains("quarantine lift"), "{reason}");
    assert_eq!(fs::read_to_string(farm.member(1).web("a.conf")).expect("as it was"), "one");
    farm.member(1).command(&["doctor"]).says(&["warn quarantine", &pack]);

    farm.manager().write("a.conf", "three");
    farm.wait_equal();
    farm.member(1).command(&["quarantine", "lift", &pack]).success();
}

#[test]
fn a_member_at_whose_word_the_manager_ended_three_times_is_not_talked_to_and_the_others_are() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    farm.wait_equal();
    farm.server_mut(0).stop();
    for _ in 0..3 {
        ends_at(farm.server_mut(0), "lane.heard=panic");
    }
    farm.server_mut(0).start();
    let shown = farm.wait_server(farm.member(1), "not talked to", |server| {
        server.reason.as_ref().is_some_and(|reason| reason.contains("quarantined"))
    });
    assert!(shown.reason.unwrap_or_default().contains("bellwether quarantine lift 'peer member1'"));
    farm.manager().command(&["quarantine", "lift", "peer member1"]).success();
    farm.manager().write("a.conf", "two");
    farm.wait_equal();
}

/// A balancer's command that writes its arguments to a file.
#[test]
fn what_a_balancer_was_told_before_the_end_is_not_told_again() {
    let mut farm = Farm::plan().members(1).start();
    let directory = farm.directory().join("balancer");
    fs::create_dir(&directory).expect("a directory");
    let script = directory.join("hook");
    let at = directory.display();
    let hook = format!(
        "cd {at}\ncase $BELLWETHER_ACTION in\n drain) echo $BELLWETHER_SERVER >> drains; echo drained > $BELLWETHER_SERVER;;\n \
         ready) echo serving > $BELLWETHER_SERVER;;\n status) cat $BELLWETHER_SERVER 2>/dev/null || echo serving;;\nesac\n"
    );
    fs::write(&script, hook).expect("written");
    let table = format!("[[balancer]]\nname = \"f5\"\nkind = \"command\"\ncommand = \"sh {}\"\n", script.display());
    farm.manager().configure(&table);
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    farm.manager().command(&["group", "set", "--balancer", "f5=command"]).success();
    farm.server_mut(0).stop();
    farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", "procedure.acted=panic")]);
    farm.manager().command(&["maintenance", "start", "member1", "--yes", "--wait", "none"]);
    let server = farm.server_mut(0);
    wait_for("the end by procedure.acted", DEADLINE, || server.ended().ok_or("it runs".to_owned()));
    server.kill();
    server.start();
    wait_procedure(farm.manager(), "p1", "done", is_done);
    assert_eq!(fs::read_to_string(directory.join("drains")).expect("it was told"), "member1\n");
}

#[test]
fn there_is_no_core_dump_of_a_process_that_has_the_key() {
    let mut farm = Farm::plan().members(0).start();
    let limits = fs::read_to_string(farm.manager().process().join("limits")).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    farm.server_mut(0).stop();
    farm.server_mut(0).start_in_script(&["env"], "ulimit -c unlimited");
    farm.manager().signal(Signal::ABORT);
    let server = farm.server_mut(0);
    let status = wait_for("the end by SIGABRT", DEADLINE, || server.ended().ok_or("it runs".to_owned()));
    assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
}

/// The system makes root the owner of the files in /proc of a process that is not dumpable.
#[test]
fn other_processes_of_its_user_cannot_look_into_its_memory() {
    if !rustix::process::geteuid().is_root() {
        return bellwether_skip::skip("whose a process is", "only root plays another user");
    }
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(bellwether().get_program());
    // The command reads its input before anything else, and waits for it here.
    command.args(["put", "web:a.conf", "--admin-socket", "/nonexistent"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a command");
    let process = format!("/proc/{}", child.id());
    let is_ours = || fs::read_to_string(format!("{process}/comm")).is_ok_and(|name| name.trim() == "bellwether");
    wait_for("a process of root's that runs as nobody", DEADLINE, || {
        let owner = fs::metadata(format!("{process}/environ")).map_err(|e| e.to_string())?.uid();
        let status = fs::read_to_string(format!("{process}/status")).map_err(|e| e.to_string())?;
        let runs_as_nobody = status.lines().any(|line| line.starts_with("Uid:") && line.contains("65534"));
        if is_ours() && runs_as_nobody && owner == 0 { Ok(()) } else { Err(format!("owner {owner}: {status}")) }
    });
    drop(child.stdin.take());
    wait_for("its end", DEADLINE, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn the_unit_starts_the_agent_again_however_it_ended_and_however_often() {
    let unit = include_str!("../agent/systemd/bellwether.service");
    for line in
        ["Restart=always", "RestartSec=1s", "RestartSteps=8", "RestartMaxDelaySec=1min", "StartLimitIntervalSec=0"]
    {
        assert!(unit.lines().any(|found| found == line), "no {line} in the unit");
    }
}
