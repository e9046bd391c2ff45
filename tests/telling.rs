//! A member's view of the farm: its own state, and the manager's report of the others with its age.

use bellwether_proto::status::{FarmStatus, State};
use rustix::process::Signal;

use crate::farm::{DEADLINE, Farm, Server, get, wait_for};

fn ask(server: &Server, path: &str) -> Result<String, String> {
    get(&server.http, path)?.ok()
}

fn status(server: &Server) -> Result<FarmStatus, String> {
    serde_json::from_str(&ask(server, "/status")?).map_err(|e| e.to_string())
}

#[test]
fn w15_a_member_shows_the_others_as_its_manager_told_them_with_the_age() {
    let farm = Farm::plan().members(2).start();
    let member = farm.member(1);
    let all_in_sync =
        |status: &FarmStatus| status.servers.len() == 3 && status.servers.iter().all(|s| s.state == State::InSync);
    let told = wait_for("the manager's word", DEADLINE, || {
        let status = status(member)?;
        if all_in_sync(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    });
    assert_eq!((told.observer.as_str(), told.manager.as_str()), ("member1", "manager"));
    let first_ms = told.told_ms.expect("when it was told");
    assert_eq!(told.sets.len(), 1, "what only the manager knows");
    assert_eq!(status(farm.manager()).expect("the manager's own").told_ms, None);

    farm.manager().signal(Signal::STOP);
    // The last report stays, with its age; the others do not become "unknown" with a lag.
    let frozen = wait_for("an older word", DEADLINE, || {
        let status = status(member)?;
        let age_ms = status.time_ms.saturating_sub(status.told_ms.ok_or("nothing told")?);
        if age_ms > 2_000 { Ok(status) } else { Err(format!("{age_ms} ms old")) }
    });
    assert!(all_in_sync(&frozen) && frozen.told_ms.is_some_and(|ms| ms >= first_ms), "{frozen:?}");
    member
        .command(&["status"])
        .success()
        .says(&["member1 as it knows itself", "the others as the manager, manager, told"]);
    // The command waits for other servers while no manager reports their present state.
    member.command(&["wait", "--servers", "member2", "--timeout", "4s"]).exits(4).says(&["member2: not known here"]);
    farm.manager().signal(Signal::CONT);
    wait_for("a new word", DEADLINE, || match status(member)?.told_ms {
        Some(ms) if Some(ms) > frozen.told_ms => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn w15_each_server_is_exported_by_who_observes_it() {
    let farm = Farm::plan().members(2).start();
    let named = |server: &Server| -> Vec<String> {
        let metrics = ask(server, "/metrics").expect("metrics");
        let lines = metrics.lines().filter(|line| line.starts_with("bellwether_server_state") && line.ends_with(" 1"));
        lines.map(|line| line.split('"').nth(1).expect("a server").to_owned()).collect()
    };
    assert_eq!(named(farm.manager()), ["manager", "member1", "member2"]);
    assert_eq!(named(farm.member(1)), ["member1"]);
    for server in [farm.manager(), farm.member(1)] {
        let metrics = ask(server, "/metrics").expect("metrics");
        assert!(!metrics.contains("state=\"unknown\"} 1"), "{metrics}");
    }
}

#[test]
fn w15_a_member_that_was_told_nothing_says_so_without_a_lag() {
    let mut farm = Farm::plan().members(2).start();
    farm.server_mut(0).kill();
    farm.server_mut(1).stop();
    farm.server_mut(1).start();
    let status = status(farm.member(1)).expect("a status");
    assert_eq!(status.told_ms, None);
    for server in status.servers.iter().filter(|server| server.name.as_str() != "member1") {
        assert_eq!((server.state, server.lag_revisions, server.lag_ms), (State::Unknown, 0, 0), "{server:?}");
    }
}
