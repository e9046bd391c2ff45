//! W8, W9, W15, W16, W21, W22, W25: servers that are disabled, set, replaced or repaired, or leave by themselves.

use std::fs;

use bellwether_daemon::net::tls;
use bellwether_proto::{
    key::KeyPair,
    record::{Record, Role},
    status::State,
    v1::{StatusRequest, group_client::GroupClient},
};

use crate::farm::{DEADLINE, Farm, Server, compare::find_below, one, wait_for};

/// The record in `server`'s own copy.
fn record_of(server: &Server) -> Record {
    let shown = server.command(&["group", "show", "--json"]).success();
    serde_json::from_str(&shown.stdout).expect("a record")
}

/// Waits until `server`'s own copy of the record gives it that role; none: until the server is not in the group.
fn wait_own_role(server: &Server, role: Option<Role>) {
    wait_for(&format!("{} knowing that it is {role:?}", server.name), DEADLINE, || {
        let name = server.name.parse().expect("a name");
        let found = record_of(server).server(&name).map(|own| own.role);
        if found == role { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn w21_a_member_is_maintained_by_hand_while_the_others_serve() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "before"));
    farm.manager().command(&["server", "disable", "member1", "--dry-run"]).success();
    assert_eq!(farm.status_of(farm.member(1)).state, State::InSync, "a dry run disables nobody");
    farm.manager().command(&["server", "disable", "member1", "--yes"]).success();
    farm.manager().command(&["server", "disable", "member1", "--yes"]).success();
    farm.wait_server(farm.member(1), "disabled", |s| s.state == State::Disabled && s.role == Role::Disabled);
    wait_own_role(farm.member(1), Some(Role::Disabled));

    farm.manager().write("index.html", "meanwhile");
    farm.wait_same(farm.member(2));
    farm.wait_in_sync();
    farm.member(1).write("index.html", "edited in the maintenance");
    let asked = farm.member(1).command_with_input(&["put", "web:asked.conf"], "no").refused();
    asked.says(&["disabled", "nothing was changed", "bellwether server enable member1"]);
    assert!(!farm.manager().web("asked.conf").exists());
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("its own"), b"edited in the maintenance");
    farm.manager().command(&["sync", "member1"]).refused().says(&["disabled", "bellwether server enable member1"]);

    farm.manager().command(&["server", "enable", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
    wait_own_role(farm.member(1), Some(Role::Member));
    let kept = find_below(&farm.member(1).state().join("recovery"), "index.html").expect("its edit is kept");
    assert_eq!(fs::read(kept).expect("kept"), b"edited in the maintenance");
}

#[test]
fn w25_a_repaired_machine_is_added_again_and_synced_by_itself() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "before"));
    farm.server_mut(1).kill();
    farm.manager().command(&["server", "remove", "member1", "--yes"]).success();
    farm.manager().command(&["server", "enable", "member1"]).refused().says(&["bellwether server add member1"]);
    farm.manager().write("index.html", "while it was repaired");
    farm.wait_same(farm.member(2));
    farm.server_mut(1).start();
    farm.member(1).command_with_input(&["put", "web:asked.conf"], "no").refused().says(&["removed", "server add"]);
    farm.manager().command(&["server", "add", "member1"]).success();
    for (name, role) in [("member1", "a member already"), ("manager", "the manager already")] {
        farm.manager().command(&["server", "add", name]).success().says(&[role, "nothing was changed"]);
        farm.manager().command(&["server", "enable", name]).success().says(&[role]);
    }
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn new_hardware_takes_the_name_of_a_server_and_the_old_key_is_refused() {
    let mut farm = Farm::plan().members(3).unformed();
    farm.manager().write("index.html", "the manager's");
    farm.form();
    farm.admit(1);
    farm.admit(2);
    farm.wait_status("both members in sync", |s| s.servers.iter().all(|s| s.state == State::InSync));
    farm.manager().command(&["server", "set", "member1", "--candidate", "no", "--backend", "web/one"]).success();
    farm.manager().command(&["server", "replace", "manager"]).refused().says(&["promote"]);
    let token = farm.manager().command(&["server", "replace", "member1"]).success().stdout.trim().to_owned();
    farm.member(2).join(&token).refused();
    assert_eq!(record_of(farm.manager()).removed, []);

    let address = farm.member(3).listen.clone();
    farm.server_mut(3).name = "member1".to_owned();
    farm.member(3).join(&token).success();
    farm.server_mut(3).start();
    farm.wait_same(farm.member(3));
    farm.wait_status("the new member1", |s| one(s, "member1").is_some_and(|s| s.address == address));
    let record = record_of(farm.manager());
    let new = record.server(&"member1".parse().expect("a name")).expect("the new one");
    assert_eq!((new.candidate, new.backends.as_slice()), (false, ["web/one".to_owned()].as_slice()));
    assert_eq!(record.removed.len(), 1, "the old key is remembered as removed");

    let refused = farm.member(1).command_with_input(&["put", "web:asked.conf"], "no").refused();
    refused.says(&["other hardware", "member1", "bellwether leave"]);
    farm.server_mut(1).kill();
    farm.manager().write("index.html", "for the new one");
    farm.wait_same(farm.member(3));
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("as it was"), b"the manager's");
}

#[test]
fn w22_a_member_that_leaves_is_shown_and_keeps_its_configuration() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("index.html", "the manager's"));
    farm.member(1).command(&["leave", "--yes"]).success().says(&["server remove member1"]);
    let member = farm.server_mut(1);
    wait_for("the agent's end", DEADLINE, || member.ended().ok_or("it runs".to_owned()));
    farm.server_mut(1).kill();
    let shown = farm.wait_server(farm.member(1), "left", |s| s.state == State::Left);
    assert!(shown.reason.expect("a reason").contains("bellwether server remove member1"));
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("there"), b"the manager's");

    // The agent does not run here, so the command itself tells the manager.
    farm.server_mut(2).kill();
    farm.member(2).command(&["leave", "--yes"]).success();
    farm.wait_server(farm.member(2), "left", |s| s.state == State::Left);
    farm.admit(1);
    farm.admit(2);
    farm.wait_equal();
}

#[test]
fn w22_the_manager_leaves_no_members_behind_unless_it_must() {
    let mut farm = Farm::plan().members(1).start();
    farm.manager().command(&["leave", "--yes"]).refused().says(&["promote", "--force"]);
    assert!(farm.is_in_sync() || farm.status().head.is_some(), "it runs as before");
    farm.manager().command(&["leave", "--yes", "--force"]).success();
    assert!(!farm.manager().state().join("group.json").exists());
    farm.server_mut(0).kill();
    let refused = farm.member(1).command_with_input(&["put", "web:a.conf"], "no");
    refused.says(&["manager", "nothing was changed"]);
}

#[test]
fn w15_a_request_from_outside_the_group_is_a_warning_that_names_who_and_where() {
    let farm = Farm::plan().members(2).start();
    farm.manager().command(&["server", "remove", "member2", "--yes"]).success();
    farm.member(2).command_with_input(&["put", "web:asked.conf"], "no").refused();
    let shown = farm.wait_server(farm.manager(), "a warning", |s| s.warning.is_some());
    assert_eq!(shown.state, State::InSync, "beside its state");
    let reason = shown.warning.expect("a warning").what;
    assert!(reason.contains("member2, which was removed") && reason.contains("127.0.0.1:"), "{reason}");

    let key = KeyPair::generate();
    let member = record_of(farm.manager()).server(&"member1".parse().expect("a name")).expect("it").key;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let refused = runtime.block_on(async {
        let channel = tls::connect(&key, &farm.member(1).listen, member).await.expect("a connection");
        GroupClient::new(channel).status(StatusRequest {}).await.expect_err("a stranger")
    });
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let shown = farm.wait_server(farm.member(1), "a warning", |s| s.warning.is_some());
    assert!(shown.warning.expect("a warning").what.contains(&key.public().to_string()));

    // An operator clears one warning, and after it all others; no server's state changes.
    let warned = |farm: &Farm| {
        let status = farm.status();
        status.servers.iter().filter(|s| s.warning.is_some()).map(|s| s.name.to_string()).collect::<Vec<_>>()
    };
    farm.manager()
        .command(&["status"])
        .success()
        .says(&["member1 · warning:", "bellwether server acknowledge member1"]);
    farm.manager().command(&["server", "acknowledge", "nobody"]).refused();
    farm.manager().command(&["server", "acknowledge", "member1", "--dry-run"]).success().says(&["nothing was changed"]);
    assert_eq!(warned(&farm), ["manager", "member1"]);
    farm.manager().command(&["server", "acknowledge", "member1"]).success().says(&["member1"]);
    assert_eq!(warned(&farm), ["manager"]);
    farm.manager().command(&["server", "acknowledge"]).success().says(&["manager"]);
    assert!(warned(&farm).is_empty());
    farm.manager().command(&["server", "acknowledge"]).success().says(&["there is no warning"]);
}

#[test]
fn w9_the_log_says_who_changed_what() {
    let farm = Farm::plan().members(1).start();
    farm.manager().command(&["server", "set", "member1", "--candidate", "no"]).success();
    farm.manager().command(&["server", "disable", "member1", "--yes"]).success();
    farm.manager().command(&["server", "enable", "member1"]).success();
    let log = farm.manager().command(&["group", "show", "--log"]).success();
    log.says(&["server set member1 --candidate no", "server disable member1", "server enable member1", "init", " by "]);
    farm.manager().command(&["server", "list"]).success().says(&["member1", "no"]);
}

#[test]
fn w16_servers_are_changed_at_the_manager_only() {
    let farm = Farm::plan().members(2).start();
    for command in [
        &["server", "disable", "member2", "--yes"][..],
        &["server", "enable", "member2"],
        &["server", "set", "member2", "--candidate", "no"],
        &["server", "replace", "member2"],
        &["server", "add", "member2"],
    ] {
        let refused = farm.member(1).command(command).refused();
        refused.says(&["member", "nothing was changed", "manager", &farm.manager().listen]);
    }
    assert_eq!(record_of(farm.manager()).log.len(), 3, "formed, and two servers that joined");
    farm.manager().command(&["server", "disable", "manager", "--yes"]).refused().says(&["promote"]);
    farm.manager().command(&["server", "set", "member1", "--address", "nowhere"]).refused();
}
