//! Entries that the manager cannot read, or that are still being written, stay as before and are named; the rest goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use bellwether_proto::status::{FarmStatus, UnreadCause, UnreadEntry, Writers};
use bellwether_skip::skip;

use crate::farm::{DEADLINE, Farm, Server, run, wait_for};

fn unread<'a>(status: &'a FarmStatus, path: &str) -> Option<&'a UnreadEntry> {
    status.sets[0].unread.iter().find(|entry| entry.path == path)
}

fn wait_unread(farm: &Farm, path: &str, cause: UnreadCause) -> UnreadEntry {
    let status = farm.wait_status(&format!("{path} waiting"), |s| unread(s, path).is_some_and(|e| e.cause == cause));
    unread(&status, path).expect("it was just there").clone()
}

fn read(server: &Server, path: &str) -> String {
    fs::read_to_string(server.web(path)).unwrap_or_else(|e| e.to_string())
}

/// A bind mount over a path, which ends when this is dropped.
struct Bound(PathBuf);

impl Bound {
    /// None if this user may not mount.
    fn new(what: &Path, over: &Path) -> Option<Self> {
        let bound = Command::new("mount").arg("--bind").args([what, over]).output().expect("mount");
        if !bound.status.success() {
            skip("a mount over an entry", "mounting needs root");
            return None;
        }
        Some(Self(over.to_owned()))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A process that is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mount_over_a_file_or_a_directory_stops_nothing_else() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("a.conf", "1");
        manager.write("b.conf", "before the mount");
        manager.write("dir/x.conf", "before the mount");
    });
    let beside = farm.directory().join("beside");
    fs::create_dir(&beside).expect("a directory");
    fs::write(beside.join("x.conf"), "of another place").expect("a file");
    let Some(_file) = Bound::new(&beside.join("x.conf"), &farm.manager().web("b.conf")) else { return };
    let Some(_directory) = Bound::new(&beside, &farm.manager().web("dir")) else { return };
    farm.manager().write("a.conf", "2");
    farm.wait_same_file(farm.member(1), "a.conf");
    // Events do not tell of mounts, so only the agent's own checks name them.
    farm.manager().command(&["publish"]).success().says(&["stays as it was: web:b.conf", "web:dir"]);
    let held = wait_unread(&farm, "b.conf", UnreadCause::Held);
    assert!(held.reason.contains("a mount point"), "{held:?}");
    wait_unread(&farm, "dir", UnreadCause::Held);
    farm.manager().command(&["status"]).says(&["b.conf: a mount point", "members keep what they have"]);
    farm.manager().write("a.conf", "3");
    farm.wait_same_file(farm.member(1), "a.conf");
    for path in ["b.conf", "dir/x.conf"] {
        assert_eq!(read(farm.member(1), path), "before the mount");
    }
    drop((_file, _directory));
    farm.wait_status("nothing waiting", |s| s.sets[0].unread_entries == 0);
    farm.wait_equal();
}

/// An agent with limited rights: root without the right to ignore modes.
#[test]
fn what_may_not_be_read_stays_as_it_was_until_it_may() {
    if !rustix::process::geteuid().is_root() {
        return skip("an agent without rights", "it takes root to take them away");
    }
    let mut farm = Farm::plan().members(1).unformed();
    for path in ["a.conf", "secret.conf", "secrets/deep/x.conf"] {
        farm.manager().write(path, "1");
    }
    farm.manager().init().success();
    let capped = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"];
    farm.server_mut(0).start_in_script(&capped, "");
    farm.admit(1);
    farm.wait_equal();
    let mode = |path: &str, mode| {
        fs::set_permissions(farm.manager().web(path), fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode("secrets", 0o000);
    farm.manager().write("secret.conf", "2");
    mode("secret.conf", 0o000);
    farm.manager().write("new.conf", "1");
    mode("new.conf", 0o000);
    farm.manager().write("a.conf", "2");
    farm.wait_same_file(farm.member(1), "a.conf");
    for path in ["secret.conf", "secrets", "new.conf"] {
        let waits = wait_unread(&farm, path, UnreadCause::Unreadable);
        assert!(waits.reason.contains("Permission denied"), "{waits:?}");
    }
    // Content that was published between a write and its chmod was readable then.
    assert_eq!(read(farm.member(1), "secrets/deep/x.conf"), "1", "a directory stays with all it holds");
    assert!(farm.manager().read_log().contains("secret.conf"), "the log names it");
    farm.manager().write("a.conf", "3");
    farm.wait_same_file(farm.member(1), "a.conf");
    mode("secrets", 0o755);
    mode("secret.conf", 0o644);
    mode("new.conf", 0o644);
    farm.wait_status("nothing waiting", |s| s.sets[0].unread_entries == 0);
    farm.wait_equal();
}

#[test]
fn a_log_that_is_written_without_a_pause_stops_nothing_else() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "0"));
    farm.manager().command(&["group", "set", "--open-max", "3s"]).success();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let ends = Ends(&over);
        let mut log = File::create(farm.manager().web("access.log")).expect("a log");
        scope.spawn(move || {
            while !ends.0.load(Ordering::Relaxed) {
                log.write_all(&[b'x'; 4_000]).expect("written");
                if log.metadata().expect("a log").len() > 20_000_000 {
                    log.set_len(0).expect("cut");
                }
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        });
        let ends = Ends(&over);
        for edit in 1..=5 {
            farm.manager().write("a.conf", edit.to_string());
            farm.members().for_each(|member| farm.wait_same_file(member, "a.conf"));
        }
        let named = |s: &FarmStatus| unread(s, "access.log").is_some() || s.sets[0].open == ["access.log"];
        farm.wait_status("the log named", named);
        for edit in 6..=10 {
            farm.manager().write("a.conf", edit.to_string());
            farm.members().for_each(|member| farm.wait_same_file(member, "a.conf"));
        }
        drop(ends);
    });
    farm.wait_status("nothing waiting", |s| s.sets[0].unread_entries == 0 && s.sets[0].open.is_empty());
    farm.wait_equal();
}

#[test]
fn a_file_is_not_published_before_its_writer_has_closed_it() {
    let old = "old 1\nold 2\n";
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("up.conf", old);
        manager.write("a.conf", "0");
    });
    farm.manager().command(&["group", "set", "--open-max", "1h"]).success();
    // The writer is its own process, as in real use.
    let script = "exec >\"$1\"; while read line; do echo \"$line\"; done";
    let mut writer = Command::new("sh");
    writer.args(["-c", script, "sh"]).arg(farm.manager().web("up.conf")).stdin(Stdio::piped());
    let mut writer = Running(writer.spawn().expect("a shell"));
    let mut lines = writer.0.stdin.take().expect("its input");
    for line in 1..=3 {
        writeln!(lines, "new {line}").expect("a line");
        wait_for("the line in the file", DEADLINE, || {
            let now = read(farm.manager(), "up.conf");
            if now.lines().count() == line { Ok(()) } else { Err(now) }
        });
        let waits = wait_unread(&farm, "up.conf", UnreadCause::Open);
        assert_eq!(waits.reason, "open for writing");
        // By then another edit is on all servers, and the file is unchanged there.
        farm.manager().write("a.conf", line.to_string());
        farm.wait_same_file(farm.member(1), "a.conf");
        assert_eq!(read(farm.member(1), "up.conf"), old);
    }
    assert_eq!(farm.status().sets[0].writers, Some(Writers::Lease));
    farm.manager().command(&["publish"]).success().says(&["stays as it was: web:up.conf: open for writing"]);
    assert_eq!(read(farm.member(1), "up.conf"), old);
    drop(lines);
    farm.wait_same_file(farm.member(1), "up.conf");
    farm.wait_status("nothing waiting", |s| s.sets[0].unread_entries == 0 && s.sets[0].open.is_empty());
    assert_eq!(read(farm.member(1), "up.conf"), "new 1\nnew 2\nnew 3\n");
}

#[test]
fn after_the_bound_an_open_file_is_published_and_marked() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("up.conf", "old"));
    farm.manager().command(&["group", "set", "--open-max", "300ms"]).success();
    let mut writer = OpenOptions::new().append(true).open(farm.manager().web("up.conf")).expect("the file");
    writer.write_all(b" and half").expect("written");
    farm.wait_same_file(farm.member(1), "up.conf");
    let status = farm.wait_status("the mark", |s| s.sets[0].open == ["up.conf"]);
    assert_eq!(status.sets[0].unread_entries, 0);
    farm.manager().command(&["status"]).says(&["up.conf: published while a program had it open for writing"]);
    writer.write_all(b", and whole").expect("written");
    drop(writer);
    farm.wait_same_file(farm.member(1), "up.conf");
    farm.wait_status("no mark", |s| s.sets[0].open.is_empty());
    farm.wait_equal();
}

/// A shared writable mapping writes without any call, and its file may be closed by then.
#[test]
fn a_file_that_is_mapped_to_be_written_is_open() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("map.conf", "old old"));
    farm.manager().command(&["group", "set", "--open-max", "1h"]).success();
    let script = "import mmap, sys\nf = open(sys.argv[1], 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nf.close()\n\
                  m[0:3] = b'new'\nm.flush()\nprint('mapped', flush=True)\nsys.stdin.read()\nm[4:7] = b'new'";
    let mut mapper = Command::new("python3");
    mapper.args(["-c", script]).arg(farm.manager().web("map.conf")).stdin(Stdio::piped());
    let mut mapper = Running(mapper.stdout(Stdio::piped()).spawn().expect("python3"));
    wait_for("the mapping", DEADLINE, || {
        let now = read(farm.manager(), "map.conf");
        if now == "new old" { Ok(()) } else { Err(now) }
    });
    // A mapping makes no event, but an explicit publish scans everything.
    farm.manager().command(&["publish"]).success().says(&["stays as it was: web:map.conf: open for writing"]);
    assert_eq!(read(farm.member(1), "map.conf"), "old old");
    drop(mapper.0.stdin.take());
    mapper.0.wait().expect("its end");
    farm.wait_status("nothing waiting", |s| s.sets[0].unread_entries == 0);
    assert_eq!(read(farm.manager(), "map.conf"), "new new");
    farm.wait_equal();
}

/// Without the right to take leases on others' files, the agent reads the processes' descriptors.
#[test]
fn where_leases_are_refused_descriptors_tell() {
    if !rustix::process::geteuid().is_root() {
        return skip("an agent without rights", "it takes root to take them away");
    }
    let mut farm = Farm::plan().members(1).unformed();
    farm.manager().write("up.conf", "old");
    run(Command::new("chown").arg("games").arg(farm.manager().web("up.conf"))).success();
    farm.manager().init().success();
    let capped = ["setpriv", "--bounding-set", "-lease", "--inh-caps", "-all"];
    farm.server_mut(0).start_in_script(&capped, "");
    farm.admit(1);
    farm.wait_equal();
    farm.manager().command(&["group", "set", "--open-max", "1h"]).success();
    let mut writer = OpenOptions::new().append(true).open(farm.manager().web("up.conf")).expect("the file");
    writer.write_all(b" and half").expect("written");
    wait_unread(&farm, "up.conf", UnreadCause::Open);
    assert_eq!(farm.status().sets[0].writers, Some(Writers::Descriptors));
    assert_eq!(read(farm.member(1), "up.conf"), "old");
    writer.write_all(b", and whole").expect("written");
    drop(writer);
    farm.wait_equal();
}

#[test]
fn a_put_over_a_file_that_waits_says_what_became_of_it() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("up.conf", "old"));
    farm.manager().command(&["group", "set", "--open-max", "1h"]).success();
    let mut writer = OpenOptions::new().append(true).open(farm.manager().web("up.conf")).expect("the file");
    writer.write_all(b" and half").expect("written");
    wait_unread(&farm, "up.conf", UnreadCause::Open);
    // The writer goes on with the old file; the name has another one now.
    farm.manager().command_with_input(&["put", "web:up.conf"], "whole").success();
    farm.wait_same_file(farm.member(1), "up.conf");
    assert_eq!(read(farm.member(1), "up.conf"), "whole");
    farm.wait_status("nothing waiting", |s| s.sets[0].unread_entries == 0);
    drop(writer);
    farm.wait_equal();
}

#[test]
fn init_leaves_out_what_is_still_written_and_serve_publishes_it_later() {
    let mut farm = Farm::plan().members(1).unformed();
    farm.manager().write("a.conf", "1");
    let mut writer = File::create(farm.manager().web("new.conf")).expect("a file");
    writer.write_all(b"half").expect("written");
    farm.manager().init().success().says(&["left out: web:new.conf: open for writing"]);
    farm.server_mut(0).start();
    farm.admit(1);
    farm.wait_same_file(farm.member(1), "a.conf");
    writer.write_all(b", and whole").expect("written");
    drop(writer);
    farm.wait_same_file(farm.member(1), "new.conf");
    farm.wait_equal();
}

/// A server that enters gets a base of the head, with a file as it was before it became unreadable.
#[test]
fn a_base_holds_what_the_files_do_not_any_more() {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("a.conf", "1");
    farm.manager().write("up.conf", "old");
    farm.form();
    farm.admit(1);
    farm.wait_equal();
    farm.manager().command(&["group", "set", "--open-max", "1h"]).success();
    let mut writer = OpenOptions::new().append(true).open(farm.manager().web("up.conf")).expect("the file");
    writer.write_all(b" and half").expect("written");
    wait_unread(&farm, "up.conf", UnreadCause::Open);
    farm.manager().write("a.conf", "2");
    farm.wait_same_file(farm.member(1), "a.conf");
    farm.admit(2);
    farm.wait_in_sync();
    assert_eq!((read(farm.member(2), "a.conf"), read(farm.member(2), "up.conf")), ("2".into(), "old".into()));
    assert!(!farm.manager().read_log().contains("no base was built"), "a base of the head can be built");
    drop(writer);
    farm.wait_equal();
}

#[test]
fn hard_links_outside_the_set_are_said() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "1"));
    farm.manager().write("b.conf", "1");
    let outside = farm.directory().join("outside");
    fs::hard_link(farm.manager().web("b.conf"), &outside).expect("a link");
    farm.manager().write("a.conf", "2");
    farm.manager().command(&["publish"]).success();
    let said = |s: &FarmStatus| s.sets[0].notices.iter().any(|n| n.contains("1 file has another hard link outside"));
    farm.wait_status("the note", said);
    fs::remove_file(&outside).expect("removed");
    farm.manager().command(&["publish"]).success();
    farm.wait_status("no note", |s| !said(s));
    farm.wait_equal();
}
