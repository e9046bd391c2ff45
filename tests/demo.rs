//! The demo, as a newcomer runs it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use bellwether_skip::skip;

use rustix::process::{Pid, Signal, kill_process};

use crate::farm::{DEADLINE, bellwether, run, wait_for};

#[test]
fn demo_once_works_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("a directory");
    run(bellwether().args(["demo", "--once"]).env("TMPDIR", home.path())).success();
    let left: Vec<_> = std::fs::read_dir(home.path()).expect("it").flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn demo_works_for_an_ordinary_user_who_can_make_no_mounts() {
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    if run(Command::new(user[0]).args(&user[1..]).arg("true")).code != Some(0) {
        skip("the demo of an ordinary user", "only root can become another user");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
    let program = home.path().join("bellwether");
    fs::copy(bellwether().get_program(), &program).expect("copied");
    let mut demo = Command::new(user[0]);
    demo.args(&user[1..]).arg(&program).args(["demo", "--once"]).env("TMPDIR", home.path());
    let told = run(&mut demo).success();
    assert!(told.stdout.contains("1.5 was taken back, and 1.4 is in force again"), "{told}");
}

#[test]
fn demo_copies_your_own_tree_and_leaves_it_alone() {
    let own = tempfile::tempdir().expect("a directory");
    std::fs::write(own.path().join("mine.conf"), "mine").expect("written");
    run(bellwether().args(["demo", "--once", "--members", "1", "--config-dir"]).arg(own.path())).success();
    assert_eq!(std::fs::read(own.path().join("mine.conf")).expect("there"), b"mine");
    assert_eq!(std::fs::read_dir(own.path()).expect("it").count(), 1);
}

/// The processes of the demo's agents in that directory for temporary files.
fn agents(home: &Path) -> Vec<i32> {
    let inside = |process: &fs::DirEntry| {
        let directory = fs::read_link(process.path().join("cwd")).ok()?;
        let is_agent = fs::read_to_string(process.path().join("cmdline")).ok()?.contains("\0serve\0");
        let process = process.file_name().to_str()?.parse().ok()?;
        (is_agent && directory.starts_with(home)).then_some(process)
    };
    fs::read_dir("/proc").expect("processes").flatten().filter_map(|process| inside(&process)).collect()
}

/// Ends all agents, also if the test fails.
struct Sweep<'a>(&'a Path);

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        for agent in agents(self.0).into_iter().filter_map(Pid::from_raw) {
            // The process may end at this moment.
            let _ = kill_process(agent, Signal::KILL);
        }
    }
}

#[test]
fn demo_that_is_killed_leaves_no_agent_behind() {
    let home = tempfile::tempdir().expect("a directory");
    let _sweep = Sweep(home.path());
    let mut demo = bellwether();
    demo.args(["demo", "--members", "2"]).env("TMPDIR", home.path()).stdin(Stdio::null());
    let mut demo = demo.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a demo");
    wait_for("three agents", DEADLINE, || {
        let agents = agents(home.path());
        let ended = demo.try_wait().expect("its state");
        if agents.len() == 3 { Ok(()) } else { Err(format!("{agents:?}, {ended:?}")) }
    });
    demo.kill().and_then(|()| demo.wait()).expect("killed");
    wait_for("no agent", DEADLINE, || {
        let left = agents(home.path());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
