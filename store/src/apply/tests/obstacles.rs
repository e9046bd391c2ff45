//! What stands in the way is told apart before the switch, on real file systems, and seen to be gone.

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

use bellwether_proto::{
    entry::{EntryPath, Owner},
    error::chain,
    key::KeyPair,
    status::Cause,
};

use super::{
    farm::{Farm, Outcome, assert_same, build},
    mounts::{assert_done, run},
};
use crate::apply::{Obstacle, Recovered, Refused, place::name_beside, recover};

const BEFORE: &[&str] = &["a=a", "gone/deep/x=x", "d/x=x", "mode/x=x", "mode@700"];
const AFTER: &[&str] = &["a=new", "d/x=x", "d/n=n", "mode/x=x", "mode@750"];

/// A small ext4 at `etc`, with what was there.
fn ext4(options: &str) -> String {
    format!(
        "truncate -s 16M $H/image
        mkfs.ext4 -q -F {options} $H/image
        mkdir $H/mounted
        mount -o loop $H/image $H/mounted
        cp -a $H/etc/. $H/mounted/
        mount --move $H/mounted $H/etc"
    )
}

fn farm() -> Farm {
    let farm = Farm::new();
    build(&farm.live(), BEFORE);
    build(&farm.model(), AFTER);
    farm
}

/// Runs the sync where `script` has prepared the disk, and asserts that the refusal says all of `words`.
fn refused(farm: &Farm, script: &str, words: &[&str]) {
    let Some(output) = run(farm, script, "refused") else { return };
    assert_done(&output);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in words {
        assert!(said.contains(word), "no '{word}' in: {said}");
    }
}

#[test]
fn a_flag_of_an_entry_its_directory_or_what_it_holds_is_refused_before_the_switch() {
    for (flag, at) in
        [("+i", "a"), ("+a", "a"), ("+i", "gone/deep/x"), ("+i", "d"), ("+a", "gone"), ("+i", "mode"), ("+i", "")]
    {
        let script = format!("{}\nchattr {flag} $H/etc/web/{at}", ext4(""));
        let named = format!("(chattr {flag})");
        refused(&farm(), &script, &["refused: web:", &named, at, "Some(Flag), there: Some(true)"]);
    }
}

/// What is not this agent's is neither followed nor removed, and named by its path.
#[test]
fn something_else_in_the_place_of_staging_is_named() {
    for beside in [true, false] {
        for link in [true, false] {
            let mut farm = farm();
            farm.ways.beside = beside;
            let place = if beside { farm.staging() } else { farm.live().join(".bellwether") };
            let elsewhere = farm.home().join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            fs::write(elsewhere.join("kept"), "kept").unwrap();
            if link {
                symlink(&elsewhere, &place).unwrap()
            } else {
                fs::write(&place, "mine").unwrap()
            }
            let Err(Outcome::Refused(refused)) = farm.sync() else { panic!("{}", place.display()) };
            let (text, what) = (chain(&refused), if link { "a symbolic link" } else { "no directory" });
            assert!(text.contains(&format!("{} is {what}", place.display())), "{text}");
            assert_eq!(refused.obstacle().map(|obstacle| obstacle.cause()), Some(Cause::System), "tried again");
            assert_eq!(fs::read(elsewhere.join("kept")).unwrap(), b"kept");
            assert!(place.symlink_metadata().is_ok());
            fs::remove_file(&place).unwrap();
            farm.sync().unwrap();
        }
    }
}

#[test]
fn a_file_system_for_reading_only_is_told_as_one() {
    let script = format!("{}\nmount -o remount,ro $H/etc", ext4(""));
    refused(&farm(), &script, &["Some(ReadOnly), there: Some(true)"]);
}

#[test]
fn inodes_that_are_used_up_are_refused_with_the_figures() {
    let script = "mount -t tmpfs -o size=8m,nr_inodes=12 none $H/etc
        mkdir $H/etc/web
        touch $H/etc/web/1 $H/etc/web/2 $H/etc/web/3 $H/etc/web/4 $H/etc/web/5 $H/etc/web/6";
    let farm = Farm::new();
    build(&farm.model(), &(0..20).map(|n| format!("{n}=x")).collect::<Vec<_>>());
    refused(&farm, script, &["more files;", "are needed", "Some(Space), there: Some(true)"]);
}

#[test]
fn an_attribute_that_the_file_system_cannot_hold_is_named_before_the_switch() {
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4,
        0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    for (name, value, called) in
        [("user.tag", &b"x"[..], "the extended attribute user.tag"), ("system.posix_acl_access", acl, "the ACL")]
    {
        for path in ["a", "d"] {
            let farm = farm();
            let flags = rustix::fs::XattrFlags::empty();
            if rustix::fs::setxattr(farm.model().join(path), name, value, flags).is_err() {
                return bellwether_skip::skip(name, "the file system of the tests cannot hold it either");
            }
            let script = "mkdir $H/mounted
                mount -t ramfs none $H/mounted
                cp -a $H/etc/. $H/mounted/
                mount --move $H/mounted $H/etc";
            let entry = format!("web:{path} has {called}, which cannot be held there");
            refused(&farm, script, &[&entry, "None, there: None"]);
        }
    }
}

/// The kernel here may mount no file system without case: an ordinary one is taken for one.
#[test]
fn a_name_that_is_taken_for_another_is_refused_before_the_switch() {
    for (model, said) in [
        (
            &["A=new", "a=a"][..],
            "web:A has this name, which cannot be held there: case does not count there, and a has the same",
        ),
        (&["a=a", "n=1", "N=2"], "case does not count there"),
        (&["a=a", "d/É=1", "d/é=2"], "case does not count there"),
    ] {
        let mut farm = Farm::new();
        farm.ways.folds = true;
        build(&farm.live(), &["a=a"]);
        build(&farm.model(), model);
        let before = farm.tree(&farm.live());
        let Err(Outcome::Refused(refused @ Refused::Attribute { .. })) = farm.sync() else { panic!("{model:?}") };
        assert!(refused.to_string().contains(said), "{refused}");
        assert_eq!(refused.obstacle(), None);
        assert_same(&farm.tree(&farm.live()), &before);
        farm.assert_clean();
    }
    let mut farm = Farm::new();
    farm.ways.folds = true;
    build(&farm.live(), &["a=a", "d/x=x"]);
    build(&farm.model(), &["a=new", "B=b", "d/y=y", "e/x=x"]);
    farm.sync().unwrap().commit();
    farm.assert_is_model();
}

#[test]
fn a_time_that_the_file_system_cannot_hold_is_taken_as_what_it_shows() {
    let farm = Farm::new();
    build(&farm.live(), &["same=same"]);
    build(&farm.model(), &["same=same", "later=from a wrong clock", "link->later"]);
    for (name, flag) in [("later", "-m"), ("link", "-hm")] {
        let touched =
            Command::new("touch").args([flag, "-d", "2040-05-06 07:08:09"]).arg(farm.model().join(name)).status();
        assert!(touched.unwrap().success());
    }
    let Some(output) = run(&farm, &ext4("-I 128"), "times") else { return };
    assert_done(&output);
}

#[test]
fn what_was_in_the_way_is_seen_to_be_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (root, at) = (directory.path().to_owned(), directory.path().join("d"));
    let path = EntryPath::new(b"d/x").unwrap();
    let link = Obstacle::InTheWay { root: root.clone(), path: EntryPath::new(b"d").unwrap() };
    symlink("/", &at).unwrap();
    assert_eq!(link.is_there(), Some(true));
    assert_eq!(Obstacle::InTheWay { root: root.clone(), path: path.clone() }.is_there(), Some(true), "behind it");
    fs::remove_file(&at).unwrap();
    assert_eq!(link.is_there(), Some(false));
    assert_eq!(Obstacle::InTheWay { root: root.clone(), path }.is_there(), Some(false));
    let space = |bytes| Obstacle::Space { at: root.join("no/such/place"), bytes, entries: 0 }.is_there();
    assert_eq!([space(u64::MAX), space(0)], [Some(true), Some(false)]);
    let account =
        |user: &str| Obstacle::Account { owner: Owner { user: user.into(), group: "root".into() } }.is_there();
    assert_eq!([account("no-such-user"), account("root")], [Some(true), Some(false)]);
    assert_eq!(Obstacle::Busy.is_there(), None);
}

#[test]
fn the_systems_words_are_told_apart() {
    use rustix::io::Errno;
    let cause = |errno: Errno| Obstacle::of_io(&PathBuf::from("/srv"), &errno.into()).cause();
    let errnos = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::BUSY, Errno::TXTBSY, Errno::IO, Errno::ACCESS];
    let causes = [Cause::Space, Cause::Quota, Cause::ReadOnly, Cause::Busy, Cause::Busy, Cause::System, Cause::System];
    assert_eq!(errnos.map(cause), causes);
}

/// Two agents whose sets have one name and one parent directory.
#[test]
fn another_agents_staging_is_left_alone() {
    let farm = farm();
    let mut other = another(&farm);
    let before = farm.tree(&farm.live());
    let target = farm.tree(&farm.model());
    let changes = before.diff(&target);
    let job = crate::apply::Job {
        revision: super::farm::revision(),
        label: "1.7".to_owned(),
        live: &before,
        expected: &before,
        target: &target,
        changes,
    };
    let staged = farm.staged(&job).unwrap();
    // Its set is beside ours, by the same name in its own group.
    other.sources[0].path = farm.home().join("etc/other");
    fs::create_dir(&other.sources[0].path).unwrap();
    assert_eq!(recover(&other, None).unwrap(), Recovered::Clean);
    let empty = crate::tree::Tree::empty([other.sources[0].rules.clone()]);
    let nothing = crate::apply::Job { live: &empty, expected: &empty, changes: empty.diff(&target), ..job };
    let mut plan = crate::apply::Plan::new(&other, &nothing).unwrap();
    plan.look_elsewhere(&empty).unwrap();
    drop(plan);
    staged.switch().unwrap().commit();
    farm.assert_is_model();
}

#[test]
fn only_its_own_leftovers_are_removed() {
    let farm = farm();
    let other = another(&farm);
    let theirs = farm.home().join("etc").join(crate::beneath::os(&name_beside(&farm.rules, &other.server)));
    for left in [&theirs, &farm.staging()] {
        fs::create_dir(left).unwrap();
        fs::write(left.join("0"), "staged").unwrap();
    }
    assert_eq!(recover(&farm.site(), None).unwrap(), Recovered::Clean);
    assert!(theirs.join("0").exists() && !farm.staging().exists());
}

/// Another agent on the machine of `farm`.
fn another(farm: &Farm) -> crate::apply::Site {
    let (state, server) = (farm.home().join("state of another"), KeyPair::generate().public());
    fs::create_dir_all(state.join("history")).unwrap();
    let log = std::sync::Arc::new(crate::log::Log::open(&state.join("history")).unwrap());
    crate::apply::Site { state, log, server, ..farm.site() }
}

#[test]
fn a_second_apply_to_the_same_set_is_told_to_be_busy() {
    let farm = farm();
    let tree = farm.tree(&farm.live());
    let target = farm.tree(&farm.model());
    let job = |changes| crate::apply::Job {
        revision: super::farm::revision(),
        label: "1.7".to_owned(),
        live: &tree,
        expected: &tree,
        target: &target,
        changes,
    };
    let staged = farm.staged(&job(tree.diff(&target))).unwrap();
    let Err(Outcome::Refused(refused @ Refused::Io { .. })) = farm.sync() else { panic!("not refused") };
    assert_eq!(refused.obstacle().map(|obstacle| obstacle.cause()), Some(Cause::Busy));
    drop(staged);
    farm.sync().unwrap().commit();
    assert_same(&farm.tree(&farm.live()), &target);
}
