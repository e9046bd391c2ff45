//! Running the commands of several sets, in order: the first one that fails ends it.

use std::collections::BTreeMap;

use bellwether_proto::name::SetName;
use serde::{Deserialize, Serialize};

use crate::{check::Before, set::SetCommands};

/// The commands of some sets.
pub type Commands = BTreeMap<SetName, SetCommands>;

/// What a command has against the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// Which command of which set, how it ended, and its first line.
    pub reason: String,
    /// The end of its output, at most 16 KiB.
    pub output: String,
}

/// Runs the commands that validate, which see the files that are there.
///
/// # Errors
/// The complaint of the first one that fails.
pub async fn validate(commands: &Commands) -> Result<(), Complaint> {
    for (set, commands) in commands {
        if let Some(validate) = &commands.validate {
            validate.run().await.map_err(|ended| complaint(set, "validate", ended))?;
        }
    }
    Ok(())
}

/// Runs all reloads, then all checks; before that the commands that validate, where these are still due. `tell` hears what comes
/// next: `validating`, then `reloading`, then `checking`.
///
/// # Errors
/// As [`validate`].
pub async fn prove(commands: &Commands, validates: bool, tell: impl Fn(&'static str)) -> Result<(), Complaint> {
    if validates {
        tell("validating");
        validate(commands).await?;
    }
    tell("reloading");
    let mut before: BTreeMap<&SetName, Before> = BTreeMap::new();
    for (set, commands) in commands {
        before.insert(set, commands.check.as_ref().map(|check| check.before()).unwrap_or_default());
        if let Some(reload) = &commands.reload {
            reload.run().await.map_err(|ended| complaint(set, "reload", ended))?;
        }
    }
    tell("checking");
    for (set, commands) in commands {
        if let Some(check) = &commands.check {
            check.run(&before[set]).await.map_err(|ended| complaint(set, "check", ended))?;
        }
    }
    Ok(())
}

/// The complaint of a command that ended so. The first line that it printed says the most.
pub fn complaint(set: &SetName, step: &str, (how, output): (String, String)) -> Complaint {
    let first = output.lines().map(str::trim).find(|line| !line.is_empty());
    let reason = match first {
        Some(line) => format!("set {set}: {step}: {how}: {line}"),
        None => format!("set {set}: {step}: {how}"),
    };
    Complaint { reason, output }
}
