//! W9, W16: roles, the author of each change, the server on which the group is changed, and the exit codes.

use bellwether_proto::record::Role;

use crate::farm::{Farm, bellwether, one, run};

#[test]
fn w9_the_record_names_the_roles_and_who_changed_what() {
    let farm = Farm::plan().members(2).start();
    farm.manager().command(&["pause"]).success();
    farm.manager().command(&["resume"]).success();
    farm.manager().command(&["server", "remove", "member2", "--yes"]).success();

    let status = farm.wait_status("the record without member2", |s| one(s, "member2").is_none());
    let role = |name| one(&status, name).map(|s| s.role);
    assert_eq!((role("manager"), role("member1")), (Some(Role::Manager), Some(Role::Member)));
    farm.manager().command(&["group", "show"]).success().says(&["init", "member1", "pause", "resume", "remove"]);
    farm.manager().command(&["server", "list"]).success().says(&["manager", "member1"]);
}

#[test]
fn w9_every_server_has_the_record() {
    let farm = Farm::plan().members(2).start();
    let record = farm.status().record;
    for member in farm.members() {
        crate::farm::wait_for("the record at a member", crate::farm::DEADLINE, || {
            let status = member.status()?;
            if status.record == record { Ok(()) } else { Err(format!("{} has {}", member.name, status.record)) }
        });
    }
}

#[test]
fn w16_membership_is_changed_at_the_manager_only() {
    let farm = Farm::plan().members(2).start();
    for command in [&["server", "remove", "member2", "--yes"][..], &["token", "create"], &["pause"]] {
        farm.member(1).command(command).refused().says(&["manager"]);
    }
    assert!(one(&farm.status(), "member2").is_some());
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    run(bellwether().arg("--no-such-flag")).exits(2);
    run(bellwether().arg("nosuchcommand")).exits(2);
    run(bellwether().arg("--help")).success();
    let farm = Farm::plan().unformed();
    farm.manager().init().success();
    farm.manager().command(&["status"]).exits(1).says(&["serve"]);
}
