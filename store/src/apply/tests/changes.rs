//! Every kind of change, and every kind of thing that is in its way.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use bellwether_proto::entry::{EntryPath, Owner};

use super::farm::{Farm, Outcome, assert_same, build, remove, revision};
use crate::{
    apply::{Failed, Job, Plan, Recovered, Refused, recover, work::Ways},
    tree::{Change, Node, Tree},
};

fn from_to(live: &[&str], model: &[&str]) -> Farm {
    let farm = Farm::new();
    build(&farm.live(), live);
    build(&farm.model(), model);
    farm
}

fn every_way() -> [Ways; 4] {
    let ways = |beside, exchange| Ways { beside, exchange, ..Ways::default() };
    [ways(true, true), ways(false, true), ways(true, false), ways(false, false)]
}

const BEFORE: &[&str] = &[
    "same=same",
    "changed=old",
    "mode=mode@600",
    "gone=gone",
    "gone-dir/a/b=b",
    "gone-dir/l->b",
    "link->one",
    "gone-link->x",
    "dir@700",
    "dir/kept=kept",
    "file-dir=file",
    "dir-file/x/y=y",
    "link-dir->somewhere",
    "dir-link/x=x",
    "file-link=file",
    "link-file->somewhere",
    "empty=",
    "full=full",
];
const AFTER: &[&str] = &[
    "same=same",
    "changed=the new content",
    "mode=mode@640",
    "new=new",
    "new-dir@2750",
    "new-dir/a/b=b",
    "new-dir/a/empty=",
    "new-dir/a/l->../b",
    "new-link->y",
    "link->two",
    "dir@755",
    "dir/kept=kept",
    "dir/new=new",
    "file-dir/x/y=y",
    "dir-file=file",
    "link-dir/x=x",
    "dir-link->somewhere",
    "file-link->somewhere",
    "link-file=file",
    "empty=full",
    "full=",
];

#[test]
fn every_kind_of_change_arrives_and_goes_back() {
    for ways in every_way() {
        let mut farm = from_to(BEFORE, AFTER);
        farm.ways = ways;
        let before = farm.tree(&farm.live());
        let inode = fs::metadata(farm.live()).unwrap().ino();

        farm.sync().unwrap().take_back().unwrap();
        assert_same(&farm.tree(&farm.live()), &before);
        farm.assert_clean();

        let switched = farm.sync().unwrap();
        assert_same(&switched.live, &farm.tree(&farm.model()));
        assert!(switched.kept.is_empty(), "{:?}", switched.kept);
        switched.commit();
        farm.assert_is_model();
        assert_eq!(fs::metadata(farm.live()).unwrap().ino(), inode, "the root's inode never changes");
        assert!(farm.kept().is_empty());

        let nothing = farm.sync().unwrap();
        assert_same(&nothing.live, &farm.tree(&farm.model()));
        nothing.commit();
    }
}

#[test]
fn a_missing_root_is_made_and_taken_back() {
    let farm = from_to(&[], AFTER);
    remove(&farm.live());
    farm.sync().unwrap().take_back().unwrap();
    assert!(!farm.live().exists());
    farm.sync_and_commit().unwrap();
    farm.assert_is_model();
}

#[test]
fn a_setgid_parent_gives_nothing_its_group() {
    let farm = from_to(BEFORE, AFTER);
    let etc = farm.home().join("etc");
    // Only root can give a group that it is not in; for others the parent stays in their own.
    let _ = std::os::unix::fs::chown(&etc, None, Some(1));
    let _ = std::os::unix::fs::chown(farm.model().join("new"), None, Some(1));
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o2755)).unwrap();
    farm.sync_and_commit().unwrap();
    farm.assert_is_model();
}

#[test]
fn a_root_that_goes_is_removed_and_taken_back() {
    let farm = from_to(BEFORE, &[]);
    let before = farm.tree(&farm.live());
    remove(&farm.model());
    farm.sync().unwrap().take_back().unwrap();
    assert_same(&farm.tree(&farm.live()), &before);
    farm.sync_and_commit().unwrap();
    assert!(!farm.live().exists());
}

#[test]
fn large_files_share_what_is_here_already() {
    let farm = Farm::new();
    let noise: Vec<u8> = (0..4_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(farm.live().join("large"), &noise).unwrap();
    fs::write(farm.model().join("moved"), &noise).unwrap();
    let live = farm.tree(&farm.live());
    let target = farm.tree(&farm.model());
    let changes = live.diff(&target);
    let job =
        Job { revision: revision(), label: "2".to_owned(), live: &live, expected: &live, target: &target, changes };
    let plan = Plan::new(&farm.site(), &job).unwrap();
    assert!(plan.missing().is_empty(), "all of it is in the old file");
    assert_eq!(plan.progress(), (1, 1));
    plan.staged().unwrap().switch().unwrap().commit();
    farm.assert_is_model();
}

#[test]
fn excluded_and_local_files_stay_where_they_are() {
    for ways in every_way() {
        let mut farm = from_to(
            &["d/managed=x", "d/deep/x=x", "d/deep/local-a=mine", "d/whole/x=x", "run.log=log", "e/x=x", "e/y.log=log"],
            &["e/x=new"],
        );
        farm.ways = ways;
        farm.rules.exclude = vec!["*.log".to_owned()];
        farm.rules.local = vec!["local-*".to_owned()];
        let switched = farm.sync().unwrap();
        assert!(switched.live.get(&farm.rules.name, &EntryPath::new(b"d").unwrap()).is_some(), "shown as drift");
        switched.take_back().unwrap();
        assert!(farm.live().join("d/whole/x").exists() && farm.live().join("d/managed").exists());

        farm.sync_and_commit().unwrap();
        for stays in ["d/deep/local-a", "run.log", "e/y.log"] {
            assert!(farm.live().join(stays).exists(), "{stays}");
        }
        for gone in ["d/managed", "d/deep/x", "d/whole"] {
            assert!(!farm.live().join(gone).exists(), "{gone}");
        }
        assert_eq!(fs::read_to_string(farm.live().join("e/x")).unwrap(), "new");
        assert!(farm.kept().is_empty());
        farm.assert_clean();
    }
}

fn held(outcome: Result<crate::apply::Switched, Outcome>) -> (String, String) {
    match outcome {
        Err(Outcome::Refused(Refused::Held { path, what, .. })) => (path.to_string(), what),
        other => panic!("not held: {other:?}"),
    }
}

#[test]
fn a_directory_with_excluded_files_is_not_replaced() {
    let mut farm = from_to(&["d/x=x", "d/mine.log=log"], &["d=a file"]);
    farm.rules.exclude = vec!["*.log".to_owned()];
    let (path, what) = held(farm.sync());
    assert_eq!(path, "d");
    assert!(what.contains("excluded files"), "{what}");
    assert!(farm.live().join("d/mine.log").exists());
    farm.assert_clean();
}

/// Applies a change list that was made when the live tree was another.
fn update(farm: &Farm, before: &Tree, expected: &Tree) -> Result<crate::apply::Switched, Outcome> {
    let target = farm.tree(&farm.model());
    let changes = expected.diff(&target);
    let job = Job { revision: revision(), label: "1.8".to_owned(), live: before, expected, target: &target, changes };
    farm.apply(&job)
}

#[test]
fn a_link_in_the_way_is_held_and_not_followed() {
    let farm = from_to(&["d/x=x"], &["d/x=new"]);
    let before = farm.tree(&farm.live());
    let outside = farm.home().join("outside");
    build(&outside, &["x=x"]);
    remove(&farm.live().join("d"));
    symlink(&outside, farm.live().join("d")).unwrap();
    let (path, what) = held(update(&farm, &before, &before));
    assert_eq!((path.as_str(), what.as_str()), ("d", "a symbolic link"));
    assert_eq!(fs::read_to_string(outside.join("x")).unwrap(), "x");
    farm.assert_clean();
}

#[test]
fn a_link_swapped_in_after_staging_is_not_followed() {
    for path in ["d/x", "d/e/x", "d/new"] {
        let farm = from_to(&["a=a", "d/x=x", "d/e/x=x"], &["a=b", "d/x=x", "d/e/x=x"]);
        build(&farm.model(), &[format!("{path}=evil")]);
        let before = farm.tree(&farm.live());
        let target = farm.tree(&farm.model());
        let changes = before.diff(&target);
        let job = Job {
            revision: revision(),
            label: "1.8".to_owned(),
            live: &before,
            expected: &before,
            target: &target,
            changes,
        };
        let staged = farm.staged(&job).unwrap();
        let outside = farm.home().join("outside");
        build(&outside, &["x=x", "e/x=x"]);
        let away = farm.home().join("away");
        fs::rename(farm.live().join("d"), &away).unwrap();
        symlink(&outside, farm.live().join("d")).unwrap();
        let were = [farm.tree(&outside), farm.tree(&away)];
        assert!(matches!(staged.switch(), Err(Failed::TakenBack { .. })));
        assert_same(&farm.tree(&outside), &were[0]);
        assert_same(&farm.tree(&away), &were[1]);
        assert_eq!(fs::read_to_string(farm.live().join("a")).unwrap(), "a");
        farm.assert_clean();
    }
}

#[test]
fn a_set_that_is_a_link_or_a_file_is_held() {
    let farm = from_to(&[], &["x=x"]);
    let live = farm.tree(&farm.live());
    remove(&farm.live());
    symlink(farm.model(), farm.live()).unwrap();
    assert_eq!(held(farm.sync_expecting(&live, &live)).0, "");
    remove(&farm.live());
    fs::write(farm.live(), "").unwrap();
    assert_eq!(held(farm.sync_expecting(&live, &live)).0, "");
}

#[test]
fn a_socket_in_the_way_is_held() {
    let farm = from_to(&[], &["s=x"]);
    let _socket = std::os::unix::net::UnixListener::bind(farm.live().join("s")).unwrap();
    assert_eq!(held(farm.sync()), ("s".to_owned(), "a socket".to_owned()));
}

#[test]
fn what_the_rules_do_not_allow_is_held() {
    let mut farm = from_to(&[], &["s=x@4755"]);
    farm.rules.allow_setuid = true;
    let target = farm.tree(&farm.model());
    farm.rules.allow_setuid = false;
    let live = farm.tree(&farm.live());
    let changes = live.diff(&target);
    let job =
        Job { revision: revision(), label: "2".to_owned(), live: &live, expected: &live, target: &target, changes };
    assert!(held(farm.apply(&job)).1.contains("setuid"));

    let mut farm = from_to(&[], &["x.log=x"]);
    let target = farm.tree(&farm.model());
    farm.rules.exclude = vec!["*.log".to_owned()];
    let changes = live.diff(&target);
    let job =
        Job { revision: revision(), label: "2".to_owned(), live: &live, expected: &live, target: &target, changes };
    assert!(held(farm.apply(&job)).1.contains("excluded"));
}

#[test]
fn a_missing_owner_is_refused_before_the_switch() {
    let farm = from_to(&["x=x"], &["x=new"]);
    let (live, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let mut changes = live.diff(&target);
    let owner = Owner { user: "no-such-user".into(), group: "root".into() };
    for change in &mut changes {
        change.entry.as_mut().unwrap().meta.owner = owner.clone().into();
    }
    let job =
        Job { revision: revision(), label: "2".to_owned(), live: &live, expected: &live, target: &target, changes };
    match farm.apply(&job) {
        Err(Outcome::Refused(Refused::Owner { kind: "user", name, .. })) => assert_eq!(name, "no-such-user"),
        other => panic!("{other:?}"),
    }
    farm.assert_clean();
}

#[test]
fn changes_that_fit_no_tree_are_refused() {
    let farm = from_to(&["f=f"], &["a/b=x", "f=f"]);
    let (live, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let file = live.get(&farm.rules.name, &EntryPath::new(b"f").unwrap()).unwrap();
    let link = Node::Link { meta: file.meta().clone(), target: (*b"/").into(), stat: crate::tree::Stat::UNKNOWN };
    let change = |path: &str, entry| Change {
        set: farm.rules.name.clone(),
        path: EntryPath::new(path.as_bytes()).unwrap(),
        entry,
    };
    for changes in [
        vec![change("l", Some(link.entry())), change("l/x", Some(file.entry()))],
        vec![change("a", None), change("a/x", Some(file.entry()))],
        vec![change("z/x", Some(file.entry()))],
        vec![change("", Some(file.entry()))],
    ] {
        let named = format!("{changes:?}");
        let job =
            Job { revision: revision(), label: "2".to_owned(), live: &live, expected: &live, target: &target, changes };
        match Plan::new(&farm.site(), &job) {
            Err(_) => {}
            Ok(plan) => panic!("{named} gave {:?}", plan.missing()),
        }
        assert_same(&farm.tree(&farm.live()), &live);
        farm.assert_clean();
    }
}

#[test]
fn missing_chunks_and_wrong_lengths_are_refused() {
    let farm = from_to(&["a=a"], &["a=not here yet"]);
    let (live, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let job = || Job {
        revision: revision(),
        label: "2".to_owned(),
        live: &live,
        expected: &live,
        target: &target,
        changes: live.diff(&target),
    };
    let plan = Plan::new(&farm.site(), &job()).unwrap();
    assert_eq!(plan.missing().len(), 1);
    assert!(matches!(plan.staged(), Err(Refused::Missing(1))));
    let mut plan = Plan::new(&farm.site(), &job()).unwrap();
    let hash = plan.missing()[0].hash;
    assert!(matches!(plan.supply(&hash, b"short"), Err(Refused::Io { .. })));
    drop(plan);
    assert_same(&farm.tree(&farm.live()), &live);
    farm.assert_clean();
}

#[test]
fn drift_that_is_replaced_or_removed_is_kept() {
    for ways in every_way() {
        let mut farm = from_to(&["a=a", "b=b", "d/x=x", "same=same"], &["a=new", "same=same"]);
        farm.ways = ways;
        let expected = farm.tree(&farm.live());
        build(&farm.live(), &["a=drifted", "d/y=drifted too", "c=added"]);
        let live = farm.tree(&farm.live());
        let switched = farm.sync_expecting(&expected, &live).unwrap();
        assert_eq!(switched.kept.len(), 3, "{:?}", switched.kept);
        switched.commit();
        farm.assert_is_model();
        assert_eq!(farm.kept(), ["web/a", "web/c", "web/d/x", "web/d/y"]);
    }
}

#[test]
fn an_edit_after_the_scan_is_kept() {
    let farm = from_to(&["a=a", "gone=b", "d/x=x"], &["a=new"]);
    let live = farm.tree(&farm.live());
    build(&farm.live(), &["a=edited", "gone=edited", "d/y=new here"]);
    farm.sync_expecting(&live, &live).unwrap().commit();
    farm.assert_is_model();
    assert_eq!(farm.kept(), ["web/a", "web/d/x", "web/d/y", "web/gone"]);
}

#[test]
fn what_somebody_did_already_since_the_scan_is_no_failure() {
    let farm = from_to(&["gone=x", "gone-dir/x=x", "d@700", "d/x=x", "a=a"], &["d@755", "d/x=x", "a=new"]);
    let live = farm.tree(&farm.live());
    for path in ["gone", "gone-dir"] {
        remove(&farm.live().join(path));
    }
    fs::set_permissions(farm.live().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
    let switched = farm.sync_expecting(&live, &live).unwrap();
    assert_same(&switched.live, &farm.tree(&farm.model()));
    switched.commit();
    farm.assert_is_model();
}

#[test]
fn an_edit_of_the_replaced_file_after_the_switch_is_kept() {
    let farm = from_to(&["a=a"], &["a=new"]);
    let mut open = fs::OpenOptions::new().append(true).open(farm.live().join("a")).unwrap();
    let switched = farm.sync().unwrap();
    assert!(switched.kept.is_empty());
    std::io::Write::write_all(&mut open, b" and more").unwrap();
    switched.commit();
    farm.assert_is_model();
    assert_eq!(farm.kept(), ["web/a"]);
}

#[test]
fn an_edit_after_the_switch_survives_the_way_back() {
    let farm = from_to(&["a=a"], &["a=new"]);
    let before = farm.tree(&farm.live());
    let switched = farm.sync().unwrap();
    build(&farm.live(), &["a=an administrator was here"]);
    switched.take_back().unwrap();
    assert_same(&farm.tree(&farm.live()), &before);
    assert_eq!(farm.kept(), ["web/a"]);
}

#[test]
fn a_directory_that_somebody_removed_is_made_again_for_what_comes_into_it() {
    let farm = from_to(&["d/e/x=x", "d/e/y=y"], &["d/e/x=new", "d/e/y=y"]);
    let expected = farm.tree(&farm.live());
    remove(&farm.live().join("d"));
    let live = farm.tree(&farm.live());
    update(&farm, &live, &expected).unwrap().commit();
    assert_eq!(fs::read_to_string(farm.live().join("d/e/x")).unwrap(), "new");
    assert!(!farm.live().join("d/e/y").exists(), "drift that the revision does not touch stays");
}

#[test]
fn sets_on_tmpfs_with_the_state_elsewhere() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut farm = Farm::in_memory();
    farm.state = elsewhere.path().to_owned();
    build(&farm.live(), BEFORE);
    build(&farm.model(), AFTER);
    let expected = farm.tree(&farm.live());
    build(&farm.live(), &["gone-dir/added=by hand", "changed=by hand@640"]);
    let live = farm.tree(&farm.live());
    farm.sync_expecting(&expected, &live).unwrap().commit();
    farm.assert_is_model();
    assert_eq!(farm.kept(), ["web/changed", "web/gone-dir/a/b", "web/gone-dir/added", "web/gone-dir/l"]);
    let point = fs::read_dir(elsewhere.path().join("recovery")).unwrap().next().unwrap().unwrap().path();
    let kept = point.join("web/changed");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "by hand");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn what_a_dropped_plan_staged_is_removed() {
    let farm = from_to(&["a=a"], &["a=new", "d/x=x"]);
    let (live, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let changes = live.diff(&target);
    let job =
        Job { revision: revision(), label: "2".to_owned(), live: &live, expected: &live, target: &target, changes };
    drop(farm.staged(&job).unwrap());
    farm.assert_clean();
    assert_same(&farm.tree(&farm.live()), &live);
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Clean);
}

#[test]
fn two_applies_to_one_set_do_not_meet() {
    let farm = from_to(&["a=a"], &["a=new"]);
    let (live, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let job = || Job {
        revision: revision(),
        label: "2".to_owned(),
        live: &live,
        expected: &live,
        target: &target,
        changes: live.diff(&target),
    };
    let first = farm.staged(&job()).unwrap();
    assert!(matches!(Plan::new(&farm.site(), &job()), Err(Refused::Io { .. })));
    first.switch().unwrap().commit();
    farm.assert_is_model();
}

#[test]
fn too_little_space_is_refused_with_the_figures() {
    let farm = from_to(&[], &["a=a"]);
    let (live, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let mut changes = live.diff(&target);
    let chunk = |n: u32| bellwether_proto::entry::Chunk {
        hash: bellwether_proto::hash::Hash::of(&n.to_le_bytes()),
        length: 1 << 20,
    };
    for change in &mut changes {
        let entry = change.entry.as_mut().unwrap();
        if matches!(entry.kind, bellwether_proto::entry::Kind::File(_)) {
            entry.kind = bellwether_proto::entry::Kind::File((0..500_000).map(chunk).collect());
        }
    }
    let job =
        Job { revision: revision(), label: "2".to_owned(), live: &live, expected: &live, target: &target, changes };
    match Plan::new(&farm.site(), &job) {
        Err(Refused::Space { free, needed, staged, .. }) => assert!(needed > free && staged >= 500_000 << 20),
        other => panic!("{other:?}"),
    }
    farm.assert_clean();
}
