//! The commands of a set: their accounts and programs, and whether `validate` can see the new files before the switch.

use bellwether_daemon::config::SetConfig;
use bellwether_local::inspect::{Kind, Problem};
use bellwether_store::apply::view;

use super::Check;

/// Checks the commands of one set. None of them is run.
pub(super) async fn commands(set: &SetConfig) -> Vec<Check> {
    let name = format!("set {}", set.name);
    let steps = set.commands.steps();
    if steps.is_empty() {
        return Vec::new();
    }
    let problems = set.commands.problems().await;
    let mut checks = match problems.is_empty() {
        true => vec![Check::ok(&name, format!("its commands can be started: {}", steps.join(", ")))],
        false => problems.into_iter().map(|problem| check(&name, problem)).collect(),
    };
    if set.commands.validate.is_some() {
        checks.push(viewed(&name, view::possible(&set.path)));
    }
    checks
}

fn check(name: &str, Problem { step, what, todo, kind }: Problem) -> Check {
    let what = format!("{step}: {what}");
    match kind {
        Kind::Fails => Check::fail(name, what, todo),
        Kind::MayFail => Check::warn(name, what, todo),
    }
}

fn viewed(name: &str, possible: std::io::Result<()>) -> Check {
    match possible {
        Ok(()) => Check::ok(name, "validate can see the new files before the switch, by mounts of its own"),
        Err(error) => Check::warn(
            name,
            format!(
                "validate runs after the switch and before any reload, since it cannot have mounts of its own: {error}"
            ),
            "run the agent as root, in a container with CAP_SYS_ADMIN; without that, refused files are in place for a moment",
        ),
    }
}
