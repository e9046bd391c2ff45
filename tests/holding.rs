//! W6 and other ways to hold propagation: pausing, manual publishing, an emptied directory.

use std::fs;

use crate::farm::{Farm, one};

#[test]
fn w6_a_bulk_import_while_paused_is_sent_by_one_manual_sync() {
    let farm = Farm::plan().members(2).start();
    farm.manager().command(&["pause"]).success();
    for i in 0..200 {
        farm.manager().write(&format!("import/{i}.conf"), format!("imported {i}"));
    }
    let status = farm.wait_status("the lag of both members", |s| {
        s.paused && ["member1", "member2"].iter().all(|m| one(s, m).is_some_and(|s| s.lag_revisions > 0))
    });
    assert!(one(&status, "member1").is_some_and(|s| s.revision < status.head));
    assert!(!farm.member(1).web("import").exists(), "nothing is sent while paused");

    // The end of the burst may still be in its quiet time, but a sync sends all changes.
    farm.manager().command(&["sync"]).success();
    farm.wait_equal();
    assert!(farm.status().paused, "one sync does not resume");
    farm.manager().write("later.conf", "held again");
    farm.wait_status("the lag again", |s| one(s, "member1").is_some_and(|s| s.lag_revisions > 0));
    assert!(!farm.member(1).web("later.conf").exists());

    farm.manager().command(&["resume"]).success();
    assert!(!farm.wait_equal().paused);
    farm.assert_equal();
}

#[test]
fn publishing_by_hand_holds_an_edit_until_it_is_published() {
    let farm = Farm::plan().members(1).start();
    farm.manager().command(&["group", "set", "--publish", "manual"]).success();
    let head = farm.status().head;
    farm.manager().write("draft.conf", "not yet");
    let status = farm.wait_status("the unpublished edit", |s| s.unpublished.is_some());
    assert_eq!((status.head, status.publish.as_str()), (head, "manual"));
    assert!(!farm.member(1).web("draft.conf").exists());

    let dry = farm.manager().command(&["publish", "--dry-run"]).success();
    dry.says(&["draft.conf"]);
    assert_eq!(farm.status().head, head, "a dry run publishes nothing");
    farm.manager().command(&["publish", "--message", "ready now"]).success();
    let status = farm.wait_equal();
    assert_eq!(status.head_message, "ready now");
    farm.assert_equal();
}

#[test]
fn an_emptied_directory_halts_until_a_person_accepts_it() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        (0..20).for_each(|i| manager.write(&format!("{i}.conf"), "some"));
    });
    farm.wait_equal();
    for i in 0..20 {
        fs::remove_file(farm.manager().web(&format!("{i}.conf"))).expect("removed");
    }
    farm.wait_status("the refusal", |s| s.unpublished.as_ref().is_some_and(|why| why.contains("gone")));
    farm.manager().command(&["publish"]).refused().says(&["--accept"]);
    assert!(farm.member(1).web("3.conf").exists(), "the member was not touched");

    farm.manager().command(&["publish", "--accept"]).success();
    farm.wait_equal();
    farm.assert_equal();
    assert!(!farm.member(1).web("3.conf").exists());
}
