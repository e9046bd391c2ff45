//! Revisions that somebody has to confirm: every server goes back by itself if nobody does.

use std::{fs, time::Duration};

use bellwether_proto::status::State;
use rustix::process::Signal;

use crate::farm::{DEADLINE, Farm, Server, wait_for};

/// A farm of two members with a service, whose directory has the content `one`.
fn farm() -> Farm {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "one");
    farm.form();
    for index in 1..=2 {
        let token = farm.token(&[]);
        let member = farm.server_mut(index);
        member.join(&token).success();
        let (home, set) = (member.home.display(), member.set("web").display());
        member.configure(&format!(
            "reload = \"cp {set}/index.html {home}/served.new && mv {home}/served.new {home}/served\""
        ));
        member.start();
    }
    farm.wait_in_sync();
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    farm
}

/// Publishes `two`, which is to be confirmed within ten seconds.
fn publish(farm: &Farm) {
    farm.manager().write("index.html", "two");
    let published = farm.manager().command(&["publish", "--confirm-within", "10s", "--wait", "all"]).success();
    assert!(
        published.stdout.contains("goes back to the revision before in 10s, unless: bellwether confirm 1.2"),
        "{published}"
    );
}

fn serves(server: &Server, content: &str) {
    let served = || fs::read_to_string(server.home.join("served")).unwrap_or_default();
    let what = format!("{} serving {content:?}", server.name);
    wait_for(&what, DEADLINE, || if served() == content { Ok(()) } else { Err(served()) });
    assert_eq!(fs::read_to_string(server.web("index.html")).unwrap(), content);
}

#[test]
fn what_nobody_confirms_is_taken_back_and_until_then_nothing_else_is_published() {
    let farm = farm();
    let nothing = farm.manager().command(&["confirm"]);
    assert!(nothing.code == Some(3) && nothing.stderr.contains("was not published with --confirm-within"), "{nothing}");
    publish(&farm);
    let status = farm.manager().command(&["status"]);
    assert!(status.stdout.contains("unless: bellwether confirm 1.2"), "{status}");
    farm.manager().command(&["group", "set", "--publish", "auto"]).success();
    let put = farm.manager().command_with_input(&["put", "web:other.html", "--yes"], "mine");
    assert!(put.code == Some(3) && put.stderr.contains("1.2 waits for its confirmation"), "{put}");
    let promote = farm.manager().command(&["promote", &farm.member(1).name, "--yes"]);
    assert!(promote.code != Some(0) && promote.stderr.contains("1.2 waits for its confirmation"), "{promote}");
    let named = farm.manager().command(&["confirm", "1.1"]);
    assert!(named.code == Some(3) && named.stderr.contains("the newest revision is 1.2, not 1.1"), "{named}");
    let status = farm.wait_status("the way back", |status| status.head.is_some_and(|head| head.to_string() == "1.3"));
    assert!(
        status.head_message.starts_with("taken back: 1.2: nobody confirmed 1.2 in time"),
        "{}",
        status.head_message
    );
    farm.wait_equal();
    for server in [farm.member(1), farm.member(2)] {
        serves(server, "one");
    }
    let late = farm.manager().command(&["confirm", "1.2"]);
    assert_eq!(late.code, Some(3), "{late}");
    farm.manager().write("index.html", "three");
    farm.wait_equal();
}

#[test]
fn a_revision_that_is_confirmed_stays() {
    let farm = farm();
    publish(&farm);
    let would = farm.manager().command(&["confirm", "--dry-run"]).success();
    assert!(would.stdout.contains("would confirm 1.2"), "{would}");
    farm.manager().command(&["confirm", "1.2"]).success();
    let again = farm.manager().command(&["confirm"]).success();
    assert!(again.stdout.contains("confirmed already"), "{again}");
    let kept = |server: &Server| server.command(&["debug", "position"]).stdout.contains("until_ms_since_boot");
    for server in [farm.member(1), farm.member(2)] {
        let look = || if kept(server) { Err("it waits".to_owned()) } else { Ok(()) };
        wait_for("the confirmation on the disk", DEADLINE, look);
        serves(server, "two");
    }
    let status = farm.wait_in_sync();
    assert!(status.rollout.is_none(), "{:?}", status.rollout);
    assert_eq!(status.head.map(|head| head.to_string()).as_deref(), Some("1.2"));
}

#[test]
fn without_a_manager_every_member_goes_back_by_itself() {
    let mut farm = farm();
    publish(&farm);
    farm.server_mut(0).kill();
    // One is killed in the middle of its way back.
    farm.server_mut(2).stop();
    farm.server_mut(2).start_with(&[("BELLWETHER_FAILPOINT", "member.returning")]);
    wait_for("the kill on the way back", DEADLINE, || {
        farm.server_mut(2).ended().map(drop).ok_or_else(|| "it runs".to_owned())
    });
    farm.server_mut(2).kill();
    farm.server_mut(2).start();
    for index in [1, 2] {
        serves(farm.member(index), "one");
    }
    farm.server_mut(0).start();
    let status = farm.wait_equal();
    assert_eq!(status.head.map(|head| head.to_string()).as_deref(), Some("1.3"), "the content from before");
    for index in [1, 2] {
        serves(farm.member(index), "one");
    }
}

#[test]
fn a_member_that_missed_the_confirmation_goes_back_and_is_brought_forward_again() {
    let mut farm = farm();
    publish(&farm);
    farm.server_mut(1).stop();
    farm.manager().command(&["confirm"]).success();
    // The other member has the confirmation, too, and would tell.
    farm.server_mut(2).stop();
    farm.server_mut(0).stop();
    farm.server_mut(1).start();
    serves(farm.member(1), "one");
    farm.server_mut(0).start();
    farm.wait_server(farm.member(1), "at the confirmed revision", |shown| {
        shown.state == State::InSync && shown.revision.is_some_and(|at| at.to_string() == "1.2")
    });
    serves(farm.member(1), "two");
}

#[test]
fn a_member_that_was_suspended_over_the_confirmation_comes_forward_again() {
    let farm = farm();
    publish(&farm);
    let member = farm.member(1);
    member.signal(Signal::STOP);
    farm.manager().command(&["confirm"]).success();
    std::thread::sleep(Duration::from_secs(11));
    member.signal(Signal::CONT);
    // It has gone back, or has heard of the confirmation before that; either way it is at the confirmed revision in the end.
    wait_for("the confirmed revision, for good", DEADLINE, || {
        let position = member.command(&["debug", "position"]).stdout;
        let (live, served) =
            (fs::read_to_string(member.web("index.html")), fs::read_to_string(member.home.join("served")));
        let (live, served) = (live.unwrap_or_default(), served.unwrap_or_default());
        let there = !position.contains("until_ms_since_boot") && position.contains("\"1.2\"");
        if there && live == "two" && served == "two" { Ok(()) } else { Err(format!("{live}, {served}, {position}")) }
    });
    farm.wait_server(member, "in sync", |shown| shown.state == State::InSync);
}
