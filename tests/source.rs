//! `source`: a set of the manager is edited in a directory of its own, and its live path is the first that a revision is switched to.

use std::{fs, path::PathBuf, process::Command};

use bellwether_manager::failpoints::LIVE;
use bellwether_proto::status::{FarmStatus, State};
use bellwether_skip::skip;
use bellwether_store::failpoint::APPLY;

use crate::farm::{DEADLINE, Farm, Server, compare, one, run, wait_for};

/// Where the set `web` of a server is edited.
fn source(server: &Server) -> PathBuf {
    server.home.join("git")
}

fn write(server: &Server, file: &str, content: &str) {
    let beside = server.home.join("being written");
    fs::write(&beside, content).expect("written");
    fs::rename(&beside, source(server).join(file)).expect("in its place");
}

fn content(server: &Server, file: &str) -> String {
    fs::read_to_string(server.web(file)).unwrap_or_else(|error| error.to_string())
}

fn edited(server: &Server, file: &str) -> String {
    fs::read_to_string(source(server).join(file)).unwrap_or_else(|error| error.to_string())
}

/// Commands of a service that takes no file with the word `bad`, and does not work with the word `broken`. What they see and serve
/// is in the server's directory.
fn service(server: &Server) -> String {
    let (home, set) = (server.home.display(), server.set("web").display());
    format!(
        "validate = \"cat {set}/index.html >> {home}/seen; ! grep -n bad {set}/index.html\"\n\
         reload = \"cp {set}/index.html {home}/served; echo >> {home}/reloads\"\n\
         check = {{ probe = \"! grep -n broken {home}/served\", retries = 1, interval = '10ms' }}"
    )
}

fn served(server: &Server) -> String {
    fs::read_to_string(server.home.join("served")).unwrap_or_default()
}

/// Gives a server a source of its set, which holds what is at the set's path, and these lines.
fn configure(server: &Server, lines: &str) {
    run(Command::new("cp").arg("-a").arg(server.set("web")).arg(source(server))).success();
    server.configure(&format!("source = \"{}\"\n{lines}", source(server).display()));
}

/// A farm with one member, whose manager has a source, and runs these commands.
fn farm(lines: fn(&Server) -> String) -> Farm {
    let mut farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("index.html", "one");
        manager.write("other.html", "other");
    });
    farm.wait_equal();
    farm.server_mut(0).stop();
    let lines = lines(farm.manager());
    configure(farm.manager(), &lines);
    farm.server_mut(0).start();
    farm.wait_in_sync();
    farm
}

fn none(_: &Server) -> String {
    String::new()
}

/// Waits until the source, the live path and the member hold the same.
fn wait_all_equal(farm: &Farm) -> FarmStatus {
    wait_for("the live path as the source", DEADLINE, || {
        match compare::difference(&source(farm.manager()), farm.manager().set("web")) {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    });
    farm.wait_equal()
}

/// Recovers what a killed agent has left. A command that it was starting when it died has its lock for a moment.
fn recover_only(server: &Server) {
    wait_for("the recovery", DEADLINE, || {
        let output = server.recover_only();
        if output.code == Some(0) { Ok(()) } else { Err(output.to_string()) }
    });
}

fn unpublished(farm: &Farm, words: &str) -> String {
    let status = farm.wait_status(&format!("unpublished: {words}"), |status| {
        status.unpublished.as_ref().is_some_and(|why| why.contains(words))
    });
    status.unpublished.expect("it was just there")
}

#[test]
fn an_edit_of_the_source_goes_to_the_live_path_and_then_to_the_members() {
    let farm = farm(service);
    let manager = farm.manager();
    write(manager, "index.html", "two");
    write(manager, "new.html", "new");
    let status = wait_all_equal(&farm);
    assert_eq!((served(manager), content(farm.member(1), "new.html")), ("two".to_owned(), "new".to_owned()));
    assert!(one(&status, "manager").is_some_and(|manager| manager.drift_entries == 0));
    // Commands write to the source, and so to the live path.
    farm.member(1).command_with_input(&["put", "web:index.html"], "three").success();
    assert_eq!((edited(manager, "index.html"), content(manager, "index.html")), ("three".into(), "three".into()));
    manager.command(&["rm", "web:new.html"]).success();
    manager.command(&["rollback", "web:index.html", "--yes"]).success();
    wait_all_equal(&farm);
    let member = farm.member(1);
    member.write("other.html", "mine");
    farm.wait_server(member, "drifted", |shown| shown.drift_entries == 1);
    manager.command(&["drift", "keep", "member1", "--yes"]).success();
    wait_all_equal(&farm);
    assert_eq!(edited(manager, "other.html"), "mine");
}

#[test]
fn what_a_command_of_the_live_path_refuses_is_no_revision_and_no_member_is_offered_it() {
    let farm = farm(service);
    let manager = farm.manager();
    let head = farm.status().head;
    write(manager, "index.html", "bad");
    let why = unpublished(&farm, "refused: set web: validate:");
    assert!(why.contains("bellwether discard"), "{why}");
    assert_eq!(content(manager, "index.html"), "one", "it was seen before the switch");
    assert!(fs::read_to_string(manager.home.join("seen")).is_ok_and(|seen| seen.contains("bad")));
    write(manager, "index.html", "broken");
    unpublished(&farm, "refused: set web: check:");
    assert_eq!((content(manager, "index.html"), served(manager)), ("one".to_owned(), "one".to_owned()));
    // It is tried again at a person's request only.
    let reloads = || fs::read_to_string(manager.home.join("reloads")).unwrap_or_default().len();
    let before = reloads();
    manager.command(&["publish", "--dry-run"]).success();
    assert_eq!(reloads(), before, "nothing is reloaded again");
    manager.command(&["publish"]).refused().says(&["set web: check:"]);
    assert_eq!(reloads(), before + 2, "there and back again");
    assert_eq!((farm.status().head, content(farm.member(1), "index.html")), (head, "one".to_owned()));
    assert_eq!(edited(manager, "index.html"), "broken");
    let refused = manager.command_with_input(&["put", "web:other.html"], "x");
    refused.refused().says(&["not published"]);
    manager.command(&["discard", "--yes"]).success().says(&["is kept in"]);
    assert_eq!(edited(manager, "index.html"), "one");
    let refused = farm.member(1).command_with_input(&["put", "web:index.html"], "broken");
    refused.refused().says(&["the manager's sets are as they were: set web: check:"]);
    assert_eq!((edited(manager, "index.html"), content(manager, "index.html")), ("one".into(), "one".into()));
    write(manager, "index.html", "two");
    wait_all_equal(&farm);
    assert_eq!(served(manager), "two");
    // What somebody has put at the live path already is proved, too.
    let (made, beside) = (manager.home.join("made"), manager.home.join("beside"));
    fs::write(&made, "broken").expect("written");
    run(Command::new("cp").arg("-p").arg(&made).arg(manager.web("index.html"))).success();
    run(Command::new("cp").arg("-p").arg(&made).arg(&beside)).success();
    fs::rename(&beside, source(manager).join("index.html")).expect("in its place");
    unpublished(&farm, "refused: set web: check:");
    manager.command(&["discard", "--yes"]).success();
    wait_all_equal(&farm);
    wait_for(
        "the service as before",
        DEADLINE,
        || if served(manager) == "two" { Ok(()) } else { Err(served(manager)) },
    );
}

#[test]
fn an_edit_at_the_live_path_is_drift_and_never_published() {
    let farm = farm(none);
    let manager = farm.manager();
    let head = farm.status().head;
    let drifts = |what: &str| {
        let shown = farm.wait_server(manager, "drifted", |shown| shown.state == State::Drifted);
        let reason = shown.reason.expect("a reason");
        assert!(shown.drift == [what] && reason.contains("bellwether discard"), "{reason} {:?}", shown.drift);
    };
    manager.write("index.html", "by hand");
    drifts("web:index.html");
    assert_eq!((farm.status().head, content(farm.member(1), "index.html")), (head, "one".to_owned()));
    // The next switch replaces it.
    write(manager, "other.html", "two");
    wait_all_equal(&farm);
    let kept = farm.status_of(manager).kept;
    let was = kept.first().map(fs::read_to_string);
    assert!(matches!(&was, Some(Ok(was)) if was == "by hand"), "{kept:?} {was:?}");
    manager.write("index.html", "by hand again");
    drifts("web:index.html");
    let planned = manager.command(&["discard", "--dry-run"]).success();
    planned.says(&["~ web:index.html (at the set's own path)"]);
    manager.command(&["discard", "--yes"]).success().says(&["is kept in"]);
    wait_all_equal(&farm);
}

#[test]
fn a_manager_killed_at_every_point_of_a_live_switch_goes_on() {
    let mut farm = farm(service);
    for (round, point) in LIVE.iter().chain(APPLY).enumerate() {
        println!("kill -9 at {point}");
        let before = content(farm.manager(), "index.html");
        farm.server_mut(0).kill();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        write(farm.manager(), "index.html", &format!("round {round}"));
        let manager = farm.server_mut(0);
        wait_for(&format!("death at {point}"), DEADLINE, || manager.ended().ok_or("it lives".to_owned()));
        manager.kill();
        recover_only(manager);
        let now = content(farm.manager(), "index.html");
        assert!(now == before || now == format!("round {round}"), "{now}");
        farm.server_mut(0).start();
        wait_all_equal(&farm);
        assert_eq!(served(farm.manager()), format!("round {round}"));
    }
}

#[test]
fn a_manager_killed_while_it_discards_the_source_goes_on() {
    let mut farm = farm(none);
    for point in ["apply.journal", "apply.after-exchange"] {
        farm.manager().command(&["group", "set", "--publish", "manual"]).success();
        write(farm.manager(), "index.html", "draft");
        farm.server_mut(0).kill();
        farm.server_mut(0).start_with(&[("BELLWETHER_FAILPOINT", point)]);
        unpublished(&farm, "1 entry");
        farm.manager().command(&["discard", "--yes"]).exits(1);
        let manager = farm.server_mut(0);
        wait_for(&format!("death at {point}"), DEADLINE, || manager.ended().ok_or("it lives".to_owned()));
        manager.kill();
        recover_only(manager);
        manager.start();
        unpublished(&farm, "1 entry");
        farm.manager().command(&["discard", "--yes"]).success();
        wait_all_equal(&farm);
    }
}

#[test]
fn a_restart_publishes_the_source_and_a_promotion_does_not() {
    let mut farm = farm(none);
    farm.server_mut(0).kill();
    write(farm.manager(), "index.html", "meanwhile");
    farm.server_mut(0).start();
    wait_all_equal(&farm);
    // The member has a source, too, which grows old while it is a member.
    farm.server_mut(1).stop();
    configure(farm.member(1), "");
    farm.server_mut(1).start();
    write(farm.manager(), "index.html", "newer");
    wait_all_equal(&farm);
    farm.manager().command(&["promote", "member1", "--yes"]).success();
    farm.wait_leads(1);
    farm.led_by(1);
    let manager = farm.manager();
    let why = unpublished(&farm, "the source may be older than the head");
    assert!(why.starts_with("1 entry differs from the head"), "{why}");
    assert_eq!((edited(manager, "index.html"), content(manager, "index.html")), ("meanwhile".into(), "newer".into()));
    manager.command_with_input(&["put", "web:other.html"], "x").refused();
    run(manager.prepared(&["batch"]).args(["--", "true"])).refused().says(&["may be older"]);
    manager.command(&["discard", "--yes"]).success();
    assert_eq!(edited(manager, "index.html"), "newer");
    farm.wait_in_sync();
    write(farm.manager(), "index.html", "by the new manager");
    wait_all_equal(&farm);
    // The first one comes back with a source that differs; a person publishes it.
    farm.manager().command(&["promote", "manager", "--yes"]).success();
    farm.led_by(0);
    unpublished(&farm, "the source may be older than the head");
    farm.manager().command(&["publish"]).success();
    wait_all_equal(&farm);
    assert_eq!(content(farm.server(1), "index.html"), "newer");
}

#[test]
fn a_git_checkout_is_not_published_with_its_git_directory() {
    let farm = farm(none);
    let manager = farm.manager();
    fs::create_dir(source(manager).join(".git")).expect("made");
    fs::write(source(manager).join(".git/config"), "secret").expect("written");
    let why = unpublished(&farm, "is a git checkout, and the group does not exclude its .git");
    assert!(why.contains("bellwether group set --exclude 'web=/.git'"), "{why}");
    manager.command(&["publish"]).refused().says(&["nothing was published", "--exclude 'web=/.git'"]);
    manager.command(&["discard", "--yes"]).refused().says(&["--exclude 'web=/.git'"]);
    assert!(source(manager).join(".git/config").exists());
    manager.command(&["group", "set", "--exclude", "web=/.git"]).success();
    write(manager, "index.html", "two");
    farm.wait_same_file(farm.member(1), "index.html");
    wait_for("the edit", DEADLINE, || match content(farm.member(1), "index.html") {
        text if text == "two" => Ok(()),
        text => Err(text),
    });
    assert!(!farm.member(1).web(".git").exists() && !manager.web(".git").exists());
}

#[test]
fn a_batch_edits_the_source() {
    let farm = farm(service);
    let manager = farm.manager();
    let batch = |script: &str| {
        let mut command = manager.prepared(&["batch"]);
        run(command.args(["--", "sh", "-c", script]).current_dir(&manager.home))
    };
    batch("echo two > git/index.html; echo x > git/x.html").success();
    wait_all_equal(&farm);
    batch("echo three > git/index.html; exit 1").exits(1).says(&["~ web:index.html"]);
    assert_eq!((edited(manager, "index.html"), served(manager)), ("two\n".into(), "two\n".into()));
    batch("echo broken > git/index.html").exits(3).says(&["its edits are not published: refused: set web: check:"]);
    assert_eq!(content(manager, "index.html"), "two\n");
    manager.command(&["discard", "--yes"]).success();
    wait_all_equal(&farm);
}

#[test]
fn a_rollout_that_is_taken_back_is_taken_back_in_the_source_and_at_the_live_path() {
    let mut farm = farm(service);
    farm.server_mut(1).stop();
    let check = format!(
        "check = {{ probe = \"! grep worse {}/index.html\", retries = 1 }}",
        farm.member(1).set("web").display()
    );
    farm.member(1).configure(&check);
    farm.server_mut(1).start();
    farm.manager().command(&["group", "set", "--canary", "1"]).success();
    let manager = farm.manager();
    write(manager, "index.html", "worse");
    farm.wait_status("the way back", |status| status.head_message.starts_with("taken back: "));
    wait_all_equal(&farm);
    assert_eq!((edited(manager, "index.html"), served(manager)), ("one".to_owned(), "one".to_owned()));
}

#[test]
fn sets_with_and_without_a_source_go_together() {
    let mut farm = Farm::plan().sets(&["conf", "web"]).members(1).start_with(|manager| {
        manager.write("index.html", "one");
        fs::write(manager.set("conf").join("a.conf"), "a").expect("written");
    });
    farm.wait_equal();
    farm.server_mut(0).stop();
    let lines = service(farm.manager());
    // The set `web` is the last one of the file.
    configure(farm.manager(), &lines);
    farm.server_mut(0).start();
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    let manager = farm.manager();
    let conf = |content: &str| fs::write(manager.set("conf").join("a.conf"), content).expect("written");
    conf("b");
    write(manager, "index.html", "bad");
    manager.command(&["publish"]).refused().says(&["refused: set web: validate:"]);
    write(manager, "index.html", "two");
    manager.command(&["publish"]).success().says(&["2 changes"]);
    wait_all_equal(&farm);
    assert_eq!(fs::read_to_string(farm.member(1).set("conf").join("a.conf")).expect("a file"), "b");
    assert_eq!(served(manager), "two");
}

#[test]
fn without_mounts_of_its_own_a_manager_validates_after_the_live_switch() {
    let deny = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
    if run(Command::new(deny[0]).args(&deny[1..]).arg("true")).code != Some(0) {
        skip("validation without mounts", "only root can give a capability away");
        return;
    }
    let mut farm = farm(service);
    farm.server_mut(0).stop();
    farm.server_mut(0).start_in_script(&deny, "");
    let manager = farm.manager();
    write(manager, "index.html", "two");
    wait_all_equal(&farm);
    write(manager, "index.html", "bad");
    unpublished(&farm, "refused: set web: validate:");
    assert_eq!((content(manager, "index.html"), served(manager)), ("two".to_owned(), "two".to_owned()));
    assert!(manager.read_log().contains("they are validated after it"), "the log says so");
}

#[test]
fn a_member_ignores_its_source_and_a_source_that_is_new_waits_for_a_person() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "one"));
    farm.wait_equal();
    for index in [0, 1] {
        farm.server_mut(index).stop();
        configure(farm.server(index), "");
        write(farm.server(index), "index.html", "from a checkout");
        farm.server_mut(index).start();
    }
    unpublished(&farm, "the source may be older than the head");
    assert_eq!(
        (content(farm.manager(), "index.html"), content(farm.member(1), "index.html")),
        ("one".into(), "one".into())
    );
    farm.manager().command(&["publish", "--message", "the checkout"]).success();
    wait_all_equal(&farm);
    assert_eq!(edited(farm.member(1), "index.html"), "from a checkout");
    write(farm.member(1), "index.html", "ignored");
    write(farm.manager(), "index.html", "two");
    wait_all_equal(&farm);
    farm.assert_equal();
}

#[test]
fn a_manager_stops_while_a_command_of_the_live_path_runs_and_publishes_after_it() {
    let slow = |server: &Server| {
        let home = server.home.display();
        format!(
            "check = {{ probe = \"! [ -e {home}/slow ] || {{ echo > {home}/begun; exec sleep 600; }}\", timeout = '10m' }}"
        )
    };
    let mut farm = farm(slow);
    let home = farm.manager().home.clone();
    fs::write(home.join("slow"), "").expect("written");
    write(farm.manager(), "index.html", "two");
    wait_for("the slow check", DEADLINE, || home.join("begun").exists().then_some(()).ok_or("not begun".to_owned()));
    assert_eq!(content(farm.manager(), "index.html"), "two");
    assert!(farm.server_mut(0).stop().success());
    assert_eq!(content(farm.manager(), "index.html"), "one", "it was not proved");
    fs::remove_file(home.join("slow")).expect("removed");
    farm.server_mut(0).start();
    wait_all_equal(&farm);
    assert_eq!(content(farm.member(1), "index.html"), "two");
}
