//! Runs the program in its own directory.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

pub(crate) fn run(place: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwether"));
    command.args(line.split_whitespace()).current_dir(place).stdin(Stdio::null());
    for variable in ["BELLWETHER_CONFIG", "BELLWETHER_LOG"] {
        command.env_remove(variable);
    }
    command.env("NO_COLOR", "1").env_remove("SUDO_USER").env("USER", "admin").output().expect("it runs")
}

/// A directory with one set, and the flags that keep everything within it.
pub(crate) fn place() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    std::fs::create_dir(path.join("site")).expect("made");
    std::fs::write(path.join("site/a.conf"), "a").expect("written");
    let flags = format!(
        "--config {0}/agent.toml --state-dir {0}/state --admin-socket {0}/socket",
        path.to_str().expect("UTF-8")
    );
    (directory, flags)
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document on standard output")
}

/// The same directory after `init`: a group of one server, with one pack in its history.
pub(crate) fn formed() -> (tempfile::TempDir, String) {
    let (place, flags) = place();
    let path = place.path().to_str().expect("UTF-8");
    let init = format!("init {flags} --yes --name web1 --advertise web1:7440 --set site={path}/site");
    assert_eq!(run(place.path(), &init).status.code(), Some(0));
    (place, flags)
}
