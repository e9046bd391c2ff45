use bellwether_proto::{
    revision::Epoch,
    revision::Number,
    status::{Progress, Reach, SetStatus, UnreadCause, UnreadEntry, Writers},
};

use super::*;

pub(crate) fn number(sequence: u64) -> Number {
    Number { epoch: Epoch(1), sequence }
}

/// A line of a farm whose head is 1.42.
pub(crate) fn server(name: &str, state: State, at: u64) -> ServerStatus {
    ServerStatus {
        name: name.parse().unwrap(),
        address: format!("{name}.example:7440"),
        role: if state == State::Disabled { Role::Disabled } else { Role::Member },
        state,
        revision: (at > 0).then(|| number(at)),
        lag_revisions: 42 - at,
        lag_ms: (42 - at) * 1_500,
        reason: None,
        drift: Vec::new(),
        drift_entries: 0,
        held: false,
        waits_for: None,
        progress: None,
        seen_ms: Some(99_000),
        last_update_us: Some(8_340),
        version: Some("0.1.0".into()),
        kept: Vec::new(),
        verified: None,
        balancers: Vec::new(),
    }
}

/// A farm whose head, 1.42, is 12 s old, as its manager sees it.
pub(crate) fn farm(servers: Vec<ServerStatus>) -> FarmStatus {
    FarmStatus {
        observer: "m".parse().unwrap(),
        time_ms: 100_000,
        record: "1.7".into(),
        manager: "m".parse().unwrap(),
        head: Some(number(42)),
        head_time_ms: Some(88_000),
        head_message: "message".into(),
        paused: false,
        publish: "auto".into(),
        watching: "events".into(),
        unpublished: None,
        sets: vec![SetStatus {
            name: "nginx".parse().unwrap(),
            entries: 61,
            watching: "events".into(),
            notices: Vec::new(),
            unread_entries: 0,
            unread: Vec::new(),
            open: Vec::new(),
            writers: None,
        }],
        warnings: Vec::new(),
        servers,
    }
}

fn six() -> FarmStatus {
    let mut syncing = server("web3", State::Syncing, 0);
    syncing.progress = Some(Progress {
        phase: "receiving".into(),
        files: 12,
        files_total: 61,
        bytes: 1_536,
        bytes_total: 1 << 20,
        bytes_per_s: 512,
    });
    let mut gone = server("web5", State::Unreachable, 41);
    gone.reason = Some("connection refused; it catches up by itself".into());
    gone.seen_ms = Some(40_000);
    let mut manager = server("m", State::InSync, 42);
    (manager.role, manager.last_update_us) = (Role::Manager, None);
    let mut unknown = server("web6", State::Unknown, 0);
    unknown.seen_ms = None;
    farm(vec![manager, server("web1", State::InSync, 42), syncing, server("web4", State::Disabled, 2), gone, unknown])
}

#[test]
fn the_whole_of_it() {
    let expected = "\
6 servers: 2 in sync, 1 syncing, 1 unreachable, 1 unknown, 1 disabled · revision 1.42 “message” 12 s ago · auto

server  role      state        revision  lag           update  heard     note
m       manager   in sync      1.42      -             -       1 s ago
web1    member    in sync      1.42      -             8.3 ms  1 s ago
web3    member    syncing      -         42 rev, 63 s  8.3 ms  1 s ago   receiving 12/61 files, 1.5 kB of 1.0 MB, 512 B/s
web4    disabled  disabled     1.2       -             8.3 ms  1 s ago
web5    member    unreachable  1.41      1 rev, 1.5 s  8.3 ms  60 s ago  see below
web6    member    unknown      -         ?             8.3 ms  never

web5 · unreachable: connection refused; it catches up by itself
";
    let shown = render(&six(), Look::PLAIN);
    assert_eq!(shown, expected, "shown:\n{shown}");
}

#[test]
fn it_fits_a_narrow_terminal() {
    for width in [80, 100, 120] {
        let table = render(&six(), Look { width, colour: false });
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= usize::from(width), "{widest} columns of {width}:\n{table}");
        assert!(table.contains("unreachable"), "states are never broken:\n{table}");
    }
}

#[test]
fn colour_changes_nothing_but_the_states() {
    let shown = render(&six(), Look { width: 160, colour: true });
    assert!(shown.contains("\u{1b}[32m● in sync\u{1b}[0m"), "{shown}");
    assert!(shown.contains("\u{1b}[31m● unreachable\u{1b}[0m"), "{shown}");
    assert_eq!(shown.matches('\u{1b}').count(), 2 * 6);
    assert!(!render(&six(), Look::PLAIN).contains('\u{1b}'));
}

#[test]
fn a_message_cannot_steer_the_terminal() {
    let mut status = six();
    status.head_message = "\u{1b}]0;title\u{7}\nx".into();
    status.servers[4].reason = Some("\u{1b}[2J".into());
    let shown = render(&status, Look::PLAIN);
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
}

#[test]
fn everything_wrong_is_said_below() {
    let mut status = six();
    status.paused = true;
    status.unpublished = Some("3 edits; publish is manual: `bellwether publish`".into());
    status.watching = "rescanning only: no watches left".into();
    status.sets[0].notices.push("run/app.sock: a socket is not carried".into());
    let lines = problems(&status);
    for part in ["paused", "unpublished: 3 edits", "no watches left", "set nginx: run/app.sock", "web5 · unreachable"]
    {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:#?}");
    }
    assert!(summary(&status).ends_with("· auto · paused"), "{}", summary(&status));
}

#[test]
fn what_stays_as_it_was_is_named_with_its_reason() {
    let mut status = six();
    let set = &mut status.sets[0];
    let reason = "cannot be read: Input/output error\u{1b}[2J".to_owned();
    set.unread.push(UnreadEntry { path: "conf.d/a.conf".into(), cause: UnreadCause::Unreadable, reason, since_ms: 0 });
    set.unread_entries = 3;
    set.open.push("up.conf".into());
    set.writers = Some(Writers::Unknown);
    let lines = problems(&status);
    for part in [
        "set nginx:conf.d/a.conf: cannot be read: Input/output error",
        "members keep what they have",
        "set nginx: 2 more entries",
        "set nginx:up.conf: published while a program had it open",
        "cannot be told on this file system",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:#?}");
    }
    assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:#?}");
}

#[test]
fn a_members_view_says_so() {
    let mut status = six();
    status.observer = "web1".parse().unwrap();
    assert!(problems(&status).iter().any(|line| line.contains("the manager, m, knows more")));
}

#[test]
fn an_empty_farm_is_an_answer() {
    let mut status = farm(vec![]);
    (status.head, status.head_time_ms) = (None, None);
    assert_eq!(summary(&status), "no servers known yet · nothing published yet · auto");
    status.observer = "web1".parse().unwrap();
    assert_eq!(
        summary(&status),
        "no servers known yet · the head is not known here · auto",
        "a member alone cannot tell"
    );
}

#[test]
fn w24_a_candidate_that_could_not_drain_is_a_problem() {
    let mut candidate = server("web2", State::InSync, 42);
    candidate.balancers = vec![
        Reach { balancer: "lb1".parse().unwrap(), fault: None, time_ms: 99_000 },
        Reach { balancer: "lb2".parse().unwrap(), fault: Some("no\nanswer".into()), time_ms: 95_000 },
    ];
    let lines = problems(&farm(vec![candidate]));
    assert_eq!(lines, ["web2 · balancer lb2: no answer (5 s ago); as manager it could not drain servers there"]);
}
