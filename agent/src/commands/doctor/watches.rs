//! The kernel's limits of inotify (inotify(7)). If they are too low, only rescans find changes.

use std::fs;

use super::Check;

/// The place where an administrator raises a limit.
const RAISE: &str = "in /etc/sysctl.d/, then `sysctl --system`";
/// The number of watches that are left for other programs.
const OTHERS: u64 = 2_000;
/// The kernel's default of `max_queued_events`: a lower value was set by an administrator.
const QUEUE: u64 = 16_384;
/// The number of inotify instances; each program that watches anything needs one.
const INSTANCES: u64 = 64;

/// Checks whether `directories` can be watched.
pub(super) fn watches(directories: u64) -> Vec<Check> {
    let limit = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
    };
    let unknown = || {
        Check::warn("watches", "the kernel's limits cannot be read", "without inotify changes are found by rescanning")
    };
    match (limit("max_user_watches"), limit("max_user_instances"), limit("max_queued_events")) {
        (Some(watches), Some(instances), Some(queue)) => {
            vec![enough(watches, directories), instance(instances), queued(queue)]
        }
        _ => vec![unknown()],
    }
}

fn enough(limit: u64, directories: u64) -> Check {
    let what = format!("{directories} directories to watch, {limit} allowed for all programs of a user");
    if directories + OTHERS <= limit {
        return Check::ok("watches", what);
    }
    let wanted = (directories * 2).max(65_536);
    let todo = format!("fs.inotify.max_user_watches={wanted} {RAISE}; without, changes are found by rescanning");
    Check::warn("watches", what, todo)
}

fn instance(limit: u64) -> Check {
    let what = format!("{limit} inotify instances allowed for all programs of a user");
    if limit >= INSTANCES {
        return Check::ok("instances", what);
    }
    Check::warn("instances", what, format!("fs.inotify.max_user_instances=128 {RAISE}"))
}

fn queued(limit: u64) -> Check {
    let what = format!("{limit} events may wait; more at once are found by rescanning");
    if limit >= QUEUE {
        return Check::ok("events", what);
    }
    Check::warn("events", what, format!("fs.inotify.max_queued_events={QUEUE} {RAISE}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Level;

    #[test]
    fn too_few_of_anything_is_warned_of_with_the_figure_to_set() {
        assert_eq!(enough(65_536, 500).level, Level::Ok);
        let short = enough(8_192, 7_000);
        assert_eq!(short.level, Level::Warn);
        assert!(short.todo.unwrap().contains("max_user_watches=65536"));
        assert!(enough(8_192, 50_000).todo.unwrap().contains("max_user_watches=100000"));
        assert_eq!((instance(128).level, instance(8).level), (Level::Ok, Level::Warn));
        assert_eq!((queued(16_384).level, queued(100).level), (Level::Ok, Level::Warn));
    }
}
