//! This server's settings, state directory and key, and the permissions of its user.

use std::{fs, io, path::Path};

use bellwether_daemon::{
    config::Config,
    run::ends,
    state::identity::{self, IdentityError},
};
use bellwether_proto::error::chain;
use bellwether_store::{quarantine, state::layout::Layout};

use super::Check;

pub(super) fn configuration(config: &Config) -> Vec<Check> {
    let file = config.file.display();
    let read = match config.file_exists {
        true => Check::ok("configuration", format!("{file} is well-formed; this server is {}", config.name)),
        false => Check::warn(
            "configuration",
            format!("there is no {file}: flags and defaults are used"),
            "`bellwether init` and `bellwether join` write it",
        ),
    };
    if config.sets.is_empty() {
        let todo = "name a directory: a [[set]] in agent.toml, or --set NAME=PATH";
        return vec![read, Check::fail("configuration", "no set is configured", todo)];
    }
    vec![read]
}

pub(super) fn state(layout: &Layout) -> Vec<Check> {
    let state = layout.state();
    if !state.exists() {
        let what = format!("{} is not there yet", state.display());
        return vec![Check::ok("state", format!("{what}; `init`, `join` and `serve` make it")), parent(state)];
    }
    let key = match identity::load(layout) {
        Ok(Some(key)) => Check::ok("key", format!("{} is closed to others: {}", layout.key().display(), key.public())),
        Ok(None) => Check::ok("key", "not made yet: `init` or `join` makes it"),
        Err(error) => closed("key", &error),
    };
    let group = match layout.held() {
        Ok(Some(held)) => {
            let record = held.current.record();
            Check::ok(
                "group",
                format!(
                    "record {} names {} servers; the manager is {}",
                    record.version,
                    record.servers.len(),
                    record.manager().name
                ),
            )
        }
        Ok(None) => Check::ok("group", "in none yet: `bellwether init` forms one, `bellwether join` enters one"),
        Err(error) => {
            Check::fail("group", chain(&error), "put the file back from a backup, or `leave` and `join` anew")
        }
    };
    vec![directory(state), key, group, quarantined(state)]
}

/// Checks the agent's quarantine.
fn quarantined(state: &Path) -> Check {
    match quarantine::load(state) {
        Ok(ends) if ends.held.is_empty() => Check::ok("quarantine", "nothing is kept out"),
        Ok(ends) => Check::warn(
            "quarantine",
            ends::lines(&ends).join("; "),
            "find the fault, in the input or in the agent, before you lift the quarantine",
        ),
        Err(error) => {
            let todo = format!("remove {}: this lifts all quarantines", state.join(quarantine::FILE).display());
            Check::fail("quarantine", chain(&error), todo)
        }
    }
}

/// Checks whether a missing state directory can be made.
fn parent(state: &Path) -> Check {
    let above = state.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(above, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Check::ok("state", format!("{} can be made", state.display())),
        Err(e) => {
            let what = format!("{} cannot be made in {}: {}", state.display(), above.display(), io::Error::from(e));
            Check::fail("state", what, "run it as the user that the agent runs as, or set state_dir")
        }
    }
}

fn directory(state: &Path) -> Check {
    use std::os::unix::fs::MetadataExt;
    match state.metadata() {
        Ok(found) if found.mode() & 0o077 == 0 => {
            Check::ok("state", format!("{} is closed to others", state.display()))
        }
        Ok(found) => Check::fail(
            "state",
            format!("{} has mode {:04o}: others may look into it", state.display(), found.mode() & 0o7777),
            format!("chmod 700 {}", state.display()),
        ),
        Err(e) => Check::fail("state", format!("{}: {e}", state.display()), "run it as the agent's user, or as root"),
    }
}

fn closed(name: &str, error: &IdentityError) -> Check {
    Check::fail(name, chain(error), error.hint())
}

pub(super) fn privileges() -> Vec<Check> {
    let uid = rustix::process::geteuid();
    let user = match uid.is_root() {
        true => Check::ok("user", "root: every owner and mode can be set"),
        false => Check::warn(
            "user",
            format!(
                "uid {}: files of other owners cannot be made, and directories of others not changed",
                uid.as_raw()
            ),
            "run the agent as root, unless every file of the sets is this user's",
        ),
    };
    let labels = match fs::read_to_string("/sys/fs/selinux/enforce").map(|text| text.trim() == "1") {
        Ok(true) => Check::warn(
            "labels",
            "SELinux is enforcing; a staged file gets the label of its final path",
            "the agent's domain must be allowed to relabel: look for AVC denials (ausearch -m avc) after the first sync",
        ),
        Ok(false) => Check::ok("labels", "SELinux is permissive: nothing is refused"),
        Err(_) => Check::ok("labels", "no SELinux here"),
    };
    vec![user, labels]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::commands::doctor::Level;

    fn levels(checks: &[Check]) -> Vec<(&str, Level)> {
        checks.iter().map(|check| (check.name.as_str(), check.level)).collect()
    }

    #[test]
    fn an_open_state_directory_and_key_fail() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("state"));
        assert!(state(&layout).iter().all(|check| check.level == Level::Ok), "nothing is there yet, which is fine");
        identity::load_or_create(&layout).unwrap();
        let closed = state(&layout);
        assert!(closed.iter().all(|check| check.level == Level::Ok), "{closed:?}");
        fs::set_permissions(layout.key(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            levels(&state(&layout)),
            [("state", Level::Ok), ("key", Level::Fail), ("group", Level::Ok), ("quarantine", Level::Ok)]
        );
        fs::set_permissions(layout.state(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(levels(&state(&layout))[0], ("state", Level::Fail));
    }

    #[test]
    fn a_damaged_record_fails() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("state"));
        identity::load_or_create(&layout).unwrap();
        fs::write(layout.group(), "{}").unwrap();
        assert_eq!(levels(&state(&layout))[2], ("group", Level::Fail));
    }
}
