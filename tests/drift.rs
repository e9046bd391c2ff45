//! W3: what was changed at a member by hand is detected by content and reported, never adopted.

use std::{
    fs::{self, File, FileTimes},
    path::Path,
};

use bellwether_proto::status::State;

use crate::farm::{Farm, compare::find_below};

#[test]
fn w3_an_edit_at_a_member_is_reported_as_drift_and_never_adopted() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "the truth"));
    let head = farm.wait_equal().head;
    farm.member(1).write("a.conf", "an edit by hand");

    let shown = farm.wait_server(farm.member(1), "its drift", |s| s.drift_entries > 0);
    assert_eq!(shown.state, State::Drifted);
    assert!(shown.drift.iter().any(|path| path.contains("a.conf")), "{shown:?}");
    assert_eq!(farm.status().head, head, "no revision came of it");
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("a file"), b"the truth");
    assert_eq!(fs::read(farm.member(2).web("a.conf")).expect("a file"), b"the truth");

    farm.manager().command(&["sync", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
    let kept = find_below(&farm.member(1).state().join("recovery"), "a.conf").expect("the edit as a recovery point");
    assert_eq!(fs::read(kept).expect("kept"), b"an edit by hand");
}

/// Another content of the same length, under the same time.
fn replace_unseen(path: &Path, content: &str) {
    let before = fs::metadata(path).expect("a file");
    assert_eq!(before.len(), content.len() as u64, "the same length");
    fs::write(path, content).expect("written");
    let times = FileTimes::new().set_modified(before.modified().expect("a time"));
    File::options().write(true).open(path).and_then(|file| file.set_times(times)).expect("the old time");
}

#[test]
fn w3_a_directory_copied_by_hand_is_detected_by_its_content() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("site/index.html", "version one");
        manager.write("site/style.css", "body {}");
    });
    farm.wait_equal();
    farm.manager().command(&["verify"]).success();
    replace_unseen(&farm.member(1).web("site/index.html"), "version two");
    farm.member(1).write("site/extra.html", "copied along");

    farm.manager().command(&["verify", "member1"]).exits(5).says(&["member1", "2 entries"]);
    let shown = farm.wait_server(farm.member(1), "both entries of drift", |s| s.drift_entries >= 2);
    for name in ["index.html", "extra.html"] {
        assert!(shown.drift.iter().any(|path| path.contains(name)), "{name} in {:?}", shown.drift);
    }
    farm.manager().command(&["sync"]).success();
    farm.wait_equal();
    farm.assert_equal();
    farm.manager().command(&["verify"]).success();
}

#[test]
fn w3_an_update_of_another_file_leaves_the_drifted_one_and_says_so() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("a.conf", "a");
        manager.write("b.conf", "b");
    });
    farm.wait_equal();
    farm.member(1).write("a.conf", "by hand");
    farm.wait_server(farm.member(1), "its drift", |s| s.drift_entries > 0);
    farm.manager().write("b.conf", "b of the next revision");
    let head = farm.wait_status("the next revision", |s| s.head.is_some_and(|n| n.sequence > 1)).head;
    let shown = farm.wait_server(farm.member(1), "the next revision held", |s| s.revision == head);
    assert_eq!(fs::read(farm.member(1).web("b.conf")).expect("a file"), b"b of the next revision");
    assert_eq!(fs::read(farm.member(1).web("a.conf")).expect("a file"), b"by hand");
    assert!(shown.state == State::Drifted && shown.drift_entries == 1, "{shown:?}");
}
