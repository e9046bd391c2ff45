//! A set's directory that becomes another place (a file system that is mounted or not) is not trusted, and one that was
//! replaced is. The status tells whether events announce changes.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bellwether_proto::status::{FarmStatus, ServerStatus};
use bellwether_skip::skip;

use crate::farm::{DEADLINE, Farm, one, run, wait_for};

/// A mount that ends when this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `mount` with these arguments, at `at`.
    fn new(arguments: &[&str], at: &Path) -> Self {
        run(Command::new("mount").args(arguments).arg(at)).success();
        Self(at.to_owned())
    }

    fn bind(from: &Path, at: &Path) -> Self {
        Self::new(&["--bind", from.to_str().expect("a path")], at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A lazy unmount is needed because the agent may stand in the directory.
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// Whether this user may mount; if not, the skip is reported.
fn may_mount() -> bool {
    let may = run(Command::new("unshare").args(["-m", "sh", "-ec", "mount -t tmpfs none /mnt"])).code == Some(0);
    if !may {
        skip("a set that is a mount", "mounting needs root");
    }
    may
}

fn write(directory: &Path, path: &str, content: &str) {
    let path = directory.join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, content).expect("written");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A manager whose set is a mount, with an old copy of the configuration below it, and a member.
fn mounted_manager(mount: impl FnOnce(&Farm, &Path) -> Mounted) -> (Farm, Mounted) {
    let mut farm = Farm::plan().members(1).unformed();
    let set = farm.manager().set("web").to_owned();
    write(&set, "haproxy.cfg", "old");
    (0..4).for_each(|n| write(&set, &format!("errors/{n}.http"), "error"));
    let mounted = mount(&farm, &set);
    write(&set, "haproxy.cfg", "live");
    write(&set, "certs.pem", "cert");
    (0..4).for_each(|n| write(&set, &format!("errors/{n}.http"), "error"));
    farm.form();
    farm.admit(1);
    farm.wait_equal();
    (farm, mounted)
}

fn disk(farm: &Farm, set: &Path) -> Mounted {
    let disk = farm.directory().join("disk");
    fs::create_dir(&disk).expect("a directory");
    Mounted::bind(&disk, set)
}

fn is_held(farm: &Farm) {
    farm.wait_status("the hold", |s| shows(s, "is another place than before"));
    farm.manager().command(&["publish"]).refused().says(&["another place", "publish --accept"]);
    assert_eq!(read(&farm.member(1).web("haproxy.cfg")), "live", "the member has what was published");
    assert_eq!(read(&farm.member(1).web("certs.pem")), "cert");
}

/// Whether the manager's status shows this for its sets.
fn shows(status: &FarmStatus, what: &str) -> bool {
    status.unpublished.as_ref().is_some_and(|why| why.contains(what)) || format!("{:?}", status.sets).contains(what)
}

#[test]
fn what_lies_below_a_mount_that_went_is_not_published_and_what_comes_back_is() {
    if !may_mount() {
        return;
    }
    let (farm, mounted) = mounted_manager(disk);
    drop(mounted);
    is_held(&farm);
    farm.manager().command(&["put", "web:new.conf", "/etc/hostname"]).refused().says(&["another place"]);
    let set = farm.manager().set("web").to_owned();
    assert!(!set.join("new.conf").exists(), "nothing is written there");
    let _mounted = Mounted::bind(&farm.directory().join("disk"), &set);
    farm.wait_status("nothing held any more", |s| !shows(s, "another place"));
    write(&set, "haproxy.cfg", "live again");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn a_mount_that_is_missing_at_the_start_is_missed_and_what_is_there_may_be_accepted() {
    if !may_mount() {
        return;
    }
    let (mut farm, mounted) = mounted_manager(disk);
    farm.server_mut(0).stop();
    drop(mounted);
    farm.server_mut(0).start();
    is_held(&farm);
    farm.manager().command(&["publish", "--accept"]).success();
    farm.wait_equal();
    assert_eq!(read(&farm.member(1).web("haproxy.cfg")), "old");
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn what_a_mount_in_the_set_hid_is_not_published_when_it_goes() {
    if !may_mount() {
        return;
    }
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "one"));
    farm.wait_equal();
    farm.server_mut(0).stop();
    let sub = farm.manager().web("sub");
    write(&sub, "old.conf", "old");
    let mounted = Mounted::new(&["-t", "tmpfs", "none"], &sub);
    farm.server_mut(0).start();
    farm.wait_status("what is mounted", |s| shows(s, "mount point"));
    drop(mounted);
    farm.wait_status("what it hid", |s| shows(s, "hid until now"));
    assert!(!farm.member(1).web("sub/old.conf").exists(), "nobody edited that");
    farm.manager().command(&["publish", "--accept"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn another_file_system_in_place_of_the_set_is_not_published() {
    if !may_mount() {
        return;
    }
    let (farm, mounted) = mounted_manager(|_, set| Mounted::new(&["-t", "tmpfs", "none"], set));
    drop(mounted);
    is_held(&farm);
    // Another file system that is mounted over it is not published either.
    let set = farm.manager().set("web").to_owned();
    let _other = Mounted::new(&["-t", "tmpfs", "none"], &set);
    write(&set, "haproxy.cfg", "another");
    is_held(&farm);
}

#[test]
fn a_directory_that_is_replaced_is_published_whatever_is_renamed_above() {
    let mut farm = Farm::plan().members(1).unformed();
    let set = farm.manager().set("web").to_owned();
    let (live, next) = (farm.manager().home.join("sets"), farm.manager().home.join("next"));
    (0..5).for_each(|n| write(&set, &format!("{n}.conf"), "one"));
    farm.form();
    farm.admit(1);
    farm.wait_equal();
    // First the set itself is replaced, and then the directory around it.
    let beside = live.join("beside");
    (0..5).for_each(|n| write(&beside, &format!("{n}.conf"), "two"));
    fs::rename(&set, farm.manager().home.join("first")).expect("renamed");
    fs::rename(&beside, &set).expect("renamed");
    farm.wait_equal();
    run(Command::new("cp").arg("-a").args([&live, &next])).success();
    write(&next, "web/0.conf", "three");
    fs::rename(&live, farm.manager().home.join("second")).expect("renamed");
    fs::rename(&next, &live).expect("renamed");
    farm.wait_equal();
    // The change may be published by an event before the roots are compared.
    wait_for("the directory above seen to change", DEADLINE, || {
        let log = farm.manager().read_log();
        if log.contains("the watches are armed anew") { Ok(()) } else { Err(log) }
    });
    farm.manager().write("1.conf", "four");
    farm.wait_equal();
    farm.assert_equal();
    assert_eq!(farm.status().watching, "events");
    assert!(!farm.manager().read_log().contains("a rescan has found"), "events told of it");
}

#[test]
fn a_member_whose_set_is_another_place_takes_nothing_there_and_goes_on_when_it_is_back() {
    if !may_mount() {
        return;
    }
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("a.conf", "one");
    farm.form();
    farm.admit(2);
    let set = farm.member(1).set("web").to_owned();
    write(&set, "a.conf", "below");
    let mounted = disk(&farm, &set);
    farm.admit(1);
    farm.wait_equal();
    drop(mounted);
    let reason = |s: &ServerStatus| s.reason.clone().unwrap_or_default();
    farm.wait_server(farm.member(1), "the hold", |s| reason(s).contains("is another place than before"));
    assert_eq!(one(&farm.status(), "member1").map(|s| s.drift_entries), Some(0), "what lies there is no drift");
    farm.manager().write("a.conf", "two");
    farm.wait_same(farm.member(2));
    farm.wait_server(farm.member(1), "the hold still", |s| {
        s.lag_revisions == 1 && reason(s).contains("is another place than before")
    });
    assert_eq!(read(&set.join("a.conf")), "below", "nothing was written there");
    assert_eq!(fs::read_dir(&set).expect("a directory").count(), 1, "not even staging");
    let mounted = Mounted::bind(&farm.directory().join("disk"), &set);
    farm.wait_equal();
    // The place is still held after a restart, and a person on that server may accept it.
    farm.server_mut(1).stop();
    drop(mounted);
    farm.server_mut(1).start();
    farm.wait_server(farm.member(1), "the hold", |s| reason(s).contains("is another place than before"));
    farm.member(1).command(&["publish", "--accept"]).success().says(&["web"]);
    farm.wait_server(farm.member(1), "the drift", |s| s.drift_entries > 0);
    farm.manager().command(&["sync", "member1"]).success();
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn a_file_system_whose_server_has_ended_is_named_and_nothing_is_lost() {
    if !Path::new("/dev/fuse").exists() {
        return skip("a file system of a program", "there is no /dev/fuse");
    }
    let back = |farm: &Farm| farm.directory().join("back");
    let serve = |back: &Path, set: &Path| -> (Child, Mounted) {
        let child = Command::new("bindfs").args(["-f", "-o", "nonempty"]).args([back, set]).spawn().expect("bindfs");
        wait_for("the mount", DEADLINE, || match run(Command::new("mountpoint").arg("-q").arg(set)).code {
            Some(0) => Ok(()),
            code => Err(format!("{code:?}")),
        });
        (child, Mounted(set.to_owned()))
    };
    let mut server = None;
    let (farm, mounted) = mounted_manager(|farm, set| {
        fs::create_dir(back(farm)).expect("a directory");
        let (child, mounted) = serve(&back(farm), set);
        server = Some(child);
        mounted
    });
    let mut server = server.expect("it was started");
    assert!(farm.wait_in_sync().watching.contains("fuse"), "events do not tell what changes behind it");
    server.kill().and_then(|()| server.wait()).expect("killed");
    farm.wait_status("the cause in words", |s| shows(s, "the program that serves the file system there has ended"));
    assert_eq!(read(&farm.member(1).web("haproxy.cfg")), "live");
    drop(mounted);
    is_held(&farm);
    let set = farm.manager().set("web").to_owned();
    let (mut server, mounted) = serve(&back(&farm), &set);
    write(&set, "haproxy.cfg", "live again");
    farm.wait_same_file(farm.member(1), "haproxy.cfg");
    // This edit is behind the mount, where no event tells of it.
    write(&back(&farm), "haproxy.cfg", "behind");
    farm.wait_same_file(farm.member(1), "haproxy.cfg");
    drop(mounted);
    let _ = server.kill();
    let _ = server.wait();
}

#[test]
fn an_edit_through_another_name_of_a_file_is_seen() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("a.conf", "one\n");
        manager.write("b.conf", "one\n");
    });
    farm.wait_equal();
    for server in [farm.manager(), farm.member(1)] {
        let outside = server.home.join("outside.conf");
        fs::hard_link(server.web("b.conf"), &outside).expect("a second name");
    }
    let append = |server: &crate::farm::Server, line: &str| {
        let mut file = File::options().append(true).open(server.home.join("outside.conf")).expect("a file");
        writeln!(file, "{line}").expect("written");
    };
    append(farm.member(1), "drift");
    farm.wait_server(farm.member(1), "its drift", |s| s.drift_entries == 1);
    farm.manager().command(&["sync", "member1"]).success();
    for line in ["two", "three"] {
        append(farm.manager(), line);
        farm.wait_equal();
        assert!(read(&farm.member(1).web("b.conf")).contains(line));
    }
    assert_eq!(farm.status().watching, "events");
    let logs = farm.manager().read_log() + &farm.member(1).read_log();
    assert!(!logs.contains("a rescan has found"), "it was not seen before the rescan");
}

#[test]
fn a_limit_of_watches_that_is_reached_later_is_said_and_edits_are_found_all_the_same() {
    let limit = "echo 12 >/proc/sys/user/max_inotify_watches";
    if run(Command::new("unshare").args(["-Ur", "sh", "-ec", limit])).code != Some(0) {
        skip("the limit of watches", "there are no user namespaces");
        return;
    }
    let mut farm = Farm::plan().members(1).unformed();
    farm.manager().write("a.conf", "a");
    farm.manager().init().success();
    farm.server_mut(0).start_in_script(&["unshare", "-Ur"], limit);
    farm.admit(1);
    assert_eq!(farm.wait_equal().watching, "events");
    (0..20).for_each(|n| farm.manager().write(&format!("site{n}/x.conf"), "x"));
    let status = farm.wait_status("what is watched", |s| s.watching.contains("no more watches"));
    assert!(status.sets[0].watching.contains("rescanning"), "{status:?}");
    farm.wait_equal();
    farm.manager().write("site18/x.conf", "edited");
    farm.wait_equal();
    farm.manager().command(&["status"]).says(&["watching: web by rescanning", "max_user_watches"]);
}
