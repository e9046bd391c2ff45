//! `bellwether doctor`: finds future problems of this server. It changes nothing, and leaves nothing behind.

mod balancers;
mod commands;
mod descriptors;
mod network;
mod own_files;
mod sets;
mod state;
mod watches;

use bellwether_daemon::{config::Flags, state::identity};
use bellwether_monitor::farm::differing;
use bellwether_store::{secret::SecretPaths, state::layout::Layout};
use serde::Serialize;
use serde_json::json;

use crate::{
    admin,
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keys of agent.toml.
    #[command(flatten)]
    pub flags: Flags,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// No problem.
    Ok,
    /// A server that works, but not as well as it could, or not for ever.
    Warn,
    /// A problem that stops the server.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    level: Level,
    name: String,
    /// The finding.
    what: String,
    /// The next action; none: there is no problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, name: name.into(), what: what.into(), todo: None }
    }

    fn warn(name: impl Into<String>, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { level: Level::Warn, name: name.into(), what: what.into(), todo: Some(todo.into()) }
    }

    fn fail(name: impl Into<String>, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { level: Level::Fail, name: name.into(), what: what.into(), todo: Some(todo.into()) }
    }

    fn line(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let todo = self.todo.as_ref().map(|todo| format!(" — {todo}")).unwrap_or_default();
        format!("{level} {}: {}{todo}", self.name, self.what)
    }
}

/// Runs the command.
///
/// # Errors
/// At least one check found a problem that is marked FAIL.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let mut checks = Vec::new();
    common.in_time(look(&args.flags, common, &mut checks)).await?;
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let (failed, warned) = (count(Level::Fail), count(Level::Warn));
    output::show(common.json, &json!({ "ok": failed == 0, "checks": checks }), |_| {
        checks.iter().map(Check::line).collect::<Vec<_>>().join("\n")
    });
    match failed {
        0 => Ok(()),
        _ if common.json => Err(CommandError::told(Kind::Failed)),
        _ => Err(CommandError::new(Kind::Failed, format!("{failed} will go wrong, {warned} may"))),
    }
}

/// Adds the findings to `checks`.
async fn look(flags: &Flags, common: &Common, checks: &mut Vec<Check>) -> Result<(), CommandError> {
    let config = match common.config(flags) {
        Ok(config) => config,
        Err(error) => {
            let todo = error.hint.unwrap_or_else(|| "correct it; nothing else can be checked before".to_owned());
            checks.push(Check::fail("configuration", error.message, todo));
            return Ok(());
        }
    };
    let layout = Layout::new(config.state_dir.clone());
    checks.extend(state::configuration(&config));
    checks.extend(state::state(&layout));
    checks.extend(state::privileges());
    let held = layout.held().ok().flatten();
    let policy = held.as_ref().map(|held| &held.current.record().policy);
    let mut directories = 0;
    for set in &config.sets {
        let rules = policy.and_then(|policy| policy.sets.iter().find(|rules| rules.name == set.name));
        let secrets = policy.map(|policy| SecretPaths::new(&policy.secret)).unwrap_or_default();
        checks.extend(sets::private(set, rules, &secrets));
        checks.extend(sets::source(set));
        let (found, count) = sets::set(set, layout.state());
        checks.extend(found);
        checks.extend(rules.and_then(|rules| own_files::own_files(&set.path, rules)));
        directories += count;
        checks.extend(commands::commands(set).await);
    }
    checks.extend(watches::watches(directories));
    let running = common.connect().await.is_ok();
    let key = identity::load(&layout).ok().flatten();
    let record = held.as_ref().map(|held| held.current.record());
    let own = key.as_ref().zip(record).and_then(|(key, record)| record.by_key(&key.public()));
    checks.extend(network::own(&config, running, own.map(|own| own.address.as_str())).await);
    let servers = record.map_or(1, |record| record.servers.len());
    checks.push(descriptors::descriptors(admin::agent(&config.admin_socket).await, servers));
    if let Some(record) = record {
        let differing = differing(config.sets.iter().map(|set| &set.name), &record.policy.sets);
        checks.extend(
            differing.into_iter().map(|line| Check::warn("sets", line, "only the group's sets are synchronised")),
        );
    }
    if let (Some(record), Some(key)) = (record, key) {
        checks.extend(network::others(&key, record).await);
        checks.extend(balancers::balancers(&config, &key.public(), record).await);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_and_what_to_do() {
        assert_eq!(Check::ok("clock", "fine").line(), "ok   clock: fine");
        assert_eq!(Check::fail("key", "mode 0644", "chmod 600").line(), "FAIL key: mode 0644 — chmod 600");
    }
}
