use bellwether_proto::{
    revision::{Epoch, Number},
    status::{
        ProcedureState, ProcedureStatus, Progress, Reach, RolloutState, RolloutStatus, SetStatus, UnreadCause,
        UnreadEntry, Writers,
    },
};

use super::*;

pub(crate) fn number(sequence: u64) -> Number {
    Number { epoch: Epoch(1), sequence }
}

/// A server of a farm whose head is 1.42.
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
        output: String::new(),
        progress: None,
        seen_ms: Some(99_000),
        last_update_us: Some(8_340),
        version: Some("0.1.0".into()),
        levels: None,
        kept: Vec::new(),
        kept_ms: None,
        drained: false,
        verified: None,
        balancers: Vec::new(),
        warning: None,
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
        pending: false,
        sets: vec![SetStatus {
            name: "nginx".parse().unwrap(),
            entries: 61,
            notices: Vec::new(),
            unread_entries: 0,
            unread: Vec::new(),
            open: Vec::new(),
            writers: None,
            watching: "events".into(),
        }],
        warnings: Vec::new(),
        quarantined: Vec::new(),
        servers,
        told_ms: None,
        procedures: Vec::new(),
        expelled: None,
        rollout: None,
        batch: None,
        forgets: Vec::new(),
    }
}

/// The rollout of 1.42: one of four members has failed, and the next wave begins in 20 s.
pub(crate) fn rollout(state: RolloutState) -> RolloutStatus {
    RolloutStatus {
        revision: number(42),
        state,
        wave: 2,
        waves: 3,
        members: 4,
        holding: 2,
        late: Vec::new(),
        failed: vec!["web3".parse().unwrap()],
        later: Vec::new(),
        untouched: false,
        confirm_until_ms: None,
        until_ms: Some(120_000),
        reason: Some("web3 failed".into()),
        taken_back: None,
        next: Some("bellwether rollout continue".into()),
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
    assert_eq!(&*shown, expected, "shown:\n{shown}");
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
fn a_warning_stands_beside_the_state_and_a_members_word_says_whose_it_is() {
    let mut status = six();
    status.servers[1].warning =
        Some(bellwether_proto::status::Warning { what: "x\u{1b} asked".into(), time_ms: 40_000, requests: 3 });
    let shown = render(&status, Look::PLAIN);
    assert!(shown.contains("web1    member    in sync") && shown.contains("warning, see below"), "{shown}");
    let line = "web1 · warning: 3 requests came from outside the group, the last (60 s ago): x\\u{1b} asked; once it is \
                explained: `bellwether server acknowledge web1`";
    assert!(shown.contains(line), "{shown}");
    (status.observer, status.told_ms) = ("web1".parse().unwrap(), Some(97_000));
    let shown = render(&status, Look::PLAIN);
    assert!(shown.contains("web1 as it knows itself, the others as the manager, m, told 3 s ago"), "{shown}");
}

#[test]
fn a_message_cannot_steer_the_terminal() {
    let mut status = six();
    status.head_message = "\u{1b}]0;title\u{7}\nx".into();
    status.servers[4].reason = Some("\u{1b}[2J".into());
    status.servers[3].progress = None;
    status.watching = "\u{9b}2J".into();
    status.publish = "\u{202e}otua\u{200b}".into();
    let shown = render(&status, Look::PLAIN);
    for obeyed in ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{200b}'] {
        assert!(!shown.contains(obeyed), "{shown:?}");
    }
    let coloured = render(&status, Look { width: 160, colour: true }).and("\u{1b}[31mred");
    assert_eq!(coloured.matches('\u{1b}').count(), 2 * 6, "only its own: {coloured:?}");
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

/// A procedure for `server`.
pub(crate) fn procedure(state: ProcedureState, server: &str) -> ProcedureStatus {
    ProcedureStatus {
        id: "p7".into(),
        command: format!("sync {server}"),
        driver: "m".parse().unwrap(),
        state,
        step: 3,
        steps: 5,
        what: "the disk is full".into(),
        servers: vec![server.parse().unwrap()],
    }
}

#[test]
fn w21_who_is_out_of_service_is_in_the_head_line_the_table_and_below_with_what_to_do() {
    let drained = ServerStatus { drained: true, ..server("web2", State::InSync, 42) };
    let mut status = farm(vec![server("web1", State::InSync, 42), drained]);
    let text = render(&status, Look::PLAIN);
    for part in
        ["2 servers: 2 in sync · 1 drained ·", " drained\n", "web2 · drained", "`bellwether maintenance finish web2`"]
    {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    // A running procedure brings the server back; a stopped one does not.
    status.procedures = vec![procedure(ProcedureState::Waiting, "web2")];
    assert!(!render(&status, Look::PLAIN).contains("maintenance finish"));
    status.procedures = vec![procedure(ProcedureState::Stopped, "web2")];
    assert!(render(&status, Look::PLAIN).contains("maintenance finish web2"));
    // A disabled server is out of service for that reason.
    status.procedures.clear();
    status.servers[1].role = Role::Disabled;
    assert!(!render(&status, Look::PLAIN).contains("1 drained"));
}

#[test]
fn w8_procedures_that_are_not_over_are_in_the_head_line_and_below() {
    for (state, said) in [
        (ProcedureState::Waiting, "p7 waits"),
        (ProcedureState::Blocked, "p7 is blocked"),
        (ProcedureState::Asks, "p7 asks"),
        (ProcedureState::Stopped, "p7 has stopped"),
    ] {
        let status =
            FarmStatus { procedures: vec![procedure(state, "web2")], ..farm(vec![server("web2", State::InSync, 42)]) };
        let text = render(&status, Look::PLAIN);
        assert!(text.lines().next().unwrap().contains(said), "{said} in:\n{text}");
        let line = format!("p7 · {} · sync web2 · step 3 of 5: the disk is full", state.word());
        assert!(text.contains(&line) && text.contains("`bellwether procedure show p7`"), "{line} in:\n{text}");
    }
}

#[test]
fn servers_that_hold_a_forgotten_content_are_named() {
    let holders = ["a", "b"].map(|name| (name.parse().unwrap(), "it does not answer".to_owned())).to_vec();
    let forget = ForgetStatus { id: 1, place: "web:a.key".into(), holders };
    let servers = vec![server("a", State::Unreachable, 42), server("b", State::Unreachable, 42)];
    let status = FarmStatus { forgets: vec![forget], ..farm(servers) };
    let line = |name: &str| format!("{name} · holds the forgotten content of web:a.key: it does not answer");
    let text = render(&status, Look::PLAIN);
    assert!(text.contains(&line("a")) && text.contains(&line("b")), "{text}");
    let one = render_server(&status, &status.servers[1], Look::PLAIN);
    assert!(one.contains(&line("b")) && !one.contains(&line("a")), "{one}");
}

#[test]
fn w16_a_server_that_is_none_any_more_says_so_first() {
    let status = FarmStatus { expelled: Some("m was removed".into()), ..farm(vec![server("a", State::Unknown, 0)]) };
    let text = render(&status, Look::PLAIN);
    assert!(text.starts_with("m is no server of the group any more · "), "{text}");
    assert!(text.contains("\nm was removed"), "{text}");
}

#[test]
fn one_server_is_shown_with_the_output_of_the_command_that_refused() {
    let mut status = six();
    status.servers[1].state = State::Refused;
    status.servers[1].reason = Some("refused 1.3: set web: validate".into());
    status.servers[1].output = "line 1\nline 2\u{1b}[2J".into();
    let name = status.servers[1].name.clone();
    let shown = render_server(&status, &status.servers[1], Look::PLAIN).to_string();
    for part in ["· refused: refused 1.3: set web: validate", "printed:\n  line 1\n  line 2\\"] {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    let others = status.servers.iter().filter(|server| server.name != name);
    others.for_each(|server| assert!(!shown.contains(&format!("{} ", server.name)), "{shown}"));
}
