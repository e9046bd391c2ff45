//! `init` and `join` on a fresh machine: finds the web servers' directories, and writes agent.toml.

use std::{
    ffi::OsStr,
    fs::DirBuilder,
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
};

use bellwether_daemon::config::{Config, SetConfig, to_toml};
use bellwether_local::set::{Preset, SetCommands};
use bellwether_proto::name::SetName;
use bellwether_store::{
    beneath,
    durable::{self, Name},
};

use crate::error::{CommandError, Kind};

/// The known directories, and the names of their sets.
const KNOWN: [(&str, &str); 4] =
    [("nginx", "/etc/nginx"), ("haproxy", "/etc/haproxy"), ("apache", "/etc/apache2"), ("apache", "/etc/httpd")];

/// The commands that are offered for a directory: those of the preset for it, where its program is on this machine.
fn offered(path: &Path) -> SetCommands {
    let is_here = |program: &str| {
        let directories = std::env::var_os("PATH").unwrap_or_default();
        let all = std::env::split_paths(&directories).chain([PathBuf::from("/usr/sbin")]);
        all.into_iter().any(|directory| directory.join(program).is_file())
    };
    let preset = Preset::ALL.into_iter().find(|preset| Path::new(preset.directory()) == path);
    preset.filter(|preset| is_here(preset.program())).map(Preset::commands).unwrap_or_default()
}

/// The known directories that exist below `root`, sorted by name; of two with one name, the first.
fn detect(root: &Path) -> Vec<SetConfig> {
    let mut sets: Vec<SetConfig> = Vec::new();
    for (name, path) in KNOWN {
        let name: SetName = name.parse().expect("a name of the table above is one");
        let path = root.join(path.trim_start_matches('/'));
        if path.is_dir() && sets.iter().all(|set| set.name != name) {
            sets.push(SetConfig { name, path, source: None, local: Vec::new(), commands: SetCommands::default() });
        }
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    sets
}

/// Adds the directories of this machine's web servers to a configuration without sets, and, where agent.toml is yet to be
/// written, the commands that are known to work for their services.
///
/// # Errors
/// Usage: no directory was found, either.
pub(super) fn with_sets(mut config: Config) -> Result<Config, CommandError> {
    if config.sets.is_empty() {
        config.sets = detect(Path::new("/"));
    }
    if !config.sets.is_empty() {
        if !config.file_exists {
            config.sets.iter_mut().for_each(|set| set.commands = offered(&set.path));
        }
        return Ok(config);
    }
    let looked: Vec<_> = KNOWN.iter().map(|(_, path)| *path).collect();
    let text = format!("no set is given, and none of {} is there", looked.join(", "));
    Err(CommandError::new(Kind::Usage, text)
        .hint(format!("give each directory a name: --set site=/srv/site, or a [[set]] in {}", config.file.display())))
}

/// Writes agent.toml (0644) if there is none: an existing file is never replaced.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write_file(config: &Config) -> Result<(), CommandError> {
    let file = &config.file;
    if config.file_exists {
        return Ok(());
    }
    create(file, to_toml(config).as_bytes())
        .map_err(|e| CommandError::new(Kind::Failed, format!("cannot write {}: {e}", file.display())))
}

fn create(file: &Path, text: &[u8]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (file.parent(), file.file_name().map(OsStr::as_bytes)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    let directory = beneath::open_root(parent)?;
    let directory = directory.as_fd();
    let temporary = [b".", name, b".new"].concat();
    durable::remove_all(directory, &temporary)?;
    let new = durable::create(directory, &temporary, 0o644)?;
    durable::write_at(&new, text, 0)?;
    durable::sync_file(new.as_fd())?;
    durable::rename_new(Name { directory, name: &temporary }, Name { directory, name })?;
    durable::sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_that_are_there_become_sets() {
        let root = tempfile::tempdir().expect("a directory");
        for path in ["etc/nginx", "etc/apache2", "etc/httpd"] {
            std::fs::create_dir_all(root.path().join(path)).expect("made");
        }
        let found = detect(root.path());
        let names: Vec<_> = found.iter().map(|set| (set.name.as_str(), set.path.clone())).collect();
        assert_eq!(names, [("apache", root.path().join("etc/apache2")), ("nginx", root.path().join("etc/nginx"))]);
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join("etc/bellwether/agent.toml");
        create(&file, b"first").expect("written");
        create(&file, b"second").expect_err("it is there");
        assert_eq!(std::fs::read(&file).expect("read"), b"first");
    }
}
