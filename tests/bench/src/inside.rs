//! The benchmark's own namespaces: it runs itself again inside private mount, network and process namespaces.
//!
//! When the first process there ends, the kernel ends all others, unmounts the file systems and removes the networks. That
//! process ends with this one in any case, so nothing is left behind, not even after a kill -9.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, ExitCode},
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    problem::{Problem, Result},
    run::run,
};

/// The needed programs, with their Debian packages.
const PROGRAMS: [(&str, &str); 10] = [
    ("rsync", "rsync"),
    ("lsyncd", "lsyncd"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("cp", "coreutils"),
];

/// Checks that all needed programs are there.
///
/// # Errors
/// The missing programs, and the way to get them.
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

/// Runs this program again with the same arguments in its own namespaces, and waits for its end. A signal ends it with all of
/// its processes. `work`: an empty directory for the mounts, which is removed at the end.
///
/// # Errors
/// It cannot be started.
pub(crate) fn enter(bellwether: &Path, work: &Path) -> Result<ExitCode> {
    let work =
        tempfile::Builder::new().prefix("bellwether-bench-").tempdir_in(work).map_err(Problem::with("use", work))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Problem::new(format!("cannot wait for signals: {e}")))?;
    let own = std::env::current_exe().map_err(|e| Problem::new(format!("cannot find this program: {e}")))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("setpriv");
    // If this process ends, unshare ends with it, and with unshare the first process inside.
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.arg(own).args(std::env::args_os().skip(1));
    command.args([OsStr::new("--inside"), work.path().as_os_str(), OsStr::new("--bellwether"), bellwether.as_os_str()]);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    runtime.block_on(wait(command))
}

async fn wait(command: Command) -> Result<ExitCode> {
    let failed = |e: std::io::Error| Problem::new(format!("cannot enter namespaces with setpriv and unshare: {e}"));
    let mut inside = tokio::process::Command::from(command).spawn().map_err(failed)?;
    tokio::select! {
        status = inside.wait() => {
            let code = status.map_err(failed)?.code().and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        () = first_signal() => {
            inside.kill().await.map_err(failed)?;
            eprintln!("\ninterrupted: processes, mounts and networks are gone; nothing was written to --out");
            Ok(ExitCode::from(130))
        }
    }
}

/// SIGINT, SIGTERM or SIGHUP.
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

/// Makes the private mounts that the networks' names need.
///
/// # Errors
/// The system's.
pub(crate) fn prepare() -> Result<()> {
    run(Command::new("mount").args(["--make-rprivate", "/"]))?;
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    run(Command::new("mkdir").arg("/run/netns")).map(drop)
}
