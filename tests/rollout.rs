//! Rollouts in waves: a canary, batches, failures that stop a revision, and the way back.

use std::fs;

use bellwether_proto::status::{FarmStatus, RolloutState, RolloutStatus};

use crate::farm::{DEADLINE, Farm, Server, wait_for};

/// A farm of four members under that policy. On a member a file fails the check that has the word `bad` and the member's name.
/// Each member notes the content of every revision that it stages, and its check waits as long as its file `slow` is there.
fn farm(policy: &[&str]) -> Farm {
    let mut farm = Farm::plan().members(4).unformed();
    farm.manager().write("index.html", "one");
    farm.form();
    for index in 1..=4 {
        let token = farm.token(&[]);
        let member = farm.server_mut(index);
        member.join(&token).success();
        let (name, home, set) = (member.name.clone(), member.home.display(), member.set("web").display());
        let lines = format!(
            "validate = \"cat {set}/index.html >> {home}/seen\"\n\
             reload = \"while [ -e {home}/slow ]; do sleep 0.02; done\"\n\
             check = {{ probe = \"! grep 'bad.*{name}' {set}/index.html\", retries = 1, interval = '10ms' }}"
        );
        member.configure(&lines);
        member.start();
    }
    farm.wait_in_sync();
    farm.manager().command(&[&["group", "set"], policy].concat()).success();
    farm
}

/// The rollout, once it `fits`.
fn wait_rollout(farm: &Farm, what: &str, fits: impl Fn(&RolloutStatus) -> bool) -> RolloutStatus {
    let is = |status: &FarmStatus| status.rollout.clone().filter(&fits);
    wait_for(what, DEADLINE, || {
        let status = farm.manager().status()?;
        is(&status).ok_or_else(|| format!("{:?}, unpublished {:?}", status.rollout, status.unpublished))
    })
}

/// The contents that a member has staged, one after the other.
fn seen(member: &Server) -> String {
    fs::read_to_string(member.home.join("seen")).unwrap_or_default()
}

fn content(server: &Server) -> String {
    fs::read_to_string(server.web("index.html")).expect("the file")
}

fn names(servers: &[bellwether_proto::name::ServerName]) -> Vec<&str> {
    servers.iter().map(|server| server.as_str()).collect()
}

#[test]
fn a_revision_that_fails_at_the_canary_comes_to_no_other_member_and_is_taken_back() {
    let farm = farm(&["--canary", "1", "--batch", "50%"]);
    farm.manager().write("index.html", "two");
    wait_rollout(&farm, "the first revision at all", |rollout| rollout.state == RolloutState::Done);
    farm.wait_equal();
    farm.manager().write("index.html", "bad member1");
    let back = wait_rollout(&farm, "the revision taken back", |rollout| rollout.state == RolloutState::TakenBack);
    assert_eq!(back.taken_back.map(|of| of.to_string()).as_deref(), Some("1.3"));
    let status = farm.wait_equal();
    assert_eq!((status.head.map(|head| head.to_string()), content(farm.manager())), (Some("1.4".into()), "two".into()));
    assert!(status.head_message.starts_with("taken back: 1.3: 1 server failed: member1:"), "{}", status.head_message);
    assert!(seen(farm.member(1)).contains("bad"), "it was the canary");
    for index in 2..=4 {
        assert_eq!(content(farm.member(index)), "two");
        assert!(seen(farm.member(index)).contains("bad"), "member{index} has validated it before the canary switched");
    }
    let waited = farm.manager().command(&["wait", "--revision", "1.3", "--timeout", "60s"]);
    assert!(waited.code == Some(1) && waited.stderr.contains("1.4 has the content from before 1.3"), "{waited}");
    let shown = farm.manager().command(&["show", "1.4"]).success();
    assert!(shown.stdout.contains("taken-back"), "{shown}");
    farm.manager().write("index.html", "three");
    wait_rollout(&farm, "the next revision at all", |rollout| rollout.state == RolloutState::Done);
    farm.wait_equal();
}

/// The manager's service is the first one that has the files.
#[test]
fn a_failure_of_the_managers_own_commands_stops_the_waves_like_one_of_a_member() {
    let mut farm = farm(&["--canary", "1", "--batch", "50%", "--soak", "10m"]);
    let set = farm.manager().set("web").display().to_string();
    let check = format!("check = {{ probe = \"! grep 'bad.*manager' {set}/index.html\", retries = 0 }}");
    farm.manager().configure(&check);
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    farm.wait_in_sync();
    farm.manager().write("index.html", "bad manager");
    let back = wait_rollout(&farm, "the revision taken back", |rollout| rollout.state == RolloutState::TakenBack);
    assert_eq!(back.taken_back.map(|of| of.to_string()).as_deref(), Some("1.2"));
    let status = farm.wait_equal();
    let message = status.head_message;
    assert!(message.starts_with("taken back: 1.2: 1 server failed: manager: set web: check:"), "{message}");
    assert_eq!(content(farm.manager()), "one");
    for index in 2..=4 {
        assert_eq!(content(farm.member(index)), "one");
    }
}

#[test]
fn the_second_failure_in_a_wave_stops_it_and_only_a_person_publishes_then() {
    let policy = ["--canary", "1", "--batch", "50%", "--stop-at", "2", "--no-take-back"];
    let farm = farm(&policy);
    farm.manager().write("index.html", "bad member2 member3");
    let stopped = wait_rollout(&farm, "the stop", |rollout| rollout.state == RolloutState::Stopped);
    assert_eq!((stopped.wave, stopped.waves, names(&stopped.failed)), (2, 3, vec!["member2", "member3"]));
    assert_eq!(stopped.next.as_deref(), Some("bellwether rollout continue, or: bellwether rollback"));
    let waited = farm.manager().command(&["wait", "--timeout", "60s"]);
    assert!(waited.code == Some(1) && waited.stderr.contains("the rollout of 1.2 is stopped: 2 servers"), "{waited}");
    farm.manager().write("index.html", "fine");
    let held = farm.wait_status("the edit held", |status| status.unpublished.is_some());
    let why = held.unpublished.unwrap_or_default();
    assert!(why.contains("the rollout of 1.2 is stopped"), "{why}");
    let put = farm.manager().command_with_input(&["put", "web:other.html", "--yes"], "mine");
    assert!(put.code == Some(3) && put.stderr.contains("the rollout of 1.2 is stopped"), "{put}");
    let all = farm.manager().command(&["sync"]);
    assert!(all.code == Some(3) && all.stderr.contains("no server was asked"), "{all}");
    let status = farm.manager().command(&["status"]);
    assert!(status.stdout.contains("rollout of 1.2 · stopped in wave 2 of 3"), "{status}");
    farm.manager().command(&["publish", "--message", "fixed"]).success();
    wait_rollout(&farm, "the correction at all", |rollout| rollout.state == RolloutState::Done);
    farm.wait_equal();
    // A person's rollback goes to all at once, although the next wave would have to wait.
    farm.manager().command(&["group", "set", "--soak", "1h", "--stop-at", "1"]).success();
    farm.manager().write("index.html", "bad member1");
    wait_rollout(&farm, "another stop", |rollout| rollout.state == RolloutState::Stopped);
    farm.manager().command(&["rollback", "--yes"]).success();
    wait_rollout(&farm, "the way back", |rollout| rollout.state == RolloutState::TakenBack);
    farm.wait_equal();
    assert_eq!(content(farm.member(4)), "fine");
}

#[test]
fn a_manager_that_is_killed_in_the_second_wave_goes_on_there() {
    let mut farm = farm(&["--canary", "1", "--batch", "50%"]);
    let slow = farm.member(2).home.join("slow");
    fs::write(&slow, "").expect("written");
    farm.manager().write("index.html", "two");
    wait_rollout(&farm, "the second wave", |rollout| rollout.wave == 2);
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    let now = wait_rollout(&farm, "the rollout again", |_| true);
    assert_eq!((now.wave, now.state), (2, RolloutState::Running));
    assert_eq!(content(farm.member(4)), "one", "it is in the third wave");
    fs::remove_file(&slow).expect("removed");
    wait_rollout(&farm, "the end", |rollout| rollout.state == RolloutState::Done);
    farm.wait_equal();
}

#[test]
fn a_person_stops_and_continues_it_and_a_member_that_was_late_catches_up() {
    let mut farm = farm(&["--canary", "1", "--batch", "50%", "--soak", "1h"]);
    let decide = |farm: &Farm, what: &str| farm.manager().command(&["rollout", what]);
    let over = decide(&farm, "stop");
    assert!(over.code == Some(3) && over.stderr.contains("nothing was changed"), "{over}");
    farm.server_mut(3).stop();
    farm.manager().write("index.html", "two");
    wait_rollout(&farm, "the soak of the canary", |rollout| rollout.state == RolloutState::Soaking);
    decide(&farm, "stop").success();
    let stopped = wait_rollout(&farm, "the stop", |rollout| rollout.state == RolloutState::Stopped);
    assert!(stopped.reason.is_some_and(|reason| reason.contains("stopped it")));
    farm.server_mut(0).kill();
    farm.manager().write("other.html", "edited meanwhile");
    farm.server_mut(0).start();
    farm.wait_status("the edit held", |status| status.unpublished.is_some());
    wait_rollout(&farm, "the stop after a restart", |rollout| rollout.state == RolloutState::Stopped);
    let again = decide(&farm, "stop").success();
    assert!(again.stdout.contains("stopped already"), "{again}");
    assert_eq!(farm.status().head.map(|head| head.to_string()).as_deref(), Some("1.2"));
    decide(&farm, "continue").success();
    let soaks = |rollout: &RolloutStatus| rollout.state == RolloutState::Soaking && rollout.revision.sequence == 3;
    wait_rollout(&farm, "the soak of the edit that was held", soaks);
    assert_eq!(content(farm.member(2)), "one");
    farm.manager().command(&["group", "set", "--soak", "0s"]).success();
    let done = wait_rollout(&farm, "the end", |rollout| rollout.state == RolloutState::Done);
    assert_eq!((done.holding, names(&done.late)), (3, vec!["member3"]));
    let shown = decide(&farm, "show").success();
    assert!(shown.stdout.contains("late: member3"), "{shown}");
    farm.server_mut(3).start();
    farm.wait_equal();
    farm.manager().command(&["group", "set", "--all-at-once"]).success();
    farm.wait_status("no waves", |status| status.rollout.is_none());
    farm.manager().write("index.html", "three");
    farm.wait_equal();
}
