//! The commands of a set on a member: validate before the switch, reload and check after it, and the way back.

use std::{fs, process::Command, thread};

use bellwether_proto::status::{FarmStatus, RolloutState, RolloutStatus, ServerStatus, State};
use bellwether_skip::skip;

use crate::farm::{DEADLINE, Farm, Output, Server, compare::difference, random::Random, run, wait_for};

/// A farm whose first member runs these lines of agent.toml for its set, in the directory `$HOME` of that server. Its
/// "service" serves what the last reload has read: `served` is a copy of index.html.
fn farm(lines: impl Fn(&Server) -> String) -> Farm {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "one");
    farm.form();
    let token = farm.token(&[]);
    farm.member(1).join(&token).success();
    let lines = lines(farm.member(1));
    farm.member(1).configure(&lines);
    farm.server_mut(1).start();
    farm.admit(2);
    farm.wait_in_sync();
    farm
}

/// Commands of a service that takes no file with the word `bad`, and does not work with the word `broken`.
fn service(server: &Server) -> String {
    let (home, set) = (server.home.display(), server.set("web").display());
    format!(
        "validate = \"echo tested; echo >> {home}/validations; ! grep -n bad {set}/index.html\"\n\
         reload = \"cp {set}/index.html {home}/served.new && mv {home}/served.new {home}/served\"\n\
         check = {{ probe = \"! grep -n broken {home}/served\", retries = 1, interval = '10ms' }}"
    )
}

fn served(server: &Server) -> String {
    fs::read_to_string(server.home.join("served")).unwrap_or_default()
}

fn serves(server: &Server, content: &str) {
    let look = || if served(server) == content { Ok(()) } else { Err(format!("{:?}", served(server))) };
    wait_for(&format!("{} serving {content:?}", server.name), DEADLINE, look);
    assert_eq!(fs::read_to_string(server.web("index.html")).unwrap(), content);
}

fn refused(farm: &Farm, member: &Server) -> ServerStatus {
    farm.wait_server(member, "refusing", |shown| shown.state == State::Refused)
}

#[test]
fn a_revision_that_a_command_refuses_touches_no_live_file() {
    let farm = farm(service);
    let member = farm.member(1);
    serves(member, "one");
    farm.manager().write("index.html", "two");
    farm.wait_equal();
    serves(member, "two");
    farm.manager().write("index.html", "bad");
    let shown = refused(&farm, member);
    let reason = shown.reason.expect("a reason");
    for word in ["refused 1.3: set web: validate: `echo tested", "ended with exit status: 1", "tested"] {
        assert!(reason.contains(word), "no '{word}' in: {reason}");
    }
    assert_eq!(shown.output, "tested\n1:bad", "the command's output");
    serves(member, "two");
    // No other member has it, either, and the correction is published by itself.
    assert_eq!(fs::read_to_string(farm.member(2).web("index.html")).unwrap(), "two");
    let rollout = farm.status().rollout.expect("it is stopped");
    assert!(
        rollout.untouched && rollout.reason.is_some_and(|why| why.starts_with("member1 refuses it: set web: validate"))
    );
    // An edit at the member that no revision changes stays there, as drift: the refused revision is no detour.
    member.write("note.html", "mine");
    farm.wait_server(member, "with an edit", |shown| shown.drift_entries == 1);
    farm.manager().write("index.html", "three");
    farm.wait_server(farm.member(2), "at the correction", |shown| {
        shown.revision.is_some_and(|at| at.to_string() == "1.4")
    });
    serves(member, "three");
    assert_eq!(fs::read_to_string(member.web("note.html")).unwrap(), "mine");
}

#[test]
fn a_service_that_does_not_work_is_taken_back() {
    let mut farm = farm(service);
    farm.manager().write("index.html", "broken");
    let shown = refused(&farm, farm.member(1));
    let reason = shown.reason.expect("a reason");
    for word in ["set web: check: ", "1:broken", "1.2 was taken back, and 1.1 is in force again"] {
        assert!(reason.contains(word), "no '{word}' in: {reason}");
    }
    serves(farm.member(1), "one");
    // It is not tried again by itself, not by a start either; a sync tries it, and the next revision is taken.
    farm.server_mut(1).stop();
    farm.server_mut(1).start();
    refused(&farm, farm.member(1));
    serves(farm.member(1), "one");
    let output = farm.manager().command(&["sync", "member1", "--timeout", "60s"]);
    assert_ne!(output.code, Some(0), "{output}");
    refused(&farm, farm.member(1));
    farm.manager().write("index.html", "two");
    farm.wait_equal();
    serves(farm.member(1), "two");
}

/// Whatever happened to the set meanwhile: what is in force again is whole.
#[test]
fn a_set_that_is_removed_before_the_way_back_is_whole_again() {
    let farm = farm(|server| {
        let set = server.set("web").display();
        format!("check = {{ probe = \"! grep -n broken {set}/index.html || {{ rm -r {set}; false; }}\", retries = 0 }}")
    });
    farm.manager().write("other.html", "beside it");
    farm.wait_equal();
    farm.manager().write("index.html", "broken");
    refused(&farm, farm.member(1));
    for (path, content) in [("index.html", "one"), ("other.html", "beside it")] {
        assert_eq!(fs::read_to_string(farm.member(1).web(path)).unwrap(), content);
    }
}

#[test]
fn killed_between_any_two_steps_it_ends_in_one_revision_that_is_served() {
    let mut farm = farm(service);
    let points = bellwether_member::FAILPOINTS.into_iter();
    let points = points.chain(["apply.journal", "apply.after-exchange", "apply.synced", "apply.read-back"]);
    // Those at which it matters that the revision is refused.
    let refusing = ["member.owed", "member.reloaded", "member.returning", "member.returned", "apply.after-exchange"];
    for (round, point) in points.enumerate() {
        let fine = (!point.starts_with("member.return")).then_some("fine");
        for word in fine.into_iter().chain(refusing.contains(&point).then_some("broken")) {
            let before = format!("before {round} {}", word.len());
            farm.manager().write("index.html", &before);
            farm.wait_equal();
            serves(farm.member(1), &before);
            farm.server_mut(1).stop();
            let content = format!("{word} {round}");
            if point == "member.kept" {
                // A pack is only kept on the way to a later revision.
                farm.manager().write("step.html", "a step");
                farm.wait_same(farm.member(2));
            }
            farm.manager().write("index.html", &content);
            farm.server_mut(1).start_with(&[("BELLWETHER_FAILPOINT", point)]);
            wait_for(&format!("the kill at {point}"), DEADLINE, || {
                farm.server_mut(1).ended().map(drop).ok_or_else(|| "it runs".to_owned())
            });
            farm.server_mut(1).kill();
            farm.server_mut(1).start();
            if word == "fine" {
                farm.wait_equal();
                serves(farm.member(1), &content);
            } else {
                refused(&farm, farm.member(1));
                serves(farm.member(1), &before);
            }
        }
    }
}

/// Where no mounts of its own can be had, the files are validated after the switch and before any reload.
#[test]
fn without_mounts_of_its_own_a_member_validates_after_the_switch() {
    let deny = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
    if run(Command::new(deny[0]).args(&deny[1..]).arg("true")).code != Some(0) {
        skip("validation without mounts", "only root can give a capability away");
        return;
    }
    let mut farm = farm(service);
    farm.server_mut(1).stop();
    farm.server_mut(1).start_in_script(&deny, "");
    farm.manager().write("index.html", "two");
    farm.wait_equal();
    serves(farm.member(1), "two");
    farm.manager().write("index.html", "bad");
    let reason = refused(&farm, farm.member(1)).reason.expect("a reason");
    assert!(reason.contains("validate") && reason.contains("1.3 was taken back"), "{reason}");
    serves(farm.member(1), "two");
    let log = farm.member(1).read_log();
    assert!(log.contains("they are validated after it"), "the log says so: {log}");
    // So it went first, alone.
    assert_eq!(fs::read_to_string(farm.member(2).web("index.html")).unwrap(), "two");
    let rollout = farm.status().rollout.expect("it is stopped");
    assert!(!rollout.untouched && rollout.later.len() == 1, "{rollout:?}");
}

/// A command does not keep the agent from anything else, and ends with it.
#[test]
fn while_a_command_runs_the_agent_answers_and_stops() {
    let mut farm = farm(|server| {
        let home = server.home.display();
        format!(
            "validate = {{ run = \"! [ -e {home}/slow ] || {{ echo $$ > {home}/pid; exec sleep 600; }}\", timeout = '10m' }}"
        )
    });
    fs::write(farm.member(1).home.join("slow"), "").unwrap();
    farm.manager().write("index.html", "two");
    let pid = farm.member(1).home.join("pid");
    wait_for("the slow command", DEADLINE, || pid.exists().then_some(()).ok_or_else(|| "not begun".to_owned()));
    let shown = farm.wait_server(farm.member(1), "validating", |shown| {
        shown.progress.as_ref().is_some_and(|progress| progress.phase == "validating")
    });
    assert_eq!(shown.state, State::Updating, "{shown:?}");
    farm.member(1).write("edited.html", "mine");
    farm.wait_server(farm.member(1), "drifted all the same", |shown| shown.drift_entries == 1);
    farm.server_mut(1).stop();
    let child = fs::read_to_string(&pid).unwrap();
    let process = std::path::Path::new("/proc").join(child.trim()).join("stat");
    wait_for("the end of its command", DEADLINE, || match fs::read_to_string(&process) {
        Ok(stat) if !stat.contains(") Z ") => Err(stat),
        Ok(_) | Err(_) => Ok(()),
    });
    fs::remove_file(farm.member(1).home.join("slow")).unwrap();
    farm.server_mut(1).start();
    farm.member(1).command(&["drift", "revert", "member1", "web:edited.html", "--yes"]).success();
    farm.wait_in_sync();
    assert_eq!(difference(farm.manager().set("web"), farm.member(1).set("web")), None);
}

/// A farm whose manager runs the commands of [`service`].
fn at_the_manager() -> Farm {
    let mut farm = Farm::plan().members(1).unformed();
    farm.manager().write("index.html", "one");
    farm.form();
    farm.admit(1);
    let lines = service(farm.manager());
    farm.manager().configure(&lines);
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    farm.manager().write("index.html", "two");
    farm.wait_equal();
    serves(farm.manager(), "two");
    farm
}

fn unpublished(farm: &Farm, words: &[&str]) {
    let shown = farm.wait_status("unpublished edits", |status| {
        status.unpublished.as_ref().is_some_and(|why| why.contains("refused"))
    });
    let why = shown.unpublished.expect("the reason");
    for word in words {
        assert!(why.contains(word), "no '{word}' in: {why}");
    }
}

#[test]
fn an_edit_that_the_managers_command_refuses_is_not_published_and_is_discarded() {
    let farm = at_the_manager();
    farm.manager().write("index.html", "bad");
    unpublished(&farm, &["set web: validate:", "ended with exit status: 1", "bellwether discard"]);
    farm.manager().command(&["publish"]).refused().says(&["set web: validate:", "correct the files"]);
    assert_eq!(fs::read_to_string(farm.member(1).web("index.html")).unwrap(), "two");
    assert_eq!(served(farm.manager()), "two", "nothing is reloaded");
    let planned = farm.manager().command(&["discard", "--dry-run"]).success();
    assert!(planned.stdout.contains("~ web:index.html"), "{planned}");
    let done = farm.manager().command(&["discard", "--yes"]).success();
    assert!(done.stdout.contains("as in the head revision again") && done.stdout.contains("is kept in"), "{done}");
    assert_eq!(fs::read_to_string(farm.manager().web("index.html")).unwrap(), "two");
    farm.wait_status("no unpublished edits", |status| status.unpublished.is_none());
    let again = farm.manager().command(&["discard", "--yes"]).success();
    assert!(again.stdout.contains("nothing was changed"), "{again}");
    farm.manager().write("index.html", "three");
    farm.wait_equal();
    serves(farm.manager(), "three");
}

#[test]
fn a_change_by_command_that_is_refused_leaves_the_managers_sets_as_they_were() {
    let farm = at_the_manager();
    for server in [farm.manager(), farm.member(1)] {
        let output = server.command_with_input(&["put", "web:index.html"], "bad");
        output.refused().says(&["set web: validate:"]);
        assert_eq!(fs::read_to_string(farm.manager().web("index.html")).unwrap(), "two");
    }
    farm.wait_in_sync();
    farm.wait_status("no unpublished edits", |status| status.unpublished.is_none());
    // The rest of the way is as ever.
    farm.member(1).command_with_input(&["put", "web:index.html"], "three").success();
    farm.wait_equal();
    serves(farm.manager(), "three");
}

/// A farm whose manager runs this command of its set `web`, in `$set` and `$home`, to validate.
fn validated_by(command: &str) -> Farm {
    let mut farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("index.html", "one");
        manager.write("other.html", "one");
    });
    farm.manager().write("index.html", "two");
    farm.wait_equal();
    let (set, home) = (farm.manager().set("web").display(), farm.manager().home.display());
    let lines = format!("validate = '''set={set}; home={home}; {command}'''");
    farm.manager().configure(&lines);
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    farm.wait_in_sync();
    farm
}

/// Whatever comes over a change while it is validated, an answer never calls it the content of the revision.
#[test]
fn an_edit_that_comes_over_a_change_by_command_is_not_acknowledged_as_that_change() {
    let farm = validated_by(
        "! grep bad $set/index.html; result=$?; echo > $home/begun; while [ -e $home/hold ]; do sleep 0.05; done; exit $result",
    );
    let (manager, member) = (farm.manager(), farm.member(1));
    let (hold, begun) = (manager.home.join("hold"), manager.home.join("begun"));
    let over = |theirs: &str, run: &(dyn Fn() -> Output + Sync)| {
        fs::write(&hold, "").unwrap();
        let _ = fs::remove_file(&begun);
        let output = thread::scope(|scope| {
            let running = scope.spawn(run);
            let is_there = || begun.exists().then_some(()).ok_or_else(|| "not begun".to_owned());
            wait_for("the command that validates", DEADLINE, is_there);
            manager.write("index.html", theirs);
            fs::remove_file(&hold).unwrap();
            running.join().expect("its output")
        });
        assert_eq!(fs::read_to_string(manager.web("index.html")).unwrap(), theirs, "{output}");
        farm.wait_equal();
        assert_eq!(fs::read_to_string(member.web("index.html")).unwrap(), theirs, "{output}");
        output
    };
    let edited = "was edited while this change was published";
    over("theirs 1", &|| manager.command_with_input(&["put", "web:index.html"], "mine")).refused().says(&[edited]);
    over("theirs 2", &|| member.command_with_input(&["put", "web:index.html"], "mine")).refused().says(&[edited]);
    // A removal reads nothing after it was validated: it is a revision, and the file that is there again is the next one.
    over("theirs 3", &|| manager.command(&["rm", "web:index.html"])).success();
    // Refused by the command, too: only that change is taken out again.
    let output = over("theirs 4", &|| manager.command_with_input(&["put", "web:index.html"], "bad"));
    output.refused().says(&["set web: validate:"]);
    let failed = over("theirs 5", &|| manager.command(&["rollback", "1.1", "--yes"])).exits(1);
    failed.says(&["not published yet", "web:index.html was edited while the change was published"]);
    // Without such an edit all of it is as ever.
    manager.command_with_input(&["put", "web:index.html"], "mine").success();
    farm.wait_equal();
}

/// The service would take the whole set: also what others have edited there, and what was refused.
#[test]
fn a_change_that_is_refused_for_the_edit_of_another_file_names_that_file() {
    let farm = validated_by("! grep -rn bad $set");
    let manager = farm.manager();
    manager.write("other.html", "bad");
    unpublished(&farm, &["set web: validate:", "bellwether discard web:other.html"]);
    let named = ["bellwether discard web:other.html", "set web: validate:"];
    manager.command_with_input(&["put", "web:index.html"], "three").refused().says(&named);
    manager.command(&["rollback", "--yes"]).refused().says(&named).says(&["edits there that are not published"]);
    assert_eq!(fs::read_to_string(manager.web("index.html")).unwrap(), "two");
    assert_eq!(fs::read_to_string(manager.web("other.html")).unwrap(), "bad", "the edit of another file stays");
    manager.command(&["discard", "web:other.html", "--yes"]).success();
    manager.command(&["rollback", "--yes"]).success();
    farm.wait_equal();
    assert_eq!(fs::read_to_string(manager.web("index.html")).unwrap(), "one");
}

#[test]
fn a_manager_whose_service_fails_says_so_and_a_rollback_helps() {
    let farm = at_the_manager();
    farm.manager().write("index.html", "broken");
    let shown = farm.wait_server(farm.manager(), "in error", |shown| shown.state == State::Error);
    let reason = shown.reason.expect("a reason");
    for word in ["set web: check:", "1:broken", "bellwether rollback"] {
        assert!(reason.contains(word), "no '{word}' in: {reason}");
    }
    farm.manager().command(&["rollback", "--yes"]).success();
    farm.wait_equal();
    serves(farm.manager(), "two");
}

/// The cause is not in the files, so no publish can end the error.
#[test]
fn a_sync_of_the_manager_runs_its_commands_again() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "one"));
    let down = farm.manager().home.join("down");
    let lines = format!(
        "validate = \"! grep bad {}/index.html\"\ncheck = {{ probe = \"! test -e {}\", retries = 0 }}",
        farm.manager().set("web").display(),
        down.display()
    );
    farm.manager().configure(&lines);
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    farm.wait_in_sync();
    fs::write(&down, "").unwrap();
    let sync = ["sync", "manager", "--timeout", "60s"];
    let failed = farm.manager().command(&sync).exits(5);
    failed.says(&["set web: check:", "bellwether rollback", "bellwether sync manager"]);
    farm.wait_server(farm.manager(), "in error", |shown| shown.state == State::Error);
    fs::remove_file(&down).unwrap();
    let done = farm.manager().command(&sync).success();
    assert!(done.stdout.contains("in sync at 1.1: manager"), "{done}");
    farm.wait_in_sync();
    // Files that a command refuses are not what the service is to take.
    farm.manager().write("index.html", "bad");
    unpublished(&farm, &["set web: validate:"]);
    farm.manager().command(&sync).exits(5).says(&["nothing was reloaded: set web: validate:", "bellwether discard"]);
    farm.manager().command(&["discard", "--yes"]).success();
    farm.manager().command(&sync).success();
    farm.wait_in_sync();
}

#[test]
fn what_the_revision_has_is_served_again_after_edits_were_put_back() {
    let farm = farm(service);
    let member = farm.member(1);
    member.write("index.html", "mine");
    farm.wait_server(member, "drifted", |shown| shown.drift_entries == 1);
    run(Command::new("cp").arg(member.web("index.html")).arg(member.home.join("served"))).success();
    member.command(&["drift", "revert", "member1", "--yes"]).success();
    serves(member, "one");
    farm.wait_in_sync();
}

/// A server that cannot take the head by waiting is not waited for.
#[test]
fn a_server_that_refused_the_head_is_not_promoted_and_the_reason_is_said_at_once() {
    let mut farm = farm(service);
    farm.manager().write("index.html", "bad");
    refused(&farm, farm.member(1));
    let promote = ["promote", "member1"];
    let words =
        ["it refused the head, 1.2", "set web: validate:", "manager is still the manager", "bellwether sync member1"];
    let said = farm.manager().command(&promote).refused().says(&words);
    assert!(!said.stderr.contains("waited"), "{said}");
    farm.server_mut(1).stop();
    farm.server_mut(1).start();
    refused(&farm, farm.member(1));
    let said = farm.manager().command(&promote).refused().says(&words);
    assert!(!said.stderr.contains("waited"), "{said}");
    farm.manager().write("index.html", "good");
    farm.wait_equal();
    farm.manager().command(&promote).success();
}

/// What cannot work is said before a revision finds it out: by doctor, and at the start.
#[test]
fn doctor_and_the_start_of_the_agent_look_at_the_commands_of_a_set() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "one"));
    let lines = |manager: &Server, validate: &str| {
        let lines = format!(
            "validate = {validate}\nreload = {{ run = 'true', user = 'no-such-user' }}\ncheck = 'workers:/nowhere/pid'"
        );
        manager.configure(&lines);
    };
    let before = fs::read_to_string(farm.manager().config()).unwrap();
    lines(farm.manager(), "'no-such-program -t'");
    let doctor = farm.manager().command(&["doctor"]).exits(1);
    let doctor = doctor.says(&[
        "FAIL set web: validate: `no-such-program -t`: the program no-such-program is not there",
        "FAIL set web: reload: this server has no user 'no-such-user'",
        "warn set web: check: /nowhere/pid is not there",
    ]);
    // Who may mount has a view of the new files; whoever may not is told.
    let may_mount = run(Command::new("unshare").args(["-m", "true"])).code == Some(0);
    doctor.says(&[if may_mount {
        "ok   set web: validate can see the new files"
    } else {
        "warn set web: validate runs after the switch"
    }]);
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    wait_for("the words of the start", DEADLINE, || {
        let log = farm.manager().read_log();
        let words = ["the set has commands", "the program no-such-program is not there", "no user 'no-such-user'"];
        words.iter().all(|word| log.contains(word)).then_some(()).ok_or(log)
    });
    // A key that is not known is named with the file and the ones that are.
    fs::write(farm.manager().config(), before).unwrap();
    lines(farm.manager(), "{ run = 'true', tiemout = '1s' }");
    let words = ["agent.toml: [[set]] number 1: validate: there is no key 'tiemout'; the keys are: run, user, timeout"];
    farm.manager().command(&["doctor"]).exits(1).says(&words);
    farm.server_mut(0).stop();
    farm.manager().command(&["serve"]).exits(2).says(&words);
}

/// Where mounts are denied, doctor says what happens instead.
#[test]
fn doctor_says_where_validate_cannot_have_mounts_of_its_own() {
    let deny = ["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
    if run(Command::new("setpriv").args(deny).arg("true")).code != Some(0) {
        skip("doctor without mounts", "only root can give a capability away");
        return;
    }
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "one"));
    farm.member(1).configure("validate = 'true'");
    let doctor = |member: &Server| {
        let mut command = Command::new("setpriv");
        let doctor = member.prepared(&["doctor"]);
        run(command.args(deny).arg(doctor.get_program()).args(doctor.get_args()))
    };
    doctor(farm.member(1))
        .says(&["warn set web: validate runs after the switch and before any reload", "CAP_SYS_ADMIN"]);
}

#[test]
fn a_member_that_validates_slowly_holds_up_the_others_no_longer_than_the_stage_timeout() {
    let farm =
        farm(|server| format!("validate = \"while [ -e {}/slow ]; do sleep 0.02; done\"", server.home.display()));
    farm.manager().command(&["group", "set", "--stage-timeout", "200ms"]).success();
    let slow = farm.member(1).home.join("slow");
    fs::write(&slow, "").expect("written");
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.member(2));
    assert_eq!(fs::read_to_string(farm.member(1).web("index.html")).unwrap(), "one", "it validates still");
    fs::remove_file(&slow).expect("removed");
    farm.wait_equal();
}

#[test]
fn a_manager_that_is_killed_lets_no_member_switch_to_what_was_not_validated_everywhere() {
    // The first member refuses what has the word `bad`, after a time; the second one takes everything.
    let mut farm = farm(|server| {
        let (home, set) = (server.home.display(), server.set("web").display());
        format!("validate = \"while [ -e {home}/slow ]; do sleep 0.02; done; ! grep -n bad {set}/index.html\"")
    });
    let slow = farm.member(1).home.join("slow");
    fs::write(&slow, "").expect("written");
    farm.manager().command(&["group", "set", "--stage-timeout", "1m"]).success();
    farm.manager().write("index.html", "bad");
    farm.wait_status("the staging", |status| status.rollout.is_some());
    let kill = |farm: &mut Farm| {
        farm.server_mut(0).kill();
        farm.server_mut(0).start();
    };
    let untouched = |farm: &Farm| assert_eq!(fs::read_to_string(farm.member(2).web("index.html")).unwrap(), "one");
    kill(&mut farm);
    farm.wait_status("the staging again", |status| {
        status.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Staging)
    });
    untouched(&farm);
    fs::remove_file(&slow).expect("removed");
    let stopped = |status: &FarmStatus| {
        status.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Stopped && rollout.untouched)
    };
    farm.wait_status("the stop", stopped);
    kill(&mut farm);
    farm.wait_status("the stop after a restart", stopped);
    farm.wait_server(farm.member(2), "back", |shown| shown.revision.is_some());
    untouched(&farm);
    farm.manager().write("index.html", "two");
    farm.wait_equal();
}

#[test]
fn a_rollback_passes_all_refused_revisions() {
    let farm = farm(service);
    serves(farm.member(1), "one");
    for (content, revision) in [("bad", "1.2"), ("bad again", "1.3")] {
        farm.manager().write("index.html", content);
        farm.wait_status("the stop", |status| {
            let stopped = |rollout: &RolloutStatus| rollout.untouched && rollout.revision.to_string() == revision;
            status.rollout.as_ref().is_some_and(stopped)
        });
    }
    let would = farm.manager().command(&["rollback", "--dry-run"]).success();
    assert!(would.stdout.contains("1.1"), "{would}");
    farm.manager().command(&["rollback", "--yes"]).success();
    farm.wait_equal();
    serves(farm.member(1), "one");
    assert_eq!(fs::read_to_string(farm.manager().web("index.html")).unwrap(), "one");
}

#[test]
fn a_member_that_is_far_behind_switches_once_whatever_the_sizes_are() {
    let mut farm = farm(service);
    serves(farm.member(1), "one");
    farm.server_mut(1).stop();
    farm.member(1).write("note.html", "mine");
    let before = fs::read_to_string(farm.member(1).home.join("validations")).unwrap_or_default().lines().count();
    // A whole tree is soon shorter than the changes, so the way begins with a base.
    let mut random = Random::seeded();
    for round in 0..8 {
        let large: Vec<u8> = (0..1 << 18).flat_map(|_| random.number().to_le_bytes()).collect();
        farm.manager().write("large.bin", large);
        farm.manager().write("index.html", format!("round {round}"));
        farm.wait_same(farm.member(2));
    }
    farm.server_mut(1).start();
    farm.wait_server(farm.member(1), "at the head", |shown| shown.revision == farm.status().head);
    serves(farm.member(1), "round 7");
    assert_eq!(fs::read_to_string(farm.member(1).web("note.html")).unwrap(), "mine", "the edit beside stays");
    let after = fs::read_to_string(farm.member(1).home.join("validations")).unwrap().lines().count();
    assert!(after <= before + 2, "{before} validations, then {after}: it switches once, or was overtaken once");
}
