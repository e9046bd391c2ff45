//! A world of its own for the benchmark: it runs itself again inside private mount, network and process namespaces.
//!
//! When its first process ends, however it ends, the kernel ends all others, unmounts the file systems and removes the
//! networks: nothing is left behind, not even after a kill -9.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use rustix::mount::{UnmountFlags, unmount};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    problem::{Problem, Result},
    run::run,
};

/// Programs that are needed, and the Debian package that each is in.
const PROGRAMS: [(&str, &str); 9] = [
    ("rsync", "rsync"),
    ("lsyncd", "lsyncd"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("cp", "coreutils"),
];

/// Checks that all that is needed is there.
///
/// # Errors
/// What is missing, and how to get it.
pub(crate) fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Problem::new(
            "this needs root: it mounts fresh file systems and makes networks, in namespaces of its own.\n\
             Build as yourself, then run the program as root:\n  \
             cargo build --release -p bellwether -p bellwether-bench && sudo target/release/bellwether-bench --quick",
        ));
    }
    let mut missing: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Problem::new(format!("programs are missing here; tests/bench/setup installs them: {}", missing.join(", "))))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(program).is_file())
}

/// Runs this program again with the same arguments and `--inside`, in namespaces of its own. Returns only to say why not.
pub(crate) fn enter(bellwether: &Path) -> Problem {
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return Problem::new(format!("cannot find this program: {error}")),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let error = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(own)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .arg("--bellwether")
        .arg(bellwether)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .exec();
    Problem::new(format!("cannot enter namespaces with unshare: {error}"))
}

/// Makes the private mounts that the networks' names need.
///
/// # Errors
/// The system's.
pub(crate) fn prepare() -> Result<()> {
    run(Command::new("mount").args(["--make-rprivate", "/"]))?;
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    run(Command::new("mkdir").arg("/run/netns")).map(drop)
}

/// At SIGINT, SIGTERM or SIGHUP removes what is in the way of an end without traces, and ends this program: the kernel
/// ends the others. As the first process of its namespace it would ignore them otherwise.
pub(crate) fn end_at_signals(work: PathBuf) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime for signals").block_on(first_signal());
        eprintln!("\ninterrupted: processes, mounts and networks are removed; nothing was written to --out");
        remove(&work);
        std::process::exit(130);
    });
}

async fn first_signal() {
    let on = |kind| signal(kind).expect("signals can be waited for");
    let (mut int, mut term, mut hup) =
        (on(SignalKind::interrupt()), on(SignalKind::terminate()), on(SignalKind::hangup()));
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
}

/// Removes the work directory. What is mounted there goes when the last process that uses it has ended.
fn remove(work: &Path) {
    for entry in std::fs::read_dir(work).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = unmount(&path, UnmountFlags::DETACH);
        // Mount points are empty directories now; an image is a file. Nothing is removed recursively.
        let _ = std::fs::remove_dir(&path).or_else(|_| std::fs::remove_file(&path));
    }
    let _ = std::fs::remove_dir(work);
}
