//! W8: an obstacle before the switch that may pass marks the revision. The server waits, names the obstacle, and comes back by
//! itself. The file systems are real, and only the member's agent sees their mounts.

use std::{fs, path::Path, process::Command};

use bellwether_proto::status::{Cause, ServerStatus, State};
use bellwether_skip::skip;

use crate::farm::{DEADLINE, Farm, Server, compare::difference, run, wait_for};

/// A farm whose first member runs after this script, in its own mounts (`$SET` is its set); none if this user may not mount.
fn farm(fill: impl FnOnce(&Server), script: &str) -> Option<Farm> {
    let allowed = "mount -t tmpfs none /mnt";
    if run(Command::new("unshare").args(["-m", "sh", "-ec", allowed])).code != Some(0) {
        skip("what a member waits for", "mounting a small file system needs root");
        return None;
    }
    let mut farm = Farm::plan().members(2).unformed();
    fill(farm.manager());
    farm.form();
    farm.admit(2);
    let token = farm.token(&[]);
    farm.member(1).join(&token).success();
    let (set, home) = (farm.member(1).set("web").to_owned(), farm.member(1).home.clone());
    let script = format!("SET='{}'\nHOME='{}'\n{script}", set.display(), home.display());
    farm.server_mut(1).start_in_script(&["unshare", "-m"], &script);
    farm.wait_in_sync();
    Some(farm)
}

/// A small ext4 at the member's set.
const EXT4: &str = "truncate -s 24M $HOME/image
    mkfs.ext4 -q -F $HOME/image
    mount -o loop $HOME/image $SET
    rmdir $SET/lost+found";

/// Runs a script in the mount namespace of the member's agent.
fn inside(member: &Server, script: &str) {
    let (set, home) = (member.set("web").display().to_string(), member.home.display().to_string());
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount={}", member.process().join("ns/mnt").display()));
    command.args(["sh", "-ec", script]).env("SET", set).env("HOME", home);
    run(&mut command).success();
}

/// Waits until the first member waits for `cause` and shows all of `words`.
fn waits(farm: &Farm, cause: Cause, words: &[&str]) -> ServerStatus {
    let shown = farm.wait_server(farm.member(1), "waiting", |s| s.state == State::Waiting);
    assert_eq!(shown.waits_for, Some(cause), "{shown:?}");
    let reason = shown.reason.clone().expect("a reason");
    for word in words.iter().chain(&["tried again by itself"]) {
        assert!(reason.contains(word), "no '{word}' in: {reason}");
    }
    shown
}

/// Waits until the first member is in sync and holds the manager's content, seen in its own mounts.
fn comes_back(farm: &Farm) {
    farm.wait_in_sync();
    let seen = farm.member(1).as_agent_sees(farm.member(1).set("web"));
    wait_for("the manager's content", DEADLINE, || difference(farm.manager().set("web"), &seen).map_or(Ok(()), Err));
    let shown = farm.status_of(farm.member(1));
    assert_eq!((shown.waits_for, shown.drift_entries), (None, 0), "{shown:?}");
}

fn noise(bytes: usize) -> Vec<u8> {
    crate::farm::random::Random::seeded().bytes(bytes)
}

#[test]
fn w8_a_member_without_space_waits_and_comes_back_when_there_is_room() {
    let Some(farm) = farm(|manager| manager.write("a.conf", "a"), EXT4) else { return };
    inside(farm.member(1), "fallocate -l 18M $SET/.bellwether.fill");
    farm.manager().write("large.bin", noise(6 << 20));
    farm.wait_same(farm.member(2));
    waits(&farm, Cause::Space, &["free", "needed", "make room there"]);
    let member = farm.member(1).status().expect("its own status");
    let own = member.servers.iter().find(|s| s.name.as_str() == "member1").expect("itself");
    assert_eq!((own.state, own.waits_for), (State::Waiting, Some(Cause::Space)));

    // The later revision that waits, too, is named, and a waiting script is told the cause.
    farm.manager().write("a.conf", "later");
    farm.wait_same(farm.member(2));
    farm.wait_server(farm.member(1), "what waits with it", |s| {
        s.state == State::Waiting && s.reason.as_ref().is_some_and(|reason| reason.contains("wait with it"))
    });
    let late = farm.manager().command(&["wait", "--timeout=1s"]);
    assert_eq!(late.code, Some(4), "{late}");
    assert!(late.stderr.contains("needed"), "{late}");

    inside(farm.member(1), "rm $SET/.bellwether.fill");
    comes_back(&farm);
}

#[test]
fn w8_a_later_revision_without_what_does_not_fit_is_taken() {
    let Some(farm) = farm(|manager| manager.write("a.conf", "a"), EXT4) else { return };
    inside(farm.member(1), "fallocate -l 18M $SET/.bellwether.fill");
    farm.manager().write("large.bin", noise(6 << 20));
    waits(&farm, Cause::Space, &["free"]);
    fs::remove_file(farm.manager().web("large.bin")).expect("removed");
    farm.manager().write("a.conf", "later");
    farm.wait_in_sync();
    let seen = farm.member(1).as_agent_sees(&farm.member(1).web("a.conf"));
    assert_eq!(fs::read(seen).expect("the file"), b"later");
}

#[test]
fn w8_a_mount_in_the_way_holds_its_file_and_nothing_else() {
    let fill = |manager: &Server| {
        manager.write("a.conf", "a");
        manager.write("b.conf", "b");
    };
    let Some(farm) = farm(fill, "true") else { return };
    inside(farm.member(1), "cp $SET/b.conf $HOME/pinned; mount --bind $HOME/pinned $SET/b.conf");
    farm.manager().write("a.conf", "another");
    farm.wait_same_file(farm.member(1), "a.conf");

    farm.manager().write("b.conf", "new");
    waits(&farm, Cause::InTheWay, &["b.conf", "mount point", "take it away"]);
    inside(farm.member(1), "umount $SET/b.conf");
    comes_back(&farm);
}

#[test]
fn w8_a_file_that_nobody_may_replace_is_waited_for() {
    let Some(farm) = farm(|manager| manager.write("d/a.conf", "a"), EXT4) else { return };
    for at in ["d/a.conf", "d"] {
        inside(farm.member(1), &format!("chattr +i $SET/{at}"));
        farm.manager().write("d/a.conf", format!("while {at} is immutable"));
        waits(&farm, Cause::Flag, &[at, "immutable", "chattr"]);
        inside(farm.member(1), &format!("chattr -i $SET/{at}"));
        comes_back(&farm);
    }
}

#[test]
fn w8_a_file_system_for_reading_only_is_waited_for_also_over_starts() {
    let Some(mut farm) = farm(|manager| manager.write("a.conf", "a"), EXT4) else { return };
    inside(farm.member(1), "mount -o remount,ro $SET");
    farm.manager().write("a.conf", "new");
    waits(&farm, Cause::ReadOnly, &["mount it for writing"]);
    // A manager that has just started offers the revision again, and gets the same answer.
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    waits(&farm, Cause::ReadOnly, &["mount it for writing"]);
    inside(farm.member(1), "mount -o remount,rw $SET");
    comes_back(&farm);
}

#[test]
fn w8_an_account_that_is_made_later_is_waited_for() {
    let passwd = fs::read_to_string("/etc/passwd").expect("users");
    let (games, others): (Vec<&str>, Vec<&str>) = passwd.lines().partition(|line| line.starts_with("games:"));
    let script =
        format!("cat >$HOME/passwd <<'END'\n{}\nEND\nmount --bind $HOME/passwd /etc/passwd", others.join("\n"));
    let Some(farm) = farm(|manager| manager.write("a.conf", "by root"), &script) else { return };
    farm.manager().write("game.conf", "by games");
    run(Command::new("chown").arg("games").arg(farm.manager().web("game.conf"))).success();
    waits(&farm, Cause::Account, &["'games'", "create the account"]);
    inside(farm.member(1), &format!("echo '{}' >>$HOME/passwd", games.concat()));
    comes_back(&farm);
}

#[test]
fn w8_a_member_that_starts_anew_while_it_waits_is_tried_again() {
    let Some(mut farm) = farm(|manager| manager.write("a.conf", "a"), "true") else { return };
    let at = farm.member(1).web("conf.d");
    fs::create_dir(farm.manager().web("conf.d")).expect("a directory");
    farm.wait_equal();
    // An administrator has put a link in the place of the revision's directory.
    fs::remove_dir(&at).expect("removed");
    std::os::unix::fs::symlink("/", &at).expect("a link");
    farm.manager().write("conf.d/a.conf", "behind it");
    waits(&farm, Cause::InTheWay, &["symbolic link"]);
    farm.server_mut(1).kill();
    fs::remove_file(&at).expect("removed");
    farm.server_mut(1).start();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn a_time_after_2038_on_a_file_system_that_ends_there_is_no_drift() {
    let script = EXT4.replace("-q -F", "-q -F -I 128");
    let Some(mut farm) = farm(|manager| manager.write("a.conf", "a"), &script) else { return };
    farm.manager().write("later.conf", "from a machine whose clock was wrong");
    let later = farm.manager().web("later.conf");
    run(Command::new("touch").args(["-d", "2040-05-06 07:08:09"]).arg(&later)).success();
    let same = |file: &str| {
        let seen = farm.member(1).as_agent_sees(&farm.member(1).web(file));
        let expected = fs::read(farm.manager().web(file)).expect("the manager's file");
        wait_for(file, DEADLINE, || match fs::read(&seen) {
            Ok(found) if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        });
    };
    same("later.conf");
    farm.wait_in_sync();
    farm.manager().write("a.conf", "after it");
    same("a.conf");
    farm.manager().command(&["verify"]).success();
    farm.wait_in_sync();
    // It is no obstacle for an agent that has lost its index either.
    farm.server_mut(1).kill();
    fs::remove_file(farm.member(1).state().join("index")).ok();
    let script = format!("mount -o loop '{}' '{}'", farm.member(1).home.join("image").display(), set(farm.member(1)));
    farm.server_mut(1).start_in_script(&["unshare", "-m"], &script);
    farm.wait_in_sync();
    farm.manager().command(&["verify"]).success();
    let shown = farm.wait_server(farm.member(1), "no drift", |s| s.state == State::InSync && s.verified.is_some());
    assert_eq!(shown.drift_entries, 0, "{shown:?}");
}

fn set(member: &Server) -> std::path::Display<'_> {
    Path::display(member.set("web"))
}

/// A mount hides files of the revision. No command waits for its end without a word, and none makes an error of it.
#[test]
fn w8_a_mount_in_a_set_is_named_by_verify_and_by_sync() {
    let fill = |manager: &Server| ["a.conf", "sub/b.conf"].iter().for_each(|path| manager.write(path, "one"));
    let Some(farm) = farm(fill, "") else { return };
    let manager = farm.manager();
    inside(farm.member(1), "mount -t tmpfs none $SET/sub");
    for arguments in [&["verify"][..], &["verify", "member1", "--quick"]] {
        manager.command(arguments).exits(5).says(&["member1 cannot read web:sub: a mount point"]);
    }
    manager.command(&["verify", "member2"]).success();
    assert_ne!(farm.status_of(farm.member(1)).state, State::Error, "a look is no switch");
    manager.write("a.conf", "two");
    farm.wait_same_file(farm.member(2), "a.conf");
    let seen = farm.member(1).as_agent_sees(&farm.member(1).web("a.conf"));
    wait_for("the update beside the mount", DEADLINE, || match fs::read_to_string(&seen) {
        Ok(content) if content == "two" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Without --timeout: it ends by itself, and says what is in the way.
    manager.command(&["sync", "member1"]).exits(5).says(&[
        "member1: waits to take",
        "mount point",
        "go on by themselves",
    ]);
    inside(farm.member(1), "umount $SET/sub");
    comes_back(&farm);
    manager.command(&["verify"]).success();
}
