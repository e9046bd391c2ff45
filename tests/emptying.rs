//! A set is not emptied by mistake: missing entries count for an hour, for every way of changing; moved entries do not count.

use std::fs;

use crate::farm::{Farm, Server, wait_for};

/// The number of files in `conf.d`.
fn fill(manager: &Server, files: usize) {
    (0..files).for_each(|n| manager.write(&format!("conf.d/{n}.conf"), format!("server {n};")));
}

fn remove(server: &Server, n: usize) {
    fs::remove_file(server.web(&format!("conf.d/{n}.conf"))).expect("removed");
}

#[test]
fn single_removals_by_command_stop_before_the_set_is_empty_and_over_a_restart() {
    let mut farm = Farm::plan().members(1).start_with(|manager| fill(manager, 20));
    farm.wait_equal();
    let rm = |farm: &Farm, by: usize, n: usize, more: &[&str]| {
        let path = format!("web:conf.d/{n}.conf");
        farm.server(by).command(&[&["rm", &path], more].concat())
    };
    (0..6).for_each(|n| drop(rm(&farm, 0, n, &[]).success()));
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    // Ten of 21 entries may be removed, also from a member.
    farm.wait_in_sync();
    (6..10).for_each(|n| drop(rm(&farm, 1, n, &[]).success()));
    for by in [0, 1] {
        let refused = rm(&farm, by, 10, &[]).refused();
        refused.says(&["11 of 21 entries of web are gone", "nothing was changed", "rm --accept web:conf.d/10.conf"]);
    }
    assert!(farm.manager().web("conf.d/10.conf").exists(), "the file is there still");
    farm.manager().command(&["put", "web:conf.d/11.conf", "/dev/null"]).success();
    rm(&farm, 1, 10, &["--accept"]).success();
    // The count begins anew.
    rm(&farm, 0, 11, &[]).success();
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    rm(&farm, 0, 12, &[]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn single_removals_in_the_directory_stop_too_until_a_person_accepts_them() {
    let farm = Farm::plan().members(1).start_with(|manager| fill(manager, 12));
    let mut head = farm.wait_equal().head;
    for n in 0..6 {
        remove(farm.manager(), n);
        head = farm.wait_status("the removal as a revision", |s| s.head > head).head;
    }
    remove(farm.manager(), 6);
    farm.wait_status("the refusal", |s| {
        s.unpublished.as_ref().is_some_and(|why| why.contains("7 of 13 entries of web are gone within"))
    });
    for arguments in [&["publish"][..], &["publish", "--dry-run"]] {
        farm.manager().command(arguments).refused().says(&["7 of 13", "no server was changed", "publish --accept"]);
    }
    farm.manager().command(&["publish", "--dry-run", "--accept"]).success().says(&["would publish 1 change"]);
    assert_eq!(farm.status().head, head);
    assert!(farm.member(1).web("conf.d/6.conf").exists(), "the member was not touched");
    farm.manager().command(&["publish", "--accept"]).success();
    remove(farm.manager(), 7);
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn a_set_of_three_files_is_not_emptied_one_by_one() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        ["a", "b", "c"].iter().for_each(|name| manager.write(name, name));
    });
    let mut head = farm.wait_equal().head;
    for name in ["a", "b"] {
        fs::remove_file(farm.manager().web(name)).expect("removed");
        head = farm.wait_status("the removal as a revision", |s| s.head > head).head;
    }
    fs::remove_file(farm.manager().web("c")).expect("removed");
    farm.wait_status("the refusal", |s| {
        s.unpublished.as_ref().is_some_and(|why| why.contains("all 3 entries of web are gone"))
    });
    assert!(farm.member(1).web("c").exists(), "the member was not touched");
}

#[test]
fn a_renamed_directory_is_published_and_so_is_one_that_moved_to_another_set() {
    let farm = Farm::plan().sets(&["web", "other"]).members(1).start_with(|manager| {
        fill(manager, 20);
        manager.write("a.conf", "a");
    });
    farm.wait_equal();
    fs::rename(farm.manager().web("conf.d"), farm.manager().web("conf.v2")).expect("renamed");
    wait_for("the new name at the member", crate::farm::DEADLINE, || match farm.status().unpublished {
        Some(why) if why.contains("gone") => panic!("{why}"),
        _ if farm.member(1).web("conf.v2/3.conf").exists() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    farm.wait_equal();
    // One file of the moved directory has a small edit.
    fs::write(farm.manager().web("conf.v2/7.conf"), "edited").expect("written");
    fs::rename(farm.manager().web("conf.v2"), farm.manager().set("other").join("conf.v2")).expect("moved");
    farm.wait_equal();
    farm.assert_equal();
    assert!(farm.member(1).set("other").join("conf.v2/3.conf").exists());
    assert!(!farm.member(1).web("conf.v2").exists());
}

#[test]
fn edits_that_a_member_gives_to_all_do_not_empty_a_set_either() {
    let farm = Farm::plan().members(2).start_with(|manager| fill(manager, 20));
    farm.wait_equal();
    (0..15).for_each(|n| remove(farm.member(1), n));
    farm.wait_server(farm.member(1), "its drift", |s| s.drift_entries == 15);
    let keep = ["drift", "keep", "member1"];
    farm.manager().command(&keep).refused().says(&["15 of 21 entries of web are gone", "drift keep NAME --accept"]);
    assert!(farm.manager().web("conf.d/3.conf").exists() && farm.member(2).web("conf.d/3.conf").exists());
    farm.manager().command(&[&keep[..], &["--accept", "--wait", "all"]].concat()).success();
    farm.wait_equal();
    farm.assert_equal();
    assert!(!farm.member(2).web("conf.d/3.conf").exists());
}
