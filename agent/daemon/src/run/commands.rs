//! At the start, the log names the sets' commands, and those that cannot succeed: an administrator reads it before a change does.

use crate::config::SetConfig;

/// Looks at all commands, without running them.
pub(super) async fn tell(sets: Vec<SetConfig>) {
    for SetConfig { name, commands, .. } in sets.iter().filter(|set| !set.commands.is_empty()) {
        tracing::info!(set = %name, commands = commands.steps().join(", "), "the set has commands");
        for problem in commands.problems().await {
            tracing::warn!(set = %name, todo = problem.todo, "{}: {}", problem.step, problem.what);
        }
    }
}
