//! The program under test: the agent of this workspace, built with `--release`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::problem::{Problem, Result};

/// The named program, or the one that is built now.
///
/// # Errors
/// The program is not there, or cannot be built.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => build()?,
    };
    path.canonicalize().map_err(Problem::with("find", &path))
}

/// Builds the agent if cargo runs this program; otherwise takes the agent in the same directory.
fn build() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Problem::new(format!("cannot find this program: {e}")))?;
    // target/PROFILE/bellwether-bench
    let directory = own.parent().unwrap_or(Path::new("."));
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(directory.join("bellwether")) };
    let target = directory.parent().unwrap_or(directory);
    eprintln!("building the agent (cargo build --release -p bellwether)");
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "--package", "bellwether", "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .status();
    match built {
        Ok(status) if status.success() => Ok(target.join("release/bellwether")),
        Ok(status) => Err(Problem::new(format!("the agent was not built: {status}"))),
        Err(error) => Err(Problem::new(format!("cannot start cargo: {error}"))),
    }
}
