//! `debug`: the inside of a running farm, for maintainers.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;

use crate::farm::{DEADLINE, Farm, Server, wait_for};

fn shown(server: &Server, arguments: &[&str]) -> Value {
    let output = server.command(&[&["debug"], arguments].concat()).success();
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e} in: {output}"))
}

/// The names in the state directory and in its history.
fn names(server: &Server) -> BTreeMap<PathBuf, u64> {
    let directories = [server.state(), server.state().join("history")];
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).expect("a directory"));
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        (entry.path(), entry.metadata().expect("its stat").len())
    };
    entries.map(entry).filter(|(path, _)| path.is_file()).collect()
}

#[test]
fn the_disk_of_a_running_agent_is_shown_and_stays_as_it_is() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "first"));
    farm.manager().write("a.conf", "second");
    farm.wait_same(farm.member(1));
    let head = farm.wait_in_sync().head.expect("a head").to_string();
    let member = farm.member(1);
    // The report comes before the end of the switch is noted.
    wait_for("the end of the switch", DEADLINE, || match &shown(member, &["journal"])["under_way"] {
        Value::Bool(false) => Ok(()),
        other => Err(other.to_string()),
    });
    let before = names(member);
    assert_eq!(shown(member, &["position"])["at"]["revision"], head.as_str());
    let packs = shown(member, &["history"])["packs"].as_array().expect("packs").clone();
    let newest = packs.last().expect("a pack");
    assert_eq!(newest["revision"], head.as_str());
    let pack = shown(member, &["pack", newest["file"].as_str().expect("a name")]);
    let mut heads = pack["frames"].as_array().expect("frames").iter().map(|frame| &frame["head"]["header"]["id"]);
    assert!(heads.any(|id| *id == newest["id"]), "the file holds it: {pack:#}");
    assert_eq!(shown(member, &["record"])["current"]["record"]["servers"][0]["name"], "manager");
    shown(member, &["state"]);
    assert_eq!(names(member), before);

    farm.manager().write("a.conf", "third");
    farm.wait_same(member);
    farm.wait_equal();
}

#[test]
fn a_running_agent_tells_its_tasks_queues_and_lanes() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "first"));
    let head = farm.wait_in_sync().head.expect("a head").to_string();
    let have = |dump: &Value, names: &[&str]| {
        let tasks = dump["tasks"].as_array().expect("tasks");
        for name in names {
            assert!(tasks.iter().any(|task| task["name"] == *name && task["state"] == "running"), "{name}: {dump:#}");
        }
    };
    wait_for("an idle lane at the head", DEADLINE, || {
        let dump = shown(farm.manager(), &["dump"]);
        have(&dump, &["role", "publisher", "lanes", "watch", "status", "admin socket"]);
        assert_eq!((&dump["standing"], &dump["role"]["head"]), (&"manager".into(), &head.as_str().into()));
        let lane = &dump["role"]["lanes"][0];
        let idle = lane["server"] == "member1" && lane["phase"] == "idle" && lane["at"] == head.as_str();
        if idle { Ok(()) } else { Err(format!("{lane:#}")) }
    });
    let dump = shown(farm.member(1), &["dump"]);
    have(&dump, &["role", "member", "status"]);
    assert_eq!((&dump["standing"], &dump["at"]), (&"member".into(), &head.as_str().into()));
    assert_eq!(
        (&dump["role"]["queues"][0]["name"], &dump["role"]["queues"][0]["capacity"]),
        (&"member".into(), &4.into())
    );
}

/// The lines of that server's log from modules with this prefix.
fn lines(server: &Server, module: &str) -> Vec<String> {
    let log = server.read_log();
    log.lines().filter(|line| line.contains(&format!(" {module}"))).map(str::to_owned).collect()
}

#[test]
fn a_line_of_the_log_names_the_server_the_revision_or_the_procedure_that_it_is_about() {
    const FILTER: &[(&str, &str)] = &[("BELLWETHER_LOG", "info,bellwether=debug,bellwether_manager=debug")];
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "first"));
    for server in 0..2 {
        farm.server_mut(server).stop();
        farm.server_mut(server).start_with(FILTER);
    }
    farm.wait_in_sync();
    farm.manager().write("a.conf", "second");
    farm.wait_same(farm.member(1));
    farm.manager().command(&["maintenance", "start", "member2", "--yes"]).success();
    let head = farm.status().head.expect("a head").to_string();
    let revision = format!("revision{{revision={head}}}");

    let lanes = lines(farm.manager(), "bellwether_manager::lane:");
    let lanes = [lanes, lines(farm.manager(), "bellwether_manager::lane::")].concat();
    assert!(lanes.len() > 4, "{lanes:#?}");
    for line in &lanes {
        assert!(line.contains("lane{server=member"), "no server: {line}");
        let about = ["begun", "reported"].iter().any(|word| line.contains(&format!(": {word}")));
        assert!(!about || line.contains(":revision{revision="), "no revision: {line}");
    }
    assert!(lanes.iter().any(|line| line.contains(&format!("lane{{server=member1}}:{revision}"))), "{lanes:#?}");
    let published = lines(farm.manager(), "bellwether_manager::publish::publisher: published");
    assert!(published.iter().any(|line| line.contains(&format!("publish{{revision={head}}}"))), "{published:#?}");
    let steps = lines(farm.manager(), "bellwether_manager::procedures::runner:");
    assert!(!steps.is_empty() && steps.iter().all(|line| line.contains("procedure{procedure=p1}")), "{steps:#?}");

    let applied = lines(farm.member(1), "bellwether_member::switch:");
    assert!(!applied.is_empty() && applied.iter().all(|line| line.contains("apply{revision=")), "{applied:#?}");
    assert!(applied.iter().any(|line| line.contains(&format!("apply{{revision={head}}}"))), "{applied:#?}");
    let streams = lines(farm.member(1), "bellwether_daemon::net::push:");
    assert!(!streams.is_empty() && streams.iter().all(|line| line.contains("stream{server=manager}")), "{streams:#?}");
}
