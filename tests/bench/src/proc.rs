//! The kernel's data of processes: CPU time, peak memory, parents. Values are read from /proc, which shows only the processes
//! in this program's own namespace.

use std::fs;

/// The kernel's USER_HZ: ticks of a second in /proc/PID/stat. It is 100 on every Linux today.
const TICKS: f64 = 100.0;

/// Seconds of CPU that a process and its children (after a wait) have used; none if it is gone.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // utime, stime, cutime, cstime are fields 14 to 17 of proc(5).
    Some(ticks(&stat, 11, 4)? as f64 / TICKS)
}

/// Seconds of CPU of all processes that this program has waited for, with their children.
pub(crate) fn reaped_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&stat, 13, 2).unwrap_or(0) as f64 / TICKS
}

/// The sum of `count` fields after the first `skip` that follow the name.
fn ticks(stat: &str, skip: usize, count: usize) -> Option<u64> {
    Some(fields(stat)?.skip(skip).take(count).filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// The largest resident size that a process has had, in bytes; none if it is gone.
pub(crate) fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Whether a process runs this program's own file: a child that was just started, whose memory is still ours.
pub(crate) fn is_ours(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).ok() == fs::read_link("/proc/self/exe").ok()
}

/// The network of a process, as a number.
pub(crate) fn network(pid: u32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether a process has children, except for ended ones that nobody has waited for.
pub(crate) fn has_children(pid: u32) -> bool {
    all().into_iter().any(|child| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let Some(mut fields) = fields(&stat) else { return false };
        let (state, parent) = (fields.next(), fields.next());
        state != Some("Z") && parent.and_then(|parent| parent.parse().ok()) == Some(pid)
    })
}

/// All processes.
pub(crate) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The fields of /proc/PID/stat from the third on, since the second one, the name, may have any characters.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_is_no_field() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        let fields: Vec<_> = fields(stat).expect("fields").collect();
        assert_eq!((fields[0], fields[1]), ("S", "1"));
        assert_eq!((ticks(stat, 11, 2), ticks(stat, 13, 2), ticks("", 0, 1)), (Some(11 + 12), Some(13 + 14), None));
    }

    #[test]
    fn this_process_is_known() {
        let own = std::process::id();
        assert!(cpu_seconds(own).is_some() && peak_bytes(own) > Some(100_000) && network(own).is_some());
        assert!(all().contains(&own));
        assert_eq!((cpu_seconds(u32::MAX), peak_bytes(u32::MAX)), (None, None));
    }

    #[test]
    fn a_child_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        assert!(has_children(std::process::id()));
        child.kill().and_then(|()| child.wait()).expect("its end");
    }
}
