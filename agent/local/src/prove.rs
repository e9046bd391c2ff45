//! Running the commands of several sets, in order: the first one that fails ends it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bellwether_proto::name::SetName;
use serde::{Deserialize, Serialize};

use crate::{
    check::{Before, Check},
    secret::Secrets,
    set::{NO_VIEW, SetCommands},
};

/// The commands of some sets.
pub type Commands = BTreeMap<SetName, SetCommands>;

/// What a command has against the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// Which command of which set, how it ended, and its first line.
    pub reason: String,
    /// The end of its output, at most 16 KiB.
    pub output: String,
    /// No command refuses the files: nobody has confirmed them in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
}

impl Complaint {
    /// Nobody has confirmed the files, for that reason.
    pub fn unconfirmed(reason: String) -> Self {
        Self { reason, output: String::new(), unconfirmed: true }
    }
}

/// Runs the commands that validate, which see the files that are there. What they print has no content of `secrets`.
///
/// # Errors
/// The complaint of the first one that fails.
pub async fn validate(commands: &Commands, secrets: &Secrets) -> Result<(), Complaint> {
    for (set, commands) in commands {
        if let Some(validate) = &commands.validate {
            validate.run().await.map_err(|ended| complaint(set, "validate", ended, secrets))?;
        }
    }
    Ok(())
}

/// What the commands that validate say of files that are staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// They take the files.
    Good,
    /// The files cannot be shown before the switch.
    Unable,
    /// One does not.
    Bad(Complaint),
}

/// Runs the commands that validate, which see the new tree that the file `view` describes. The file is removed. What they print has
/// no content of `secrets`.
pub async fn validate_inside(commands: &Commands, secrets: &Secrets, view: &Path) -> Inside {
    let inside = validate_at(commands, secrets, view).await;
    // Staging has nothing but the revision when the switch begins.
    if let Err(error) = tokio::fs::remove_file(view).await {
        tracing::warn!(%error, file = %view.display(), "cannot remove the description of what is staged");
    }
    inside
}

async fn validate_at(commands: &Commands, secrets: &Secrets, view: &Path) -> Inside {
    // The program that runs, also where another one has its path by now. Only root's processes may look there, because the agent
    // is not dumpable.
    let running = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let program =
        if rustix::process::geteuid().is_root() { running } else { std::env::current_exe().unwrap_or(running) };
    for (set, commands) in commands {
        let Some(validate) = &commands.validate else { continue };
        match validate.run_inside(&program, view).await {
            Ok(()) => {}
            Err((how, output)) if output.trim_start_matches("bellwether: ").starts_with(NO_VIEW) => {
                tracing::warn!(
                    how,
                    output,
                    "the new files cannot be shown before the switch: they are validated after it"
                );
                return Inside::Unable;
            }
            Err(ended) => return Inside::Bad(complaint(set, "validate", ended, secrets)),
        }
    }
    Inside::Good
}

/// Runs all reloads, then all checks; before that the commands that validate, where these are still due. `tell` hears what comes
/// next: `validating`, then `reloading`, then `checking`.
///
/// # Errors
/// As [`validate`].
pub async fn prove(
    commands: &Commands,
    validates: bool,
    secrets: &Secrets,
    tell: impl Fn(&'static str),
) -> Result<(), Complaint> {
    if validates {
        tell("validating");
        validate(commands, secrets).await?;
    }
    tell("reloading");
    let mut before: BTreeMap<&SetName, Vec<Before>> = BTreeMap::new();
    for (set, commands) in commands {
        before.insert(set, commands.checks.iter().map(Check::before).collect());
        if let Some(reload) = &commands.reload {
            reload.run().await.map_err(|ended| complaint(set, "reload", ended, secrets))?;
        }
    }
    tell("checking");
    for (set, commands) in commands {
        for (check, before) in commands.checks.iter().zip(&before[set]) {
            check.run(before).await.map_err(|ended| complaint(set, "check", ended, secrets))?;
        }
    }
    Ok(())
}

/// The words by which services mark the line that says what is wrong.
const MARKS: [&str; 5] = ["[emerg]", "[alert]", "fatal", "error", "fail"];

/// The complaint of a command that ended so. Content of `secrets` is left out of its output.
pub fn complaint(set: &SetName, step: &str, (how, output): (String, String), secrets: &Secrets) -> Complaint {
    let output = secrets.hide(output);
    let reason = match telling(&output) {
        Some(line) => format!("set {set}: {step}: {how}: {line}"),
        None => format!("set {set}: {step}: {how}"),
    };
    Complaint { reason, output, unconfirmed: false }
}

/// The line of an output that says the most: the first one with the strongest mark, or else the first one.
fn telling(output: &str) -> Option<&str> {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let marked = |mark: &&str| lines().find(|line| line.to_lowercase().contains(*mark));
    MARKS.iter().find_map(marked).or_else(|| lines().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_what_is_wrong_is_found() {
        let haproxy = "[NOTICE]   (1) : haproxy version is 2.6\n[ALERT]    (1) : config : unknown keyword 'bond'\n\
                       [ALERT]    (1) : config : Fatal errors found in configuration.";
        let nginx = "nginx: [warn] duplicate\nnginx: [emerg] unknown directive \"bogus\"\nnginx: configuration file test failed";
        let apache = "AH00526: Syntax error on line 1 of /etc/apache2/x.conf:\nInvalid command 'Bogus'";
        for (output, line) in [
            (haproxy, Some("[ALERT]    (1) : config : unknown keyword 'bond'")),
            (nginx, Some("nginx: [emerg] unknown directive \"bogus\"")),
            (apache, Some("AH00526: Syntax error on line 1 of /etc/apache2/x.conf:")),
            ("\n  one\ntwo", Some("one")),
            (" \n", None),
        ] {
            assert_eq!(telling(output), line);
        }
    }
}
